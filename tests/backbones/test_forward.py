"""The prepared network computes what the backbone computes; a row depends on its own image alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from steps.backbones.backbone import BATCH_NORMS, build, cut_at, features_at, without_top
from steps.backbones.forward import Forward, Mode, cut_names, folded
from steps.commands import origins
from steps.images.preprocessing import normalise
from steps.runtime.params import faults_of
from tests.studies.measure import read_digits

PLAIN = Mode(precision="float32", channels_last=False, fold_norms=False, compiled=False, device="cpu")
FAST = replace(PLAIN, channels_last=True, fold_norms=True)
# One of each family, with how many of its BatchNorms stand right behind a convolution.
FOLDABLE = {
    "resnet18": 20,
    "mobilenet_v3_small": 34,
    "squeezenet1_1": 0,
    "regnet_y_400mf": 53,
    "shufflenet_v2_x0_5": 56,
    "mnasnet0_5": 52,
    "googlenet": 57,
    "densenet121": 59,
    "glyphnet": 7,
}


def backbone(name: str) -> nn.Module:
    """Return a backbone whose BatchNorms have statistics that a network in use might have."""
    torch.manual_seed(0)
    network, _ = without_top(build(name, 10))
    for norm in (module for module in network.modules() if isinstance(module, BATCH_NORMS)):
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return network.eval()


def pixels(n: int, side: int = 64) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(n))


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, BATCH_NORMS) for module in network.modules())


@pytest.mark.parametrize("name", FOLDABLE)
def test_norms_are_folded_where_they_follow_a_convolution_and_nothing_changes_but_rounding(name: str) -> None:
    network, images = backbone(name), pixels(2)
    before = norms(network)
    with torch.no_grad():
        wanted = network(images).flatten(1)
        found = folded(network)(images).flatten(1)
    assert before - norms(network) == FOLDABLE[name]
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_backbone_that_was_cut_is_made_ready_like_any_other() -> None:
    network = cut_at(backbone("resnet18"), "layer2")[0]
    found = Forward(network, ["", "layer1"], FAST, 2)(pixels(2))
    with torch.no_grad():
        wanted = features_at(network, ["", "layer1"])(pixels(2))
    for cut, rows in wanted.items():
        assert torch.allclose(torch.from_numpy(found[cut]), rows, rtol=1e-4, atol=1e-5 * float(rows.abs().max()))


def test_a_convolution_that_feeds_another_layer_too_keeps_its_norm() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.convolution(images)
            return self.norm(maps) + maps  # type: ignore[no-any-return]

    network = Forked().eval()
    nn.init.uniform_(network.norm.running_var, 2, 3)
    with torch.no_grad():
        wanted = network(pixels(1))
        assert torch.equal(folded(network)(pixels(1)), wanted)


def test_making_ready_leaves_the_backbone_as_it_was() -> None:
    network = backbone("resnet18")
    before = {name: (tensor.clone(), tensor.dtype) for name, tensor in network.state_dict().items()}
    Forward(network, ["", "layer2"], replace(FAST, precision="bfloat16"), 4)(pixels(1))
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name][0]) and after[name].dtype == before[name][1] for name in before)


@pytest.mark.parametrize("mode", [PLAIN, FAST, replace(FAST, precision="bfloat16")], ids=["plain", "fast", "bfloat16"])
@pytest.mark.parametrize("name", ["resnet18", "glyphnet"])
def test_a_row_is_the_same_to_the_last_bit_whatever_else_is_in_the_batch(name: str, mode: Mode) -> None:
    forward, images = Forward(backbone(name), [""], mode, 8), pixels(8, 32)
    together = forward(images)[""]
    assert forward(images.flip(0))[""][::-1].tobytes() == together.tobytes()
    for number in (0, 5):
        assert forward(images[number : number + 1])[""].tobytes() == together[number : number + 1].tobytes()


def test_cuts_are_those_of_the_backbone_and_the_whole_is_the_backbones_own_output() -> None:
    network, images = backbone("resnet18"), pixels(3)
    found = Forward(network, ["", "layer3", "layer1"], PLAIN, 3)(images)
    with torch.no_grad():
        wanted = features_at(network, ["", "layer3", "layer1"])(images)
        assert torch.equal(torch.from_numpy(found[""]), network(images))
    assert {cut: rows.shape for cut, rows in found.items()} == {"": (3, 512), "layer3": (3, 256), "layer1": (3, 64)}
    assert all(torch.equal(torch.from_numpy(found[cut]), wanted[cut]) for cut in found)


def test_the_compiled_network_computes_the_same_but_for_rounding() -> None:
    network, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), pixels(3, 16)
    wanted = Forward(network, [""], PLAIN, 4)(images)[""]
    found = Forward(network, [""], replace(FAST, compiled=True), 4)(images)[""]
    assert found.shape == wanted.shape
    assert abs(found - wanted).max() <= 1e-5 * abs(wanted).max()


@pytest.mark.parametrize(
    ("count", "cuts"),
    [
        (1, [""]),
        (2, ["", "layer1"]),
        (3, ["", "layer2", "layer1"]),
        (5, ["", "layer3", "layer2", "layer1", "conv1"]),
        (8, ["", "layer3", "layer2", "layer1", "conv1"]),
    ],
)
def test_cuts_part_the_blocks_evenly_from_the_output_inwards(count: int, cuts: list[str]) -> None:
    assert cut_names(backbone("resnet18"), count) == cuts


def test_faults_name_what_is_offered() -> None:
    assert list(faults_of(Mode, vars(replace(PLAIN, precision="float16", device="tpu")), "mode")) == [
        "mode.precision is 'float16'; one of float32, bfloat16",
        "mode.device is 'tpu'; one of cpu, cuda, mps",
    ]


def test_a_head_on_bfloat16_features_answers_as_one_on_float32_features() -> None:
    card, state = origins.embedded()
    network = build(card.architecture, card.num_classes)
    network.load_state_dict(state)
    network = without_top(network)[0].eval()
    data = read_digits(card.preprocessing)
    train, test = data.draw(10, 0), data.test[:200]
    images = normalise(data.images[np.concatenate([train, test])], card.preprocessing)
    answers = {}
    for mode in (PLAIN, replace(FAST, precision="bfloat16")):
        rows = Forward(network, [""], mode, 100)
        features = np.concatenate([rows(part)[""] for part in images.split(100)])
        head = LogisticRegression(C=0.1, max_iter=1000).fit(features[:100], data.targets[train])
        answers[mode.precision] = head.predict(features[100:])
    assert (answers["float32"] == data.targets[test]).mean() > 0.85
    assert (answers["bfloat16"] == answers["float32"]).mean() >= 0.98
