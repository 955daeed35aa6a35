"""Intervals against formulas by hand, against draws from a known truth, and against what groups do to them."""

import math
import time
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from steps.evaluation import f1_draws
from steps.evaluation.intervals import area, macro_f1, mean_of_losses, mean_of_shares, sampled, share, smoothed
from steps.runtime.figure import Figure
from steps.training.metrics import proportion

Floats = np.ndarray[Any, np.dtype[np.float64]]


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def held(found: Figure, truth: float) -> bool:
    return bool(found.low <= truth <= found.high)


def test_the_mean_of_many_losses_has_the_textbooks_interval() -> None:
    targets = np.repeat([0, 1], [1500, 2500])
    values = seeded().gamma(2.0, size=4000) * (1 + targets)
    error = math.sqrt(sum(values[targets == k].var(ddof=1) * (targets == k).sum() for k in (0, 1))) / 4000
    found = mean_of_losses(values, 5.0, math.inf, sampled(targets), 0.95)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.05 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_a_loss_made_up_of_a_few_wrong_answers_lies_in_its_interval() -> None:
    """A bootstrap-t holds it in fewer than nine sets of ten."""
    rng, targets = seeded(5), np.repeat(np.arange(20), 5)
    wrong = rng.random((1000, 100)) < 0.02
    sets = np.where(wrong, math.log(2) + rng.exponential(1.0, wrong.shape), rng.exponential(0.03, wrong.shape))
    truth = 0.02 * (math.log(2) + 1) + 0.98 * 0.03
    sample = sampled(targets)
    assert np.mean([held(mean_of_losses(values, 1.7, 708.0, sample, 0.95), truth) for values in sets]) >= 0.93


def test_balanced_accuracy_of_many_small_classes_lies_in_its_interval() -> None:
    """Limits of each class, added in squares, hold it in 87 sets of a hundred."""
    sets, targets = seeded(6).random((1000, 100)) < 0.98, np.repeat(np.arange(20), 5)
    assert np.mean([held(mean_of_shares(right, targets, np.arange(100), 0.95), 0.98) for right in sets]) >= 0.93


def test_an_area_in_groups_of_which_few_hold_an_error_lies_in_its_interval() -> None:
    """With the quantile of all 40 groups, 88 sets of a hundred."""
    rng, targets, groups, far = seeded(7), np.repeat([0, 1], 200), np.repeat(np.arange(40), 10), 2.05
    found = []
    for _ in range(500):
        score = far * (2 * targets - 1) + (rng.normal(size=40)[groups] + rng.normal(size=400)) / math.sqrt(2)
        chances = 1 / (1 + np.exp(-score))
        found.append(area(targets, np.stack([1 - chances, chances], axis=1), groups, 0.95))
    truth = NormalDist().cdf(far * math.sqrt(2))
    assert np.mean([held(one, truth) for one in found]) >= 0.93


def two_classes_in_groups(groups: Floats, rng: np.random.Generator) -> Figure:
    """The area of 200 images, the second half of class 1, whose groups share half of their noise; the truth: 0.921."""
    targets = np.repeat([0, 1], 100)
    score = 2 * targets - 1 + (rng.normal(size=200)[groups] + rng.normal(size=200)) / math.sqrt(2)
    chances = 1 / (1 + np.exp(-score))
    return area(targets, np.stack([1 - chances, chances], axis=1), groups, 0.95)


def test_an_area_whose_classes_are_one_group_each_is_as_sure_as_one_image() -> None:
    found = two_classes_in_groups(np.repeat([0, 1], 100), seeded(8))
    sure = proportion(1, 1, 0.95)
    assert 0.6 < found.value < 1 and (found.low, found.high) == (sure.low, sure.high)


@pytest.mark.parametrize("sizes", [[100, 50, 50], [50, 50, 50, 50]])
def test_an_area_of_three_or_four_groups_lies_in_its_interval(sizes: list[int]) -> None:
    """With class means that cost no degree of freedom, in 74 and in 86 sets of a hundred."""
    rng, groups = seeded(9), np.repeat(np.arange(len(sizes)), sizes)
    truth = NormalDist().cdf(math.sqrt(2))
    assert np.mean([held(two_classes_in_groups(groups, rng), truth) for _ in range(500)]) >= 0.93


