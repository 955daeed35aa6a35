"""How many labels are wrong: held against labels that were drawn to be so."""

import numpy as np
import pytest
from scipy.special import softmax

from steps.checks.label_errors import noise

CLASSES = 5


def drawn(rng: np.random.Generator, count: int, sharpness: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw answers of a head and labels that follow them at another sharpness; `rate` of them become another's."""
    logits = 2 * rng.normal(size=(count, CLASSES))
    chances = softmax(sharpness * logits, axis=1).cumsum(axis=1)
    labels = np.minimum((rng.random((count, 1)) > chances).sum(axis=1), CLASSES - 1)
    wrong = rng.random(count) < rate
    moved = (labels + rng.integers(1, CLASSES, count)) % CLASSES
    return np.where(wrong, moved, labels), softmax(logits, axis=1)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_the_share_is_what_was_drawn_whatever_the_heads_sharpness(sharpness: float, rate: float) -> None:
    labels, answers = drawn(np.random.default_rng(0), 3000, sharpness, rate)
    found = noise(labels, answers)
    assert found.share == pytest.approx(rate, abs=0.02)
    assert (found.p < 0.001) is (rate > 0)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_right_labels_are_seldom_accused_however_weak_the_head(sharpness: float) -> None:
    sets = [drawn(np.random.default_rng(seed), 150, sharpness, 0.0) for seed in range(40)]
    accused = [found.p < 0.05 and found.share > 0.02 for found in (noise(*one) for one in sets)]
    assert sum(accused) <= 4  # of 40; more than 4 has a chance of 5 % at a rate of 5 %


def test_answers_without_a_doubt_and_a_single_wrong_label_have_a_number() -> None:
    labels = np.arange(100) % CLASSES
    answers = np.eye(CLASSES)[labels]
    assert noise(labels, answers).share == pytest.approx(0, abs=1e-4)
    labels[0] = 1
    assert 0.002 < noise(labels, answers).share < 0.05
