"""A gap between validation and test accuracy is called one only where chance does not explain it."""

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from steps.evaluation.intervals import share
from steps.evaluation.split_gap import split_gap
from steps.runtime.figure import Figure


def accuracy(right: int, n: int) -> Figure:
    return share(np.arange(n) < right, np.arange(n), 0.95)


@pytest.mark.parametrize(
    ("validation", "test", "apart"),
    [
        ((94, 110), (70, 153), True),  # 0.855 beside 0.457: the split of sketches
        ((94, 110), (130, 153), False),
        ((9, 10), (120, 153), False),
        ((50, 110), (130, 153), True),  # an easier test split
        ((110, 110), (153, 153), False),
        ((0, 5), (5, 5), True),
    ],
)
def test_the_gap_is_newcombes_and_beyond_chance_or_not(
    validation: tuple[int, int], test: tuple[int, int], apart: bool
) -> None:
    gap = split_gap(accuracy(*validation), accuracy(*test)).difference
    assert (gap.above(0) or gap.below(0)) is apart
    wanted = confint_proportions_2indep(*validation, *test, method="newcomb", compare="diff")
    assert gap.ends == pytest.approx(wanted, abs=0.03), "share() widens the ends near 0 and 1"


def test_false_alarms_stay_within_the_stated_rate() -> None:
    rng = np.random.default_rng(0)
    pairs = zip(rng.binomial(60, 0.85, 1000), rng.binomial(150, 0.85, 1000), strict=True)
    gaps = [split_gap(accuracy(val, 60), accuracy(test, 150)).difference for val, test in pairs]
    assert sum(gap.above(0) or gap.below(0) for gap in gaps) <= 65