def test_groups_whose_means_are_alike_show_no_spread_by_rounding() -> None:
    targets, groups = np.repeat([0, 1], 30), np.repeat(np.arange(20), 3)
    chances = np.tile([0.1, 0.3, 0.7], 20) + 0.2 * targets
    found = area(targets, np.stack([1 - chances, chances], axis=1), groups, 0.95)
    assert found.low < found.value - 0.1 and found.high > found.value + 0.05


def test_one_group_a_class_tells_as_much_as_one_image_of_it() -> None:
    targets = np.repeat(np.arange(10), 20)
    right = np.arange(200) % 20 > 0
    found = mean_of_shares(right, targets, targets, 0.95)
    plain = mean_of_shares(right, targets, np.arange(200), 0.95)
    assert found.high - found.low > 2 * (plain.high - plain.low)
    sure = macro_f1(targets, targets, 10, targets, 0.95, 500, seeded())
    assert sure.low < macro_f1(targets, targets, 10, np.arange(200), 0.95, 500, seeded()).low - 0.05


def test_every_image_five_times_over_in_groups_tells_no_more_than_once() -> None:
    targets, values = np.arange(60) % 2, seeded().gamma(1.0, size=60)
    groups, copies = np.repeat(np.arange(60), 5), np.repeat(values, 5)
    once = mean_of_losses(values, 0.0, math.inf, sampled(targets), 0.95)
    fivefold = mean_of_losses(copies, 0.0, math.inf, sampled(np.repeat(targets, 5), groups), 0.95)
    blind = mean_of_losses(copies, 0.0, math.inf, sampled(np.repeat(targets, 5)), 0.95)
    width = once.high - once.low
    assert fivefold.high - fivefold.low == pytest.approx(width)
    assert blind.high - blind.low < 0.6 * width, "without groups the copies pass for evidence"

    right = values < 1.2
    plain = proportion(int(right.sum()), 60, 0.95)
    grouped = share(np.repeat(right, 5), groups, 0.95)
    assert (grouped.low, grouped.high) == pytest.approx((plain.low, plain.high), abs=0.005)


def test_groups_that_are_never_wrong_do_not_pass_for_that_many_images() -> None:
    found = share(np.ones(100, dtype=bool), np.repeat(np.arange(10), 10), 0.95)
    assert found.low == pytest.approx(proportion(10, 10, 0.95).low)


def test_a_group_of_two_classes_leaves_one_stratum() -> None:
    assert len(sampled(np.array([0, 0, 1, 1])).strata) == 2
    assert len(sampled(np.array([0, 0, 1, 1]), np.array(["a", "b", "b", "c"])).strata) == 1
    assert len(sampled(np.array([0, 0, 1])).strata) == 1, "a class of one image has no spread of its own"


def test_losses_all_alike_have_no_interval() -> None:
    found = mean_of_losses(np.full(20, 0.3), 1.0, math.inf, sampled(np.arange(20) % 2), 0.95)
    assert (found.value, found.low, found.high) == (pytest.approx(0.3), None, None)


def test_an_upper_end_that_no_mean_exceeds_is_none() -> None:
    """Two groups, five of a hundred answers wrong at 0.999: t of one degree of freedom, and the exponential of it."""
    wrong = np.arange(100) < 5
    losses = np.where(wrong, -math.log(0.001), -math.log(0.999))
    sample = sampled(np.arange(100) % 2, np.repeat(["a", "b"], 50))
    found = mean_of_losses(losses, 7.0, 708.0, sample, 0.95)
    assert 0 <= found.low < found.value == pytest.approx(losses.mean()) and found.high is None
    assert mean_of_losses(np.where(wrong, 2.0, 0.0), 2.0, 2.0, sample, 0.95).high is None
    near = mean_of_losses(1 + 0.001 * np.arange(100), 1.2, 2.0, sample, 0.95)
    assert near.high is None or near.value < near.high < 2


def test_each_stratum_costs_a_degree_of_freedom() -> None:
    """Two classes of two images, alike in spread: Student's t of 2, and not of 3."""
    found = mean_of_losses(np.array([1.0, 1.2, 2.0, 2.2]), 0.0, math.inf, sampled(np.array([0, 0, 1, 1])), 0.95)
    spread = math.sqrt(4 * 2 * 0.1**2) / 4 / 1.6
    assert math.log(found.high / 1.6) == pytest.approx(4.302653 * spread)
    assert math.log(1.6 / found.low) == pytest.approx(4.302653 * spread)


