"""Skew, sources and shortcuts are found where they are, and chance is not accused."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steps.checks.reports import Nothing, Shortcut
from steps.checks.selection import (
    coverage,
    effective_number,
    groups,
    population_fit,
    representation,
    shortcuts,
    with_holm,
)


def table(n: int = 200, seed: int = 0, **columns: Any) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    made = {
        "id": [f"{i:04}" for i in range(n)],
        "label": np.array(["ant", "bee"])[np.arange(n) % 2],
        **{name: generator.random(n) for name in ("brightness", "contrast", "sharpness", "width", "height", "bytes")},
        "format": "JPEG",
        "mode": "RGB",
        "source": "",
        "group": "",
    }
    return pd.DataFrame(made | columns)


def test_the_effective_number_counts_equal_classes_fully() -> None:
    assert effective_number([10, 10, 10]) == pytest.approx(3)
    assert effective_number([10, 0]) == pytest.approx(1)
    assert 1 < effective_number([100, 1]) < 1.1


def test_class_shares_are_held_against_the_stated_population() -> None:
    (found,) = population_fit({"train": {"ant": 90, "bee": 10}}, {"ant": 1, "bee": 1})
    assert found.significant and found.effect == pytest.approx(0.8)
    (right,) = population_fit({"train": {"ant": 52, "bee": 48}}, {"ant": 0.5, "bee": 0.5})
    assert not right.significant
    assert population_fit({}, {"ant": 1.0}) == ()


def test_holm_is_stricter_than_each_test_alone() -> None:
    found = with_holm([partial(Shortcut, "width", 0.6, 0.2, p=p) for p in (0.04, 0.03, 0.001)])
    assert [row.significant for row in found] == [False, False, True]
    assert [row.adjusted for row in found] == pytest.approx([0.06, 0.06, 0.003])


def test_a_source_of_one_class_is_named_and_a_mixed_or_tiny_one_is_not() -> None:
    images = table()
    images["source"] = np.where(np.arange(200) < 60, "clinic", "field")
    images.loc[images["label"].eq("bee") & images["source"].eq("field"), "source"] = "shop"
    images.loc[:5, "source"] = "new"
    found = {row.source: row for row in representation(images)}
    assert {name for name, row in found.items() if row.significant} == {"field", "shop"}
    assert found["shop"].only == "bee"


def test_a_month_that_training_lacks_is_named_and_an_even_split_is_not() -> None:
    images = table(split=np.where(np.arange(200) % 4 < 3, "train", "test"), source="", taken="2025-01-05T10:00:00")
    assert coverage(images) == (), "one month, nobody is missing"
    images.loc[images["split"].eq("test"), "taken"] = "2025-07-05T10:00:00"
    found = {row.value: row for row in coverage(images)}
    assert found["2025-07"].effect == pytest.approx(1) and found["2025-07"].significant
    images["taken"], images["source"] = "", np.where(np.arange(200) % 5 < 2, "clinic", "field")
    assert [row.value for row in coverage(images)] == ["field", "clinic"]
    assert not any(row.significant for row in coverage(images))


def test_few_groups_behind_many_images_are_counted() -> None:
    images = table(split="train", group=np.where(np.arange(200) < 198, "one", "other"))
    found = groups(images)
    assert (found.groups, found.largest, found.largest_share) == (2, "one", 0.99)
    assert 1 < found.effective < 1.1
    assert groups(table(split="train", group="")) == Nothing()


def test_brightness_that_tells_the_label_is_a_shortcut() -> None:
    images = table()
    images["brightness"] += images["label"].eq("bee") * 0.9
    found = {row.measure: row for row in shortcuts(images, np.random.default_rng(0))}
    assert found["brightness"].significant and found["brightness"].effect > 0.5
    assert not any(row.significant for name, row in found.items() if name != "brightness")


def test_chance_is_seldom_accused() -> None:
    sets = range(20)
    accused = [any(row.significant for row in shortcuts(table(60, n), np.random.default_rng(n))) for n in sets]
    assert sum(accused) <= 3, "one of twenty is allowed; more than three come by luck in fewer than 2 of 100 cases"


def test_too_few_images_say_nothing() -> None:
    assert shortcuts(table(6), np.random.default_rng(0)) == ()
