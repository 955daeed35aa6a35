"""FLOPs against the arithmetic of the layers."""

import pytest
from torchvision.models import list_models

from steps.backbones.cost import block_flops


def test_the_blocks_of_a_squeezenet_cost_what_their_convolutions_multiply() -> None:
    found = block_flops("squeezenet1_1", 10, 224)
    assert found["features.0"] == 2 * 111 * 111 * 64 * 3 * 3 * 3
    squeeze, expand = 16 * 64, 64 * 16 + 64 * 16 * 9
    assert found["features.3"] == 2 * 55 * 55 * (squeeze + expand)
    assert len(found) == 9


def test_what_is_cut_off_costs_nothing() -> None:
    whole = block_flops("squeezenet1_1", 10, 224)
    assert block_flops("squeezenet1_1", 10, 224, "features.3") == {name: whole[name] for name in list(whole)[:2]}


def test_a_larger_picture_costs_more_and_the_number_of_classes_nothing() -> None:
    small, large = block_flops("resnet18", 10, 64), block_flops("resnet18", 1000, 128)
    assert sum(large.values()) == pytest.approx(4 * sum(small.values()), rel=0.01)


@pytest.mark.parametrize(
    "name", [n for n in list_models() if n in ("vit_b_16", "swin_t", "vgg11", "densenet121", "regnet_y_800mf")]
)
def test_hardly_any_block_of_other_families_is_free(name: str) -> None:
    found = block_flops(name, 10, 224)
    assert sum(cost == 0 for cost in found.values()) <= 2
    assert sum(found.values()) > 1e9