def test_balanced_accuracy_of_one_class_is_its_share_and_narrows_with_more_images() -> None:
    right = seeded().random(400) < 0.9
    targets, cluster = np.arange(400) % 2, np.arange(400)
    few = mean_of_shares(right[:100], targets[:100], cluster[:100], 0.95)
    many = mean_of_shares(right, targets, cluster, 0.95)
    assert many.value == pytest.approx(np.mean([right[targets == k].mean() for k in (0, 1)]))
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_area_and_f1_are_scikit_learns_and_inside_their_intervals() -> None:
    targets = np.arange(150) % 3
    logits = seeded().normal(size=(150, 3)) + 1.2 * np.eye(3)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    curve = area(targets, probabilities, np.arange(150), 0.95)
    assert curve.value == pytest.approx(roc_auc_score(targets, probabilities, multi_class="ovr"))
    assert curve.low < curve.value < curve.high < 1
    predicted = probabilities.argmax(axis=1)
    found = macro_f1(targets, predicted, 3, np.arange(150), 0.95, 2000, seeded())
    assert found.value == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert found.low < found.value < found.high


def test_a_perfect_ranking_is_not_certain() -> None:
    targets = np.array([0] * 5 + [1] * 5)
    found = area(targets, np.stack([1 - targets, targets], axis=1).astype(float), np.arange(10), 0.95)
    assert (found.value, found.high) == (1.0, 1.0) and found.low < 0.8
    assert area(np.zeros(5, dtype=int), np.ones((5, 2)) / 2, np.arange(5), 0.95).value is None


def test_four_images_for_one_side_are_no_evidence_for_the_smoothed_bootstrap() -> None:
    gain = np.zeros(100)
    gain[:4] = 1
    found = smoothed(gain, sampled(np.zeros(100, dtype=int)), 0.95, 4000, seeded())
    assert found.value == pytest.approx(0.04) and found.low <= 0
    gain[:12] = 1
    assert smoothed(gain, sampled(np.zeros(100, dtype=int)), 0.95, 4000, seeded()).low > 0


def test_one_group_is_one_image_however_often_it_was_photographed() -> None:
    right = np.arange(50) > 0
    found = share(right, np.zeros(50, dtype=int), 0.95)
    assert found.high - found.low > 0.5 and found.value == pytest.approx(0.98)


def test_macro_f1_lies_in_its_interval_also_where_every_answer_is_right() -> None:
    targets = np.repeat([0, 1], 5)
    found = macro_f1(targets, targets, 2, np.arange(10), 0.95, 500, seeded())
    assert (found.value, found.high) == (1.0, 1.0) and found.low < 0.9


@pytest.mark.parametrize("groups", [np.arange(60), np.arange(60) // 3, np.zeros(60, dtype=int)])
def test_macro_f1_stands_a_class_that_no_image_has(groups: Floats) -> None:
    targets, predicted = np.repeat([0, 1], 30), np.arange(60) % 3
    found = macro_f1(targets, predicted, 3, groups, 0.95, 200, seeded())
    assert 0 <= found.low < found.value < found.high <= 1


def test_macro_f1_of_a_thousand_classes_takes_seconds() -> None:
    """Every cell of the matrix drawn, 2,000 draws take minutes."""
    rng = seeded()
    targets = np.repeat(np.arange(1000), 5)
    predicted = np.where(rng.random(5000) < 0.8, targets, rng.integers(0, 1000, 5000))
    began = time.process_time()
    found = macro_f1(targets, predicted, 1000, np.arange(5000), 0.95, 2000, rng)
    assert time.process_time() - began < 5
    assert found.low < found.known < found.high < found.low + 0.05


def test_cells_drawn_together_give_the_interval_of_cells_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = seeded()
    targets = np.repeat(np.arange(20), 10)
    predicted = np.where(rng.random(200) < 0.8, targets, rng.integers(0, 20, 200))
    dense = macro_f1(targets, predicted, 20, np.arange(200), 0.95, 2000, seeded())
    monkeypatch.setattr(f1_draws, "MOST_DENSE", 2)
    sparse = macro_f1(targets, predicted, 20, np.arange(200), 0.95, 2000, seeded())
    assert sparse.ends == pytest.approx(dense.ends, abs=0.006)
