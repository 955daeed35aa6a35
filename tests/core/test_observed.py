"""What was done to a picture, and whether the weights know such inputs, is told from tensors alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from steps.adapters import backbones
from steps.core.backbone import build
from steps.core.observed import (
    Account,
    activation_distance,
    activation_distances,
    by_block,
    done,
    input_distance,
    nearest,
    on_grid,
    undone,
)
from steps.core.preprocessing import Preprocessing, preprocess
from steps.embedded import digits

SPEC = Preprocessing(
    resize=20, crop=16, interpolation="bilinear", antialias=True, colour_order="RGB", value_range=(0.0, 1.0),
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))


def colours(seed: int = 0) -> torch.Tensor:
    """Return eight pictures with structure, as the loader makes them."""
    generator = np.random.default_rng(seed)
    made = [Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 30)) for _ in range(8)]
    return torch.stack([preprocess(picture, SPEC) for picture in made])


def accounts(came: torch.Tensor) -> dict[str, Account]:
    return {
        name: Account(on_grid(x, SPEC), input_distance(x, SPEC, None), None) for name, x in undone(came, SPEC).items()
    }


FAULTS = {
    "as declared": lambda x: x,
    "not scaled": lambda x: ((x * STD + MEAN) * 255 - MEAN) / STD,
    "scaled twice": lambda x: ((x * STD + MEAN) / 255 - MEAN) / STD,
    "not normalised": lambda x: x * STD + MEAN,
    "normalised twice": lambda x: (x - MEAN) / STD,
    "colour order swapped": lambda x: x.flip(1),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_that_was_made_is_the_one_that_is_named(fault: str, seed: int) -> None:
    assert done(accounts(FAULTS[fault](colours(seed)))) == fault


def test_another_mean_is_noticed_though_no_account_of_the_list_explains_it() -> None:
    assert done(accounts(colours() + 0.1)).startswith("something else")


def test_the_distance_of_inputs_is_zero_at_the_sources_own_statistics_and_grows_with_the_fault() -> None:
    came = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 + 1
    source = {"mean": ((1 * STD + MEAN).flatten()).tolist(), "std": (2 * STD).flatten().tolist()}
    assert input_distance(came, SPEC, source) == pytest.approx(0, abs=1e-3)
    assert input_distance(came, SPEC, None) == pytest.approx(-np.log(2) + (4 + 1 - 1) / 2, abs=0.05)


@pytest.fixture(scope="module")
def glyphnet() -> tuple[nn.Module, torch.Tensor, Preprocessing]:
    card, state = backbones.embedded()
    network = build(card.architecture, card.num_classes)
    network.load_state_dict(state)
    pixels, _ = digits.pixels()
    pictures = [Image.fromarray(image).convert("RGB") for image in pixels[:32]]
    return network.eval(), torch.stack([preprocess(p, card.preprocessing) for p in pictures]), card.preprocessing


def test_batch_norm_knows_its_own_inputs_best(glyphnet: tuple[nn.Module, torch.Tensor, Preprocessing]) -> None:
    network, came, spec = glyphnet
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = {name: Account(None, 0.0, activation_distance(network, x)) for name, x in undone(came, spec).items()}
    assert nearest(found) == "as declared"
    raw = came * spec.std[0] + spec.mean[0]  # the weights were trained on normalised inputs; these are not
    wrong = {name: Account(None, 0.0, activation_distance(network, x)) for name, x in undone(raw, spec).items()}
    assert nearest(wrong) == "not normalised"
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_block_lies_as_far_from_its_source_as_its_batch_norms_do() -> None:
    network, spread = build("resnet18", 2), 3.0
    came = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = network.conv1(came)
        network.bn1.running_mean.copy_(first.mean((0, 2, 3)))
        network.bn1.running_var.copy_(first.var((0, 2, 3)) * spread**2)
    found = by_block(network, activation_distances(network.eval(), came))
    assert list(found)[:5] == ["conv1", "layer1", "layer2", "layer3", "layer4"], "the input's side first"
    assert found["conv1"] == pytest.approx(np.log(spread) + (spread**-2 - 1) / 2, rel=1e-3), "of two Gaussians"
    each = activation_distances(network, came)
    norms = [f"layer1.{block}.bn{norm}" for block in (0, 1) for norm in (1, 2)]
    assert found["layer1"] == pytest.approx(np.mean([each[norm] for norm in norms]))
    assert np.mean([*each.values()]) == pytest.approx(activation_distance(network, came))


def test_a_backbone_without_batch_norm_knows_nothing_of_its_source() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    assert by_block(network, activation_distances(network, colours())) == {"0": None, "1": None}


def test_a_backbone_without_batch_norm_accuses_nobody() -> None:
    assert activation_distance(nn.Conv2d(3, 4, 1), colours()) is None
    assert nearest({"as declared": Account(1.0, 0.0, None), "not scaled": Account(0.0, 0.0, None)}) == "as declared"
