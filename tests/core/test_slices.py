"""Slices: a planted weakness is found, chance picks are not, and limits are held against the right slice."""

from typing import Any

import numpy as np
import pandas as pd

from steps.core.slices import COLUMNS, judge_slices


def images(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "source": np.where(np.arange(n) % 4 == 0, "night", "day"), "group": "", "width": rng.integers(50, 500, n),
        "height": rng.integers(50, 500, n), "brightness": rng.random(n), "format": "JPEG", "taken": "",
    })  # fmt: skip


def judged(table: pd.DataFrame, right: Any, least: int = 10, **limits: float) -> list[dict[str, Any]]:
    return judge_slices(table, right, np.arange(len(table)), COLUMNS, least, limits, 0.95)


def test_the_planted_weakness_comes_first_and_holds_after_correction() -> None:
    table = images(400)
    right = np.random.default_rng(1).random(400) < np.where(table["source"] == "night", 0.6, 0.95)
    worst, *others = judged(table, right)
    assert (worst["column"], worst["value"], worst["n"]) == ("source", "night", 100)
    assert worst["p_adjusted"] < 0.001
    assert worst["accuracy"]["value"] == right[table["source"] == "night"].mean()
    assert all(row["p_adjusted"] > 0.05 for row in others)
    assert {row["column"] for row in others} == {"source", "size", "brightness"}, "one format is no slice"


def test_a_model_that_is_alike_everywhere_is_accused_in_one_set_of_twenty_at_most() -> None:
    accused = 0
    for seed in range(40):
        table, right = images(150, seed), np.random.default_rng(1000 + seed).random(150) < 0.85
        accused += any(row["p_adjusted"] < 0.05 for row in judged(table, right))
    assert accused <= 4, "more come by luck in fewer than 5 of 100 cases"


def test_limits_are_per_column_or_per_value_and_small_slices_are_left_out() -> None:
    table, right = images(40), np.arange(40) % 2 == 0
    rows = {(row["column"], row["value"].split(" ")[0]): row for row in judged(
        table, right, source=0.4, **{"source=night": 1.0, "size=low": 0.99},
    )}  # fmt: skip
    assert rows["source", "night"]["limit"] == 1.0 and not rows["source", "night"]["breached"]
    assert rows["source", "day"]["limit"] == 0.4 and rows["source", "day"]["breached"]
    assert rows["size", "low"]["breached"] and rows["size", "high"]["limit"] is None
    assert ("source", "night") not in {(row["column"], row["value"]) for row in judged(table, right, least=11)}
