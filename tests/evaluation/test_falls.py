"""A fall is named where it is more than luck, and luck seldom names one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, norm

from steps.evaluation.falls import Change, chance, changes, shown

LEVEL = 0.05


def change(n: int, lost: int, won: int, effective: float | None = None) -> Change:
    return Change(part="class cat", n=n, won=won, lost=lost, effective=n if effective is None else effective)


def score_by_search(n: int, lost: int, won: int, limit: float) -> float:
    """Tango's score test, with the constrained maximum of the likelihood searched for instead of solved for."""

    def unlikely(rare: float) -> float:
        return -float(
            lost * np.log(rare + limit) + won * np.log(rare) + (n - lost - won) * np.log(1 - 2 * rare - limit)
        )

    found = minimize_scalar(
        unlikely, bounds=(1e-12, (1 - limit) / 2 - 1e-12), method="bounded", options={"xatol": 1e-12}
    )
    return float(norm.sf((lost - won - n * limit) / np.sqrt(n * (2 * found.x + limit * (1 - limit)))))


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 200), st.sampled_from([0.05, 0.1, 0.3]))
def test_the_chance_is_the_larger_of_both_tests(same: int, lost: int, won: int, limit: float) -> None:
    n = same + lost + won
    exact = float(binomtest(lost, lost + won, alternative="greater").pvalue)
    wanted = max(score_by_search(n, lost, won, limit), exact) if (lost - won) / n > limit else 1.0
    assert chance(change(n, lost, won), limit) == pytest.approx(wanted, rel=1e-3, abs=1e-9)


def drawn(rng: np.random.Generator, n: int, rare: float, limit: float, times: int) -> Any:
    """Draw (lost, won) of classes whose recall falls by exactly the limit."""
    return rng.multinomial(n, [rare + limit, rare, 1 - 2 * rare - limit], size=times)[:, :2].tolist()


@pytest.mark.parametrize("n", [10, 40, 150])
@pytest.mark.parametrize(("rare", "limit"), [(0.01, 0.0), (0.2, 0.0), (0.02, 0.1), (0.2, 0.1), (0.0, 0.2), (0.1, 0.2)])
def test_luck_names_a_fall_as_seldom_as_is_said(n: int, rare: float, limit: float) -> None:
    """Four standard errors of 1,000 draws above the level are too many."""
    found = [
        chance(change(n, lost, won), limit) < LEVEL
        for lost, won in drawn(np.random.default_rng(0), n, rare, limit, 1000)
    ]
    assert np.mean(found) <= LEVEL + 4 * np.sqrt(LEVEL * (1 - LEVEL) / 1000)


@pytest.mark.exhaustive
def test_luck_among_many_parts_names_any_as_seldom_as_is_said() -> None:
    rng = np.random.default_rng(0)
    named = [bool(shown([change(60, *pair) for pair in drawn(rng, 60, 0.1, 0.0, 20)], 0.0, LEVEL)) for _ in range(300)]
    assert np.mean(named) <= LEVEL + 4 * np.sqrt(LEVEL * (1 - LEVEL) / 300)


def test_a_real_fall_is_named_among_parts_that_did_not_fall() -> None:
    fell = change(100, lost=40, won=5)
    [(one, p)] = shown([change(100, 5, 5)] * 20 + [fell], 0.1, LEVEL)
    assert one is fell and 0 < p < LEVEL
    assert shown([fell], 0.35, LEVEL) == shown([], 0.1, LEVEL) == []


def test_images_of_one_group_are_counted_as_what_they_are() -> None:
    """Forty images, lost ten at a time: four groups say as much as four images."""
    a, b = np.zeros(80, dtype=bool), np.arange(80) < 40
    everything = [("all", np.ones(80, dtype=bool))]
    [alone] = changes(everything, a, b, np.arange(80))
    [grouped] = changes(everything, a, b, np.arange(80) // 10)
    [single] = changes(everything, a, b, np.zeros(80, dtype=int))
    assert (alone.n, alone.lost, alone.won, alone.drop) == (80, 40, 0, 0.5)
    assert (alone.effective, grouped.effective, single.effective) == (80, pytest.approx(7), 1)
    assert chance(alone, 0.2) < 1e-4 < LEVEL < chance(grouped, 0.2) < chance(single, 0.2)
