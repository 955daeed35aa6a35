"""What a smaller model costs: a paired difference with its interval, and when it is too much."""

import numpy as np
import pytest
import torch
from torch import nn

from steps.core.exported import Exported, cost, refusals
from steps.core.preprocessing import Preprocessing, normalise

SPEC = Preprocessing(
    resize=8, crop=8, interpolation="bilinear", antialias=True, colour_order="BGR", value_range=(-1.0, 1.0),
    mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7),
)  # fmt: skip


def answers(right: list[bool]) -> np.ndarray:
    """Return probabilities of two classes that are right where it says so, the target being class 1."""
    return np.array([[0.2, 0.8] if one else [0.7, 0.3] for one in right])


def test_an_exported_model_normalises_and_calibrates() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        logits, probabilities = Exported(network, SPEC, 2.5)(pixels)
        wanted = network(normalise(pixels, SPEC)) / 2.5
    assert torch.allclose(logits, wanted) and torch.allclose(probabilities, wanted.softmax(dim=1))


def test_the_cost_is_the_paired_difference_of_the_accuracies() -> None:
    targets = np.ones(100, dtype=int)
    found = cost(targets, answers([True] * 90 + [False] * 10), answers([True] * 80 + [False] * 20), 0.95)
    assert (found.before, found.after, found.loss) == (0.9, 0.8, pytest.approx(0.1))
    assert 0 < found.low < 0.1 < found.high
    assert refusals(found, 0.2) == [
        f"accuracy 0.800 instead of 0.900, a loss of 0.100, and the interval ({found.low:.3f} to {found.high:.3f}) "
        "says that it is no luck"
    ]
    assert len(refusals(found, 0.05)) == 2


def test_models_that_never_differ_cost_nothing_and_the_interval_keeps_a_width() -> None:
    same = answers([True] * 40 + [False] * 10)
    found = cost(np.ones(50, dtype=int), same, same, 0.95)
    assert found.loss == 0 and -0.06 < found.low < 0 < found.high < 0.06
    assert refusals(found, 0.0) == []


def test_the_interval_covers_what_it_claims() -> None:
    """5 in 100 images lost, 2 won: over many test sets, about 95 % of the intervals hold the loss of 0.03."""
    luck = np.random.default_rng(0)
    targets = np.ones(300, dtype=int)
    held = 0
    for _ in range(400):
        kind = luck.choice(4, size=300, p=[0.05, 0.02, 0.83, 0.10])
        found = cost(targets, answers(list((kind == 0) | (kind == 2))), answers(list((kind == 1) | (kind == 2))), 0.95)
        held += found.low <= 0.03 <= found.high
    assert 0.93 <= held / 400 <= 0.985
