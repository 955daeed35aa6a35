"""Heat lies where the network looks: planted networks that look at one place, and every kind of architecture."""

import pytest
import torch
from torch import nn

from steps.backbones.activation import heat_of, last_map, tinted
from steps.backbones.backbone import Grafted, build, without_top


class Corner(nn.Module):
    """Class 1 is a bright upper left corner; nothing else of the picture counts."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 1, 4, stride=4, bias=False))
        nn.init.constant_(self.features[0].weight, 1.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images).flatten(1)


def corner_model() -> Grafted:
    head = nn.Linear(16, 2, bias=False)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[1, 0] = 1.0
    return Grafted(Corner(), head)


def test_the_hottest_place_is_the_one_that_is_looked_at() -> None:
    model, images = corner_model(), torch.zeros(1, 3, 16, 16)
    images[:, :, :4, :4] = 1.0
    heat = heat_of(model, "features.0", images, torch.tensor([1]))[0]
    assert heat.shape == (16, 16) and heat.max() == 1 and heat.min() >= 0
    assert heat[:4, :4].mean() > 0.6 and heat[8:, 8:].max() == 0
    assert not heat_of(model, "features.0", images, torch.tensor([0])).any(), "nothing speaks for the other class"
    assert all(not p.requires_grad and p.grad is None for p in model.backbone.parameters()), "nothing was unfrozen"


@pytest.mark.parametrize(
    ("architecture", "side", "block"),
    [
        ("glyphnet", 16, "features.2"),
        ("squeezenet1_1", 64, "features.12"),
        ("vgg11", 64, "features.18"),
        ("densenet121", 64, "features.denseblock4"),
        ("vit_b_16", 32, None),
        ("swin_t", 64, None),
    ],
)
def test_the_last_map_is_found_in_every_kind_of_network(architecture: str, side: int, block: str | None) -> None:
    backbone, width = without_top(build(architecture, 10, side))
    model = Grafted(backbone.eval(), nn.Linear(width, 2))
    found = last_map(model, side)
    assert found == block
    if found:
        heat = heat_of(model, found, torch.rand(2, 3, side, side), torch.tensor([0, 1]))
        assert heat.shape == (2, side, side) and bool(torch.isfinite(heat).all())


def test_a_picture_turns_grey_where_nothing_speaks_and_orange_where_all_does() -> None:
    pixels = torch.tensor([30, 60, 90], dtype=torch.uint8).view(3, 1, 1).expand(3, 1, 2)
    cold, hot = tinted(pixels, torch.tensor([[0.0, 1.0]])).unbind(dim=2)
    assert cold.flatten().tolist() == [60, 60, 60]
    assert hot.flatten().tolist() == [round(0.3 * 60 + 0.7 * c) for c in (255, 140, 0)]
