"""The test that decides about promotion agrees with brute force, with McNemar's, and points in one direction."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from steps.evaluation.superiority import balanced, likeliest, score, sign_flips
from tests.studies.promotions import LEVEL, LEVELS, promoted


def test_it_is_the_share_of_all_signs() -> None:
    parts = np.random.default_rng(0).normal(size=10)
    sums = np.array(list(product([1, -1], repeat=10))) @ np.abs(parts)
    assert sign_flips(parts) == pytest.approx((sums >= parts.sum() - 1e-9).mean())
    assert sign_flips(np.r_[np.ones(30), -np.ones(12)]) == pytest.approx(
        binomtest(30, 42, alternative="greater").pvalue
    )
    assert (sign_flips(np.zeros(3)), sign_flips(np.ones(1))) == (1.0, pytest.approx(0.5))


@pytest.mark.parametrize("least", [-0.1, 0.1])
def test_with_a_margin_it_is_the_share_of_all_answers_at_the_likeliest_shares(least: float) -> None:
    """Five images of one class beside two of the other: each is won, lost or told apart by neither."""
    sizes, signs = np.array([5, 2]), np.array(list(product([1, 0, -1], repeat=7)))
    targets = np.repeat([0, 1], sizes)
    for gain in ([1, 0, 0, 1, 0, 1, 0], [0, 0, -1, 0, 0, 0, 1]):
        won, lost = (np.bincount(targets, np.equal(gain, sign)).astype(float) for sign in (1, -1))
        up, down = (shares[targets] for shares in likeliest(won, lost, sizes, least))
        weights = np.where(signs == 1, up, np.where(signs == -1, down, 1 - up - down)).prod(axis=1)
        sums = signs @ (1 / sizes[targets])
        as_far = weights[sums >= gain @ (1 / sizes[targets]) - 1e-9].sum()
        assert score(np.array(gain, float), targets, np.arange(7), least) == pytest.approx(as_far, rel=1e-3)


def test_what_is_worse_has_no_small_p() -> None:
    targets, gain = np.repeat([0, 1], [900, 100]), np.zeros(1000)
    gain[:60] = -1
    assert balanced(gain, targets, np.arange(1000), 0.0).p > 0.99


@pytest.mark.parametrize("bout", LEVELS[1:6:4], ids=lambda bout: bout.name)
def test_equal_models_are_promoted_at_most_at_the_stated_rate(bout) -> None:  # type: ignore[no-untyped-def]
    assert promoted(bout, 100)[0] <= LEVEL + 3 * np.sqrt(LEVEL / 100)


@pytest.mark.parametrize("margin", [0.02, 0.05])
def test_a_few_groups_that_merely_agree_do_not_show_that_a_model_is_no_worse(margin: float) -> None:
    """Twenty groups of 25 that flip as one: without a difference seen they count as twenty images, not as 500."""
    groups, targets = np.repeat(np.arange(20), 25), np.tile([0, 1], 250)
    rng, called = np.random.default_rng(0), 0
    assert balanced(np.zeros(500), targets, groups, -margin).p > LEVEL
    for _ in range(200):
        gain = -(rng.random(20) < margin).astype(float)[groups]
        called += balanced(gain, targets, groups, -margin).p < LEVEL
    assert called / 200 <= LEVEL + 3 * np.sqrt(LEVEL / 200)


def test_one_group_shows_nothing_however_large() -> None:
    assert balanced(np.zeros(8000), np.tile([0, 1], 4000), np.zeros(8000, dtype=int), -0.05).p > 0.1
