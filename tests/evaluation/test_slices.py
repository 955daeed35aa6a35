"""Slices: a planted weakness is found, chance picks are not, and limits are held against the right slice."""

from typing import Any

import numpy as np
import pandas as pd

from steps.evaluation.results import SliceJudgement, UnjudgedSlice
from steps.evaluation.slices import COLUMNS, judge_slices, unjudged, unknown_limits


def images(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "source": np.where(np.arange(n) % 4 == 0, "night", "day"),
            "group": "",
            "width": rng.integers(50, 500, n),
            "height": rng.integers(50, 500, n),
            "brightness": rng.random(n),
            "format": "JPEG",
            "taken": "",
        }
    )


def judged(table: pd.DataFrame, right: Any, least: int = 10, **limits: float) -> tuple[SliceJudgement, ...]:
    return judge_slices(table, right, np.arange(len(table)), COLUMNS, least, limits, 0.95)


def test_the_planted_weakness_comes_first_and_holds_after_correction() -> None:
    table = images(400)
    right = np.random.default_rng(1).random(400) < np.where(table["source"] == "night", 0.6, 0.95)
    worst, *others = judged(table, right)
    assert (worst.column, worst.value, worst.n) == ("source", "night", 100)
    assert worst.p_adjusted < 0.001
    assert worst.accuracy.value == right[table["source"] == "night"].mean()
    assert all(row.p_adjusted > 0.05 for row in others)
    assert {row.column for row in others} == {"source", "size", "brightness"}, "one format is no slice"


def test_a_model_that_is_alike_everywhere_is_accused_in_one_set_of_twenty_at_most() -> None:
    accused = 0
    for seed in range(40):
        table, right = images(150, seed), np.random.default_rng(1000 + seed).random(150) < 0.85
        accused += any(row.p_adjusted < 0.05 for row in judged(table, right))
    assert accused <= 4, "more come by luck in fewer than 5 of 100 cases"


def test_limits_are_per_column_or_per_value_and_small_slices_are_left_out() -> None:
    table, right = images(40), np.arange(40) % 2 == 0
    rows = {
        (row.column, row.value.split(" ")[0]): row
        for row in judged(table, right, source=0.4, **{"source=night": 1.0, "size=low": 0.99})
    }
    assert rows["source", "night"].limit == 1.0 and not rows["source", "night"].breached
    assert rows["source", "day"].limit == 0.4 and rows["source", "day"].breached
    assert rows["size", "low"].breached and rows["size", "high"].limit is None
    assert ("source", "night") not in {(row.column, row.value) for row in judged(table, right, least=11)}
    (few,) = unjudged(table, COLUMNS, 11, {"source=night": 0.9})
    assert few == UnjudgedSlice("source", "night", 10, 0.9)


def test_the_bounds_of_thirds_are_as_short_as_they_may_be() -> None:
    table = images(30).assign(brightness=np.linspace(0.29087, 0.32129, 30), width=np.arange(30) * 7001, height=10**6)
    told = {row.value for row in judged(table, np.ones(30, dtype=bool), least=1)}
    assert {"middle (0.301 to 0.311)", "middle (67,676 to 135,353)"} <= told


def test_a_value_that_looks_like_a_range_is_held_to_its_own_limit() -> None:
    table = images(40).assign(source=np.repeat(["camera (old)", "camera"], 20))
    rows = {row.value: row for row in judged(table, np.arange(40) >= 10, **{"source=camera (old)": 0.9})}
    assert rows["camera (old)"].breached and rows["camera"].limit is None


def test_a_limit_holds_also_where_all_images_fall_under_it() -> None:
    table, right = images(40).assign(source="night"), np.arange(40) % 2 == 0
    (row,) = [row for row in judged(table, right, **{"source=night": 0.9}) if row.column == "source"]
    assert (row.n, row.breached, row.p_adjusted) == (40, True, 1.0)


def test_a_limit_that_names_nothing_is_told_with_the_nearest_name() -> None:
    table = images(40)
    limits = {"soruce": 0.5, "source=nigth": 0.9, "brightness=low": 0.5, "size=small": 0.5, "source=day": 0.1}
    assert list(unknown_limits(table, COLUMNS, limits)) == [
        "no image has size 'small' (there are: low, middle, high)",
        "'soruce' is no slice; did you mean 'source'? (known: brightness, format, group, size, source)",
        "no image has source 'nigth'; did you mean 'night'? (there are: day, night)",
    ]
    day = table[table["source"] == "day"]
    assert unjudged(day, COLUMNS, 10, {"source=night": 0.9}) == (UnjudgedSlice("source", "night", 0, 0.9),), (
        "there are such images, but none was tested"
    )


def test_groups_that_err_together_accuse_no_slice() -> None:
    """40 groups of 10: as if each image spoke for itself, a third of the sets would accuse one."""
    rng, accused, blind = np.random.default_rng(0), 0, 0
    groups = np.repeat(np.arange(40), 10)
    for seed in range(60):
        table = images(400, seed).assign(source=rng.choice(["day", "night"], 40)[groups])
        right = rng.random(400) < rng.beta(1, 0.25, 40)[groups]
        for cluster in (groups, np.arange(400)):
            rows = judge_slices(table, right, cluster, ("source",), 10, {}, 0.95)
            found = any(row.p_adjusted < 0.05 for row in rows)
            accused, blind = accused + (found and cluster is groups), blind + (found and cluster is not groups)
    assert accused <= 5 and blind > 10
