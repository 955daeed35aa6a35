"""Groups of equal and unequal size: intervals hold the truth, and the paired one finds a gain like a t test."""

import numpy as np
import pytest

from steps.evaluation.intervals import effective_clusters, sampled, share, smoothed
from tests.studies import unequal_groups


def test_clusters_of_one_size_all_count_and_a_large_one_outweighs_the_rest() -> None:
    assert effective_clusters(np.full(40, 10)) == pytest.approx(40)
    assert effective_clusters(np.array([50, 50, *[1] * 100])) == pytest.approx(2.08, abs=0.01)


UNEQUAL = [words for words, sizes in unequal_groups.SIZES.items() if np.ptp(sizes)]


@pytest.mark.parametrize("words", UNEQUAL)
def test_intervals_of_unequal_groups_hold_the_truth(words: str) -> None:
    """With as many degrees of freedom as clusters, 74 to 88 sets of a hundred."""
    held = unequal_groups.coverage(unequal_groups.SIZES[words], 0.8, 120)
    assert min(held.values()) >= 0.92


def test_a_gain_over_twenty_groups_is_found_nearly_as_often_as_by_their_own_t_test() -> None:
    """With a pseudo-image as heavy as a group: 9 sets of a hundred, where the t test finds 57."""
    ours, theirs = unequal_groups.power(np.full(20, 10), 0.9, 0.8, 200)
    assert ours >= theirs - 0.08 and theirs > 0.4
    assert unequal_groups.power(np.full(20, 10), 0.8, 0.8, 200)[0] <= 0.05


def test_four_groups_that_favour_one_side_are_no_evidence() -> None:
    gain, groups = np.zeros(400), np.repeat(np.arange(40), 10)
    gain[:40] = 1
    sample = sampled(np.zeros(400, dtype=int), groups)
    assert not smoothed(gain, sample, 0.95, 300, np.random.default_rng(0)).above(0)
    gain[:120] = 1
    assert smoothed(gain, sample, 0.95, 300, np.random.default_rng(0)).above(0)


def test_groups_that_are_never_wrong_count_by_their_sizes() -> None:
    unequal = share(np.ones(200, dtype=bool), np.repeat(np.arange(102), [50, 50, *[1] * 100]), 0.95)
    singles = share(np.ones(200, dtype=bool), np.repeat(np.arange(100), 2), 0.95)
    assert unequal.ends[0] < 0.75 < singles.ends[0]
