"""Paired verdicts: tables counted by hand, and the number of images that would settle it put to the test."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from steps.evaluation.comparison import VerdictRules, compare, compare_answers, mcnemar, needed, per_class, transfer
from steps.evaluation.intervals import sampled
from steps.evaluation.results import Comparison, TransferVerdict

RULES = VerdictRules(0.95, 0.8, 1000)
Bools = np.ndarray[Any, np.dtype[np.bool_]]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def answers(right: Bools) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Probabilities of a model that is 90 % sure of class 0 where it is right about it."""
    return np.stack([np.where(right, 0.9, 0.1), np.where(right, 0.1, 0.9)], axis=1)


def pair(only_a: int, only_b: int, both: int) -> tuple[Bools, Bools]:
    a = np.array([True] * only_a + [False] * only_b + [True] * both)
    return a, np.array([False] * only_a + [True] * only_b + [True] * both)


def said(only_a: int, only_b: int, both: int) -> Comparison:
    a, b = pair(only_a, only_b, both)
    targets = np.zeros(len(a), dtype=int)
    return compare(("a", "b"), targets, answers(a), answers(b), sampled(targets), RULES, rng())


def test_mcnemars_test_by_hand() -> None:
    assert mcnemar(5, 1) == pytest.approx(14 / 64)  # 2 * (1 + 6) / 2**6
    assert mcnemar(0, 0) == 1.0


def test_a_clear_difference_is_told_in_points_and_its_mirror_image_as_worse() -> None:
    found, mirror = said(20, 2, 78), said(2, 20, 78)
    assert (found.verdict, mirror.verdict) == ("better", "worse")
    assert found.difference == pytest.approx(0.18) and found.needed_n is None
    low, high = 100 * found.low, 100 * found.high
    assert found.sentence == f"better by {low:.1f} to {high:.1f} points"
    assert mirror.sentence.startswith("worse by ")
    assert found.log_loss.high < 0 < mirror.log_loss.low


def test_four_to_nothing_is_no_evidence_and_says_how_many_images_are_missing() -> None:
    found = said(4, 0, 149)
    assert found.verdict == "no evidence"
    more = found.needed_n - 153
    assert found.sentence == f"no evidence yet (needs about {more:,} more test images)" and more > 0
    assert said(3, 3, 100).sentence == "no evidence yet (no difference was seen)"


def test_with_as_many_images_as_needed_the_test_finds_the_difference_as_often_as_promised() -> None:
    n = needed(9, 3, 100, RULES)
    assert n is not None
    drawn = np.random.default_rng(1).multinomial(n, [0.09, 0.03, 0.88], size=4000)
    lesser, differing = drawn[:, :2].min(axis=1), drawn[:, :2].sum(axis=1)
    power = np.mean(2 * binom.cdf(lesser, differing, 0.5) < 0.05)
    assert 0.7 < power < 0.85, "McNemar's exact test is conservative, the formula is of its approximation"


def test_classes_and_balanced_accuracy_count_the_small_class_as_much_as_the_large_one() -> None:
    a, b = pair(10, 0, 90)
    targets = np.array([1] * 10 + [0] * 90)
    found = compare_answers(targets, a, b, sampled(targets), RULES, rng())
    assert (found.difference, found.balanced_accuracy.value) == (pytest.approx(0.1), pytest.approx(0.5))
    rows = per_class(targets, a, b, ["large", "small", "absent"])
    assert [(row.label, row.n, row.only_a, row.only_b) for row in rows] == [("large", 90, 0, 0), ("small", 10, 10, 0)]


def test_ten_copies_of_each_image_in_groups_are_no_more_evidence() -> None:
    a, b = (np.repeat(right, 10) for right in pair(4, 1, 60))
    targets, groups = np.zeros(len(a), dtype=int), np.repeat(np.arange(65), 10)
    blind = compare_answers(targets, a, b, sampled(targets), RULES, rng())
    assert blind.verdict == "better"
    told = compare_answers(targets, a, b, sampled(targets, groups), RULES, rng())
    assert told.verdict == "no evidence"
    once = needed(4, 1, 65, RULES)
    assert once is not None and told.needed_n == pytest.approx(10 * once, rel=0.02), "ten pictures tell as one"


def transferred(right: Bools, rivals: dict[str, list[Bools]]) -> TransferVerdict:
    targets = np.zeros(len(right), dtype=int)
    as_classes = {name: [1 - rival.astype(int) for rival in draws] for name, draws in rivals.items()}
    return transfer(targets, answers(right), as_classes, sampled(targets), RULES, rng())


def test_transfer_helps_hurts_or_has_no_evidence_against_every_draw_from_scratch() -> None:
    good, bad = pair(40, 0, 60)
    helps = transferred(good, {"majority": [bad], "scratch": [bad, bad]})
    assert (helps.verdict, helps.against) == ("helps", "scratch")
    assert helps.sentence.startswith("helps by 3")
    assert transferred(bad, {"scratch": [good]}).verdict == "hurts"
    assert transferred(good, {"scratch": [bad, good]}).verdict == "no evidence", "one draw was as good"
    assert [row.accuracy for row in helps.baselines] == pytest.approx([0.6, 0.6])


def test_the_images_that_are_wanting_are_counted_by_the_least_favourable_draw() -> None:
    model = np.array([True] * 9 + [False] * 3 + [True] * 88)
    far = np.array([False] * 9 + [True] * 3 + [True] * 88)
    few, many = needed(9, 3, 100, RULES), needed(4, 3, 100, RULES)
    assert few and many and few < many
    draw = np.array([False] * 4 + [True] * 8 + [True] * 88)
    (row,) = transferred(model, {"scratch": [far, draw]}).baselines
    assert (row.verdict, row.needed_n) == ("no evidence", many)
    (row,) = transferred(model, {"scratch": [far, model]}).baselines
    assert row.sentence == "no evidence yet (no difference was seen in one of the draws)"


def test_without_a_network_from_scratch_the_strongest_rival_decides_and_without_any_nobody() -> None:
    good, bad = pair(40, 0, 60)
    middling = np.array([True] * 10 + [False] * 30 + [True] * 60)
    assert transferred(good, {"majority": [bad], "pixels": [middling]}).against == "pixels"
    assert transferred(good, {}).verdict is None
