"""A planted shift is found, one world is not accused, and the figures are those of their definitions."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from steps.checks import shift

Floats = npt.NDArray[np.float64]


def worlds(seed: int, apart: float) -> tuple[Floats, Floats]:
    """Two sets of features whose means stand `apart` standard deviations in a quarter of the directions."""
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=(60, 16)), generator.normal(size=(40, 16))
    second[:, :4] += apart
    return first, second


def test_the_auc_is_scikit_learns_ties_included() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 9, 50).astype(float), generator.integers(3, 12, 70).astype(float)
    wanted = roc_auc_score(np.repeat([0, 1], [50, 70]), np.concatenate([first, second]))
    assert shift.auc(first, second).value == pytest.approx(wanted, abs=1e-12)


def test_its_interval_is_delongs() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=40), generator.normal(0.8, 1, 30)
    above = (second[:, None] > first).astype(float)  # the definition: placements of each side among the other's
    spread = np.sqrt(above.mean(axis=0).var(ddof=1) / 40 + above.mean(axis=1).var(ddof=1) / 30)
    found = shift.auc(first, second)
    wanted = (above.mean() - 1.959964 * spread, above.mean() + 1.959964 * spread)
    assert (found.low, found.high) == pytest.approx(wanted)


def test_a_perfect_answer_claims_no_width() -> None:
    found = shift.auc(np.arange(5.0), np.arange(5.0) + 10)
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_within_one_world_the_p_values_are_uniform() -> None:
    found = [shift.two_sample(*worlds(seed, 0.0), seed) for seed in range(25)]
    assert kstest([one.p for one in found], "uniform").pvalue > 0.01
    assert abs(np.mean([one.auc.known for one in found]) - 0.5) < 0.06


def test_a_shift_is_found_and_its_strangers_come_first() -> None:
    first, second = worlds(0, 3.0)
    second[20:, :4] -= 3.0  # half of the second side is of the first side's world
    found = shift.two_sample(first, second, 0)
    assert found.auc.above(0.6) and found.p < 0.01
    assert len(set(np.argsort(-found.odds)[:10]) & set(range(60, 80))) >= 9


def test_the_same_seed_gives_the_same_figures() -> None:
    one, other = (shift.two_sample(*worlds(3, 0.3), 7) for _ in range(2))
    assert (one.auc, one.p) == (other.auc, other.p) and np.array_equal(one.odds, other.odds)


def photographs(seed: int, n: int = 120, **columns: Any) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    measures = {name: generator.normal(100, 10, n) for name in shift.MEASURES}
    taken = pd.Timestamp("2025-01-01") + pd.to_timedelta(generator.integers(0, 10**7, n), unit="s")
    plain = {"format": generator.choice(["JPEG", "PNG"], n), "source": "", "taken": taken.strftime("%Y-%m-%dT%H:%M:%S")}
    return pd.DataFrame({**measures, **plain, **columns})


def test_each_measure_that_moved_is_named_with_its_effect_and_no_other() -> None:
    later = ["2026-03-01T12:00:00"] * 120
    moved = photographs(1, format=["WEBP"] * 60 + ["JPEG"] * 60, taken=later)
    moved["brightness"] += 20
    found = shift.covariates(photographs(0), moved, np.random.default_rng(0))
    assert {row.measure for row in found if row.significant} == {"brightness", "taken", "format"}
    rows = {row.measure: row for row in found}
    assert rows["brightness"].effect > 0.6 and rows["taken"].effect == 1.0 and rows["format"].effect > 0.5
    assert rows["brightness"].second > rows["brightness"].first + 10
    assert (rows["taken"].second, rows["format"].second) == (later[0], "JPEG")
    assert "source" not in rows, "nobody told it"


def test_families_of_measures_of_one_world_are_seldom_accused() -> None:
    families = [shift.covariates(photographs(s), photographs(s + 500), np.random.default_rng(s)) for s in range(15)]
    told = [any(row.significant for row in rows) for rows in families]
    assert sum(told) <= 3  # 5 % of 15 are 0.75; more than 3 come by luck once in 180 times


def test_one_format_on_both_sides_is_no_difference() -> None:
    same = [photographs(seed, format="JPEG") for seed in (0, 1)]
    rows = {row.measure: row for row in shift.covariates(*same, np.random.default_rng(0))}
    assert (rows["format"].effect, rows["format"].p) == (0.0, 1.0)


def test_importance_weights_move_the_mean_to_the_other_world() -> None:
    # Two normal worlds with means 0 and 1: any increasing line of x scores them, and the true ratio is exp(x - 1/2)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=4000), rng.normal(1, 1, 3000)
    found = shift.importance(first / 50, second / 50, most=100)
    assert np.average(first, weights=found.weights) == pytest.approx(1, abs=0.1)
    assert found.weights.mean() == pytest.approx(1) and found.covered == pytest.approx(1, abs=0.05)
    assert found.effective == pytest.approx(4000 / np.exp(1), rel=0.15), "E[w]^2 / E[w^2] of that ratio is 1/e"


def test_importance_is_even_where_nothing_differs_and_tells_what_is_missing() -> None:
    rng = np.random.default_rng(1)
    same = shift.importance(rng.normal(size=600), rng.normal(size=400), most=10)
    assert same.effective > 590 and same.covered > 0.98
    apart = shift.importance(rng.normal(size=600), rng.normal(40, 1, 400), most=10)
    assert apart.covered == pytest.approx(0.1, abs=0.01), "nothing but the clipping is left of it"
    assert apart.weights.max() / apart.weights.min() <= 100
