"""What was written is what is read; weights that are not the pinned ones are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steps.backbones import models
from steps.backbones.backbone import Grafted, build, digest, last_blocks, without_top
from steps.backbones.models import Card
from steps.errors import IntegrityError, RequestError
from steps.images.preprocessing import Preprocessing
from steps.runtime import files

SPEC = Preprocessing(
    resize=64,
    crop=56,
    interpolation="bicubic",
    antialias=False,
    colour_order="BGR",
    value_range=(-1.0, 1.0),
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 2.0, 3.0),
)


def write_backbone(folder: Path, architecture: str = "squeezenet1_1", classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    whole = build(architecture, classes)
    files.write_tensors(folder / models.WEIGHTS, whole.state_dict())
    card = Card(
        name="mine",
        architecture=architecture,
        num_classes=classes,
        sha256=files.sha256_of(folder / models.WEIGHTS),
        source="a test",
        licence="MIT",
        preprocessing=SPEC,
        input_statistics={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]},
        notes={"epochs": 3, "é": [1, None]},
    )
    models.write_card(folder, card)
    return whole


def write_head(folder: Path, width: int, cut: str = "") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{kind}.{name}": torch.randn(shape, generator=generator)
        for kind in ("train_only", "refitted")
        for name, shape in (("weight", (2, width)), ("bias", (2,)))
    }
    files.write_tensors(folder / models.WEIGHTS, tensors)
    files.write_json(folder / models.FACTS, {"cut": cut})
    return tensors


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    card = models.read_card(tmp_path)
    assert card.preprocessing == SPEC
    assert (card.name, card.num_classes, card.notes) == ("mine", 3, {"epochs": 3, "é": [1, None]})
    models.write_card(tmp_path / "again", card)
    assert (tmp_path / "again" / models.CARD).read_bytes() == (tmp_path / models.CARD).read_bytes()
    unknown = replace(card, input_statistics=None)
    models.write_card(tmp_path / "again", unknown)
    assert models.read_card(tmp_path / "again") == unknown


def test_numbers_written_without_a_decimal_point_are_the_same_preprocessing(tmp_path: Path) -> None:
    plain = {**SPEC.to_dict(), "value_range": [-1, 1], "std": [1, 2, 3]}
    files.write_json(tmp_path / "p.json", plain)
    found = models.read_preprocessing(tmp_path / "p.json")
    assert found == SPEC
    assert str(found) == str(SPEC)


def test_the_backbone_is_the_pinned_network_without_its_top(tmp_path: Path) -> None:
    whole = write_backbone(tmp_path)
    card, network, width = models.load_backbone(tmp_path)
    wanted, wanted_width = without_top(whole)
    assert (card.architecture, width) == ("squeezenet1_1", wanted_width)
    assert digest(network.state_dict()) == digest(wanted.state_dict())
    assert not any(module.training for module in network.modules())


def test_every_load_is_a_copy_of_its_own(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    _, one, _ = models.load_backbone(tmp_path)
    before = digest(one.state_dict())
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1)
    _, two, _ = models.load_backbone(tmp_path)
    assert digest(two.state_dict()) == before


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, lambda path: path.write_bytes(path.read_bytes()[:-4]), lambda path: path.write_bytes(b"")],
    ids=["a bit", "the end", "everything"],
)
def test_changed_weights_are_refused_before_they_are_read(tmp_path: Path, damage: Any) -> None:
    write_backbone(tmp_path)
    pinned = models.read_card(tmp_path).sha256
    damage(tmp_path / models.WEIGHTS)
    found = files.sha256_of(tmp_path / models.WEIGHTS)
    sentence = f"the weights of mine have digest {found[:12]}, its card pins {pinned[:12]}"
    with pytest.raises(IntegrityError, match=sentence):
        models.load_backbone(tmp_path)


def test_both_heads_are_kept_apart(tmp_path: Path) -> None:
    tensors = write_head(tmp_path, 5)
    for refitted, prefix in ((True, "refitted"), (False, "train_only")):
        layer = models.load_head(tmp_path, refitted)
        assert torch.equal(layer.weight, tensors[f"{prefix}.weight"])
        assert torch.equal(layer.bias, tensors[f"{prefix}.bias"])


@pytest.mark.parametrize(("cut", "width"), [("", 512), ("features.8", 384)])
def test_the_head_model_is_the_backbone_with_the_refitted_head_all_of_it_frozen(
    tmp_path: Path, cut: str, width: int
) -> None:
    write_backbone(tmp_path / "backbone", "squeezenet1_0")
    tensors = write_head(tmp_path / "head", width, cut)
    model = models.load_head_model(tmp_path / "backbone", tmp_path / "head")
    _, network, _ = models.load_backbone(tmp_path / "backbone", cut)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = network(images).flatten(1) @ tensors["refitted.weight"].T + tensors["refitted.bias"]
        torch.testing.assert_close(model(images), wanted)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert not any(module.training for module in model.modules())


def test_a_cut_backbone_holds_the_pinned_tensors_of_the_blocks_it_keeps(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    _, whole, _ = models.load_backbone(tmp_path)
    _, network, width = models.load_backbone(tmp_path, "features.6")
    kept = {name: tensor for name, tensor in whole.state_dict().items() if int(name.split(".")[1]) <= 6}
    assert width == 256
    assert digest(network.state_dict()) == digest(kept)
    assert not any(module.training for module in network.modules())
    with pytest.raises(RequestError, match=r"no block 'features.99'; its blocks are features.0, "):
        models.load_backbone(tmp_path, "features.99")


@pytest.mark.parametrize(
    ("architecture", "cut"),
    [("squeezenet1_1", ""), ("mobilenet_v3_small", "features.9"), ("glyphnet", ""), ("glyphnet", "features.1")],
)
def test_a_fine_tuned_network_comes_back_to_the_bit(tmp_path: Path, architecture: str, cut: str) -> None:
    write_backbone(tmp_path / "backbone", architecture)
    _, network, width = models.load_backbone(tmp_path / "backbone", cut)
    model = Grafted(network, nn.Linear(width, 2), last_blocks(network, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    files.write_tensors(tmp_path / "tuned" / models.WEIGHTS, model.state_dict())
    files.write_json(tmp_path / "tuned" / models.FACTS, {"cut": cut})
    back = models.load_fine_tuned(tmp_path / "backbone", tmp_path / "tuned")
    assert digest(back.state_dict()) == digest(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(back(images), model.eval()(images))
    assert not any(module.training for module in back.modules())
