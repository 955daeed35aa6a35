"""Splits of ours: the shares decide, minima are met, and a new image moves an old one only towards training."""

import math
from collections import Counter
from fractions import Fraction
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.images.manifest import TEST, TRAIN, VAL, uniform
from steps.images.splitting import Minima, Unit, assign_splits, units_of

ORDER = {TEST: 0, VAL: 1, TRAIN: 2}  # along the line from 0 to 1
DEFAULT = Minima(min_val_per_class=2, min_test_per_class=5)
shares = st.floats(0.01, 0.8)
minima = st.builds(Minima, min_val_per_class=st.integers(1, 4), min_test_per_class=st.integers(1, 6))
classes = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(Counter)
units = st.dictionaries(st.integers(0, 10**6), classes, max_size=30)


def reference(key: str, validation: float, test: float) -> str:
    """Say the rule of the shares in exact arithmetic."""
    position = Fraction(int(sha256(key.encode()).hexdigest()[:16], 16), 2**64)
    if position < Fraction(test):
        return TEST
    return VAL if (position - Fraction(test)) / (1 - Fraction(test)) < Fraction(validation) else TRAIN


def split(keys: dict[int, Counter[str]], validation: float, test: float, least: Minima) -> dict[int, str]:
    drawn = [Unit(uniform(str(key)), images) for key, images in keys.items()]
    return dict(zip(keys, assign_splits(drawn, validation, test, least), strict=True))


def counts(keys: dict[int, Counter[str]], splits: dict[int, str]) -> dict[str, Counter[str]]:
    of_split = {name: Counter[str]() for name in ORDER}
    for key, images in keys.items():
        of_split[splits[key]].update(images)
    return of_split


@pytest.mark.parametrize(("validation", "test"), [(0.25, 0.2), (0.1, 0.01), (0.5, 0.5), (0.8, 0.8)])
def test_in_a_large_set_the_shares_alone_decide(validation: float, test: float) -> None:
    keys = {number: Counter("a") for number in range(5000)}
    found = split(keys, validation, test, DEFAULT)
    assert found == {key: reference(str(key), validation, test) for key in keys}
    expected = {TEST: test, VAL: (1 - test) * validation, TRAIN: (1 - test) * (1 - validation)}
    for name, share in expected.items():
        n = len(keys)
        assert abs(Counter(found.values())[name] - n * share) <= 4.5 * math.sqrt(n * share * (1 - share)), name


@settings(deadline=None)
@given(units, units, shares, shares, minima)
def test_a_new_unit_moves_an_old_one_only_towards_training(
    old: dict[int, Counter[str]], new: dict[int, Counter[str]], validation: float, test: float, least: Minima
) -> None:
    before, after = split(old, validation, test, least), split({**new, **old}, validation, test, least)
    assert all(ORDER[before[key]] <= ORDER[after[key]] for key in old)


@settings(deadline=None)
@given(units, shares, shares, minima)
def test_each_class_has_its_minimum_in_test_or_no_image_elsewhere_and_then_in_validation(
    keys: dict[int, Counter[str]], validation: float, test: float, least: Minima
) -> None:
    found = counts(keys, split(keys, validation, test, least))
    for label in "abc":
        assert found[TEST][label] >= least.min_test_per_class or found[VAL][label] == found[TRAIN][label] == 0
        assert found[VAL][label] >= least.min_val_per_class or found[TRAIN][label] == 0


@settings(deadline=None)
@given(units, shares, minima)
def test_no_test_share_takes_no_test_images(keys: dict[int, Counter[str]], validation: float, least: Minima) -> None:
    assert TEST not in split(keys, validation, 0.0, least).values()


@pytest.mark.parametrize("class_count", [2, 10, 100])
def test_forty_images_a_class_are_enough_however_many_classes_there_are(class_count: int) -> None:
    """README says so."""
    for draw in range(200 // class_count):
        keys = {
            10**6 * draw + 1000 * label + number: Counter([str(label)])
            for label in range(class_count)
            for number in range(40)
        }
        found = counts(keys, split(keys, 0.25, 0.2, DEFAULT))
        for name, least in ((TRAIN, 5), (VAL, 2), (TEST, 5)):
            assert min(found[name][str(label)] for label in range(class_count)) >= least


BURSTS = {
    "12 single images and 40 copies of one": [1] * 12 + [40],
    "the same, two bursts": [1] * 12 + [40, 30],
    "pairs and a burst": [2] * 7 + [25],
    "as many singles as the minima need, and a burst for training": [1] * 7 + [20],
    "three bursts alone": [20, 20, 20],
}


@pytest.mark.parametrize("name", BURSTS)
def test_a_burst_of_copies_is_not_taken_for_a_minimum_that_single_images_meet(name: str) -> None:
    """The shares are small here: the minima alone fill test and validation."""
    for draw in range(200):
        keys = {1000 * draw + number: Counter(a=size) for number, size in enumerate(BURSTS[name])}
        found = counts(keys, split(keys, 0.01, 1e-9, DEFAULT))
        assert found[TEST]["a"] >= 5 and found[VAL]["a"] >= 2 and found[TRAIN]["a"] >= 5


def test_a_unit_has_the_highest_of_its_keys_and_counts_the_images_that_have_a_weight() -> None:
    images = pd.DataFrame({"key": list("abcd"), "label": ["x", "x", "y", "y"], "weight": [1.0, 0.0, 1.0, 1.0]})
    found = units_of(images, np.array([0, 0, 1, 0], dtype=np.int32))
    assert found == [Unit(max(map(uniform, "abd")), Counter(x=1, y=1)), Unit(uniform("c"), Counter(y=1))]
