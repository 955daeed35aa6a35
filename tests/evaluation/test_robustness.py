"""Pictures are made worse by a known amount, and the answers to them counted."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steps.evaluation.robustness import CORRUPTIONS, STRENGTHS, corrupted, look
from steps.runtime.seeding import torch_generator
from tests.made import spec

SPEC = spec(32, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
EDGES = torch.full((6, 3, 32, 32), 90, dtype=torch.uint8)
EDGES[:, :, :, 16:] = 150
TEXTURE = torch.randint(30, 226, EDGES.shape, generator=torch_generator(0, "texture"), dtype=torch.uint8)


class Light(nn.Module):
    """Answers 1 where a picture is bright on average, 0 where it is dark."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        light = pixels.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - light, light - 0.5], dim=1)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_strong_is_further_from_the_picture_than_mild_and_both_are_pictures(kind: str) -> None:
    mild, strong = (corrupted(TEXTURE, kind, strength, torch_generator(0, kind)) for strength in STRENGTHS)
    for shown in (mild, strong):
        assert (shown.dtype, shown.shape) == (torch.uint8, EDGES.shape)
    far = [(shown.float() - TEXTURE).abs().mean().item() for shown in (mild, strong)]
    assert 0 < far[0] < far[1]


def test_each_corruption_does_what_its_name_says() -> None:
    rng = torch_generator(0)
    noise = (corrupted(EDGES, "noise", "mild", rng).float() - EDGES).std().item()
    assert noise == pytest.approx(0.08 * 255, rel=0.05)
    assert corrupted(EDGES, "darker", "mild", rng)[0, 0, 0, 0] == 54
    assert corrupted(EDGES, "brighter", "mild", rng)[0, 0, 0, 0] == 126
    steepest = [
        (shown[..., 1:].float() - shown[..., :-1].float()).max()
        for shown in (EDGES, corrupted(EDGES, "blur", "mild", rng), corrupted(EDGES, "blur", "strong", rng))
    ]
    assert steepest[0] > steepest[1] > steepest[2]


def test_five_copies_of_a_picture_in_one_group_tell_no_more_than_one() -> None:
    levels = torch.tensor([10, 60, 110, 140, 160, 250])
    pixels, targets = levels.view(-1, 1, 1, 1).expand(6, 3, 32, 32).to(torch.uint8), np.array([0, 0, 1, 1, 1, 1])

    def width(copies: int, cluster: Any) -> float:
        shown, truth = pixels.repeat_interleave(copies, 0), np.repeat(targets, copies)
        found = look(Light(), shown, truth, cluster, SPEC, torch_generator(0), 10, 0.95).rows[0].accuracy
        assert found.value == 5 / 6
        return float(found.high - found.low)

    once, blind = width(1, np.arange(6)), width(5, np.arange(30))
    assert blind < 0.6 * once <= 0.6 * width(5, np.repeat(np.arange(6), 5))


def test_accuracy_and_agreement_are_those_of_the_answers() -> None:
    levels = torch.tensor([10, 60, 110, 140, 160, 250])
    pixels = levels.view(-1, 1, 1, 1).expand(6, 3, 32, 32).to(torch.uint8)
    targets = np.array([0, 0, 1, 1, 1, 1])
    told = look(Light(), pixels, targets, np.arange(6), SPEC, torch_generator(0), 4, 0.95)
    found = {(row.kind, row.strength): row for row in told.rows}
    assert len(found) == 1 + 2 * len(CORRUPTIONS)
    assert found["as they are", ""].accuracy.value == 5 / 6
    assert found["darker", "strong"].accuracy.value == 2 / 6  # 250 becomes 75: all are dark
    assert found["darker", "strong"].agreement == 3 / 6
    assert found["brighter", "mild"].accuracy.value == 1.0  # 110 becomes 154
    assert found["brighter", "mild"].agreement == 5 / 6
    again = look(Light(), pixels, targets, np.arange(6), SPEC, torch_generator(0), 2, 0.95)
    assert (told.images, told.worst) == (6, found["darker", "strong"])
    assert again == told, "neither batches nor another call change them"
