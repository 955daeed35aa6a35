"""timm's networks are built, cut, divided, halved and rebuilt as torchvision's are, and compute what timm's do."""

import pytest
import timm
import torch
from torch import nn

from steps.backbones import models
from steps.backbones.activation import last_map
from steps.backbones.backbone import (
    Grafted,
    blocks,
    build,
    cut_at,
    digest,
    features_at,
    last_blocks,
    top_of,
    without_top,
)
from steps.backbones.cost import block_flops
from steps.backbones.forward import folded
from tests.made import spec

# name of timm's, side of its pictures, top, width of the features, number of blocks, the first two and the last one
FAMILIES = [
    ("resnet18", 64, "fc", 512, 5, ("conv1", "layer1", "layer4")),
    ("mobilenetv3_small_100", 64, "classifier", 1024, 8, ("conv_stem", "blocks.0", "conv_head")),
    ("efficientnet_b0", 64, "classifier", 1280, 8, ("conv_stem", "blocks.0", "blocks.6")),
    ("vit_tiny_patch16_224", 224, "head", 192, 13, ("patch_embed", "blocks.0", "blocks.11")),
    ("convnext_atto", 64, "head.fc", 320, 6, ("stem", "stages.0", "head")),
    ("regnety_002", 64, "head.fc", 368, 5, ("stem", "s1", "s4")),
    ("darknet17", 64, "head.fc", 1024, 6, ("stem", "stages.0", "stages.4")),
    ("cs3darknet_s", 64, "head.fc", 512, 5, ("stem", "stages.0", "stages.3")),
    ("swin_tiny_patch4_window7_224", 224, "head.fc", 768, 6, ("patch_embed", "layers.0", "norm")),
    ("test_vit", 160, "head", 64, 7, ("patch_embed", "blocks.0", "blocks.5")),  # looks at sizes
    ("cait_xxs24_224", 224, "head", 192, 25, ("patch_embed", "blocks.0", "blocks.23")),  # a token enters late
]
each_family = pytest.mark.parametrize(("name", "side"), [(name, side) for name, side, *_ in FAMILIES])


def whole(name: str, side: int, classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return build(f"timm:{name}", classes, side).eval()


def body(name: str, side: int) -> nn.Module:
    return without_top(whole(name, side))[0].eval()


def pictures(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "side", "top", "width", "count", "some"), FAMILIES)
def test_the_blocks_are_timms_groups_of_layers(
    name: str, side: int, top: str, width: int, count: int, some: tuple[str, ...]
) -> None:
    network = whole(name, side)
    assert top_of(network) == top
    backbone, found = without_top(network)
    names = list(blocks(backbone))
    assert (found, len(names), (*names[:2], names[-1])) == (width, count, some)
    tensors = [tensor for held in blocks(backbone).values() for tensor in held]
    assert sorted(tensors) == sorted(backbone.state_dict())


@each_family
def test_the_features_are_those_of_timm_to_the_bit(name: str, side: int) -> None:
    backbone, images = body(name, side), pictures(side)
    options = {"img_size": side} if name.startswith(("vit", "swin")) else {}
    theirs = timm.create_model(name, num_classes=0, **options).eval()
    theirs.load_state_dict(backbone.state_dict())
    names = list(blocks(backbone))
    with torch.inference_mode():
        expected = theirs(images)
        assert torch.equal(backbone(images), expected)
        assert torch.equal(features_at(backbone, [names[1], ""])(images)[""], expected)
        assert torch.allclose(folded(body(name, side))(images), expected, atol=1e-4, rtol=1e-3)


@each_family
def test_a_cut_network_holds_its_blocks_alone_and_computes_the_same(name: str, side: int) -> None:
    backbone, images = body(name, side), pictures(side)
    names = list(blocks(backbone))
    with torch.inference_mode():
        at_once = features_at(backbone, names)(images)
    for cut in (names[0], names[len(names) // 2]):
        network, width = cut_at(body(name, side), cut)
        kept = list(blocks(network))
        assert kept == names[: names.index(cut) + 1]
        with torch.inference_mode():
            features = network(images)
        assert features.shape == (2, width) and torch.equal(features, at_once[cut])


@pytest.mark.parametrize(
    ("name", "side"), [(name, side) for name, side, *_ in FAMILIES if name[:4] not in ("swin", "cait")]
)
def test_the_halves_compute_what_the_whole_does_and_only_the_chosen_blocks_learn(name: str, side: int) -> None:
    backbone, images = body(name, side), pictures(side)
    chosen = last_blocks(backbone, 2)
    model = Grafted(backbone, nn.Linear(cut_at(backbone, "")[1], 3), chosen).eval()
    first, rest = model.halves()
    with torch.inference_mode():
        assert torch.equal(rest(first(images)), model(images))
    before = digest(model.frozen_state())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model(images).square().sum().backward()
    optimizer.step()
    assert digest(model.frozen_state()) == before
    assert {name for name, p in model.backbone.named_parameters() if p.grad is not None} == {
        name for name, p in model.backbone.named_parameters() if any(name in blocks(backbone)[b] for b in chosen)
    }


@pytest.mark.parametrize(("name", "side"), [("resnet18", 64), ("vit_tiny_patch16_224", 224), ("convnext_atto", 64)])
def test_a_cut_network_is_rebuilt_from_its_tensors_to_the_bit(name: str, side: int) -> None:
    cut = list(blocks(body(name, side)))[-2]
    network, width = cut_at(body(name, side), cut)
    model = Grafted(network, nn.Linear(width, 3)).eval()
    again = models.rebuild(f"timm:{name}", 7, side, model.state_dict(), cut)
    with torch.inference_mode():
        assert torch.equal(again(pictures(side)), model(pictures(side)))


def test_the_blocks_share_the_operations_of_the_network() -> None:
    flops = block_flops("timm:efficientnet_b0", 1000, 224)
    assert 0.75e9 < sum(flops.values()) < 0.85e9  # 0.39 GMACs (Tan and Le 2019, table 2), two operations each
    assert flops["blocks.6"] > block_flops("timm:efficientnet_b0", 1000, 224)["conv_stem"], "conv_head counts in it"


def test_a_network_from_scratch_is_timms_own_initialisation() -> None:
    card = models.Card(
        name="timm:resnet18",
        architecture="timm:resnet18",
        num_classes=1000,
        sha256="",
        source="",
        licence="",
        preprocessing=spec(64, 64),
        input_statistics=None,
        notes={},
    )
    model = models.from_scratch(card, 3, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(model.backbone.conv1.weight, timm.create_model("resnet18").conv1.weight)
    assert model.trainable == tuple(blocks(model.backbone))


def test_a_network_of_maps_shows_where_it_looks() -> None:
    assert last_map(Grafted(body("resnet18", 64), nn.Linear(512, 3)), 64) == "layer4"
