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
from steps.images.splitting import Minima, Unit, assign_splits, more_needed, units_of

ORDER = {TEST: 0, VAL: 1, TRAIN: 2}  # along the line from 0 to 1
DEFAULT = Minima(min_train_per_class=5, min_val_per_class=2, min_test_per_class=5)
shares = st.floats(0.01, 0.8)
minima = st.builds(
    Minima,
    min_train_per_class=st.integers(1, 6),
    min_val_per_class=st.integers(1, 4),
    min_test_per_class=st.integers(1, 6),
)
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


def split_before(keys: dict[int, Counter[str]], validation: float, test: float, least: Minima) -> dict[int, str]:
    """Split by the rule of releases in which training had no minimum."""
    found = dict.fromkeys(keys, TRAIN)
    for name, below, needed in (
        (TEST, test, least.min_test_per_class),
        (VAL, test + (1 - test) * validation, least.min_val_per_class),
    ):
        turns = {
            key: (uniform(str(key)) >= below and max(images.values()) > needed, uniform(str(key)))
            for key, images in keys.items()
            if found[key] == TRAIN
        }
        before = Counter[str]()
        for key in sorted(turns, key=turns.__getitem__):
            if uniform(str(key)) < below or any(before[label] < needed for label in keys[key]):
                found[key] = name
            before.update(keys[key])
    return found


def counts(keys: dict[int, Counter[str]], splits: dict[int, str]) -> dict[str, Counter[str]]:
    of_split = {name: Counter[str]() for name in ORDER}
    for key, images in keys.items():
        of_split[splits[key]].update(images)
    return of_split


def of_split(least: Minima) -> dict[str, int]:
    return {TRAIN: least.min_train_per_class, VAL: least.min_val_per_class, TEST: least.min_test_per_class}


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
    """But one that a class was short of, which returns to where it would have been without the minimum of training."""
    before, after = split(old, validation, test, least), split({**new, **old}, validation, test, least)
    unkept = split_before(old, validation, test, least)
    assert all(ORDER[unkept[key]] <= ORDER[after[key]] for key in old)
    assert all(ORDER[unkept[key]] <= ORDER[before[key]] for key in old)
    assert all(ORDER[before[key]] <= ORDER[after[key]] for key in old if before[key] == unkept[key])


@settings(deadline=None)
@given(units, shares, shares, minima)
def test_a_set_that_was_split_well_before_training_had_a_minimum_is_split_as_before(
    keys: dict[int, Counter[str]], validation: float, test: float, least: Minima
) -> None:
    unkept = split_before(keys, validation, test, least)
    held = counts(keys, unkept)
    labels = {label for images in keys.values() for label in images}
    if all(held[name][label] >= of_split(least)[name] for name in ORDER for label in labels):
        assert split(keys, validation, test, least) == unkept


SHARES = {0.6: (0.25, 0.2), 0.7: (0.125, 0.2), 0.8: (0.1, 1 / 9)}  # of training: validation, test


@pytest.mark.parametrize("training", SHARES)
@pytest.mark.parametrize("count", [3, 5, 6, 7, 8, 11, 12, 13, 16, 20, 30, 40])
def test_a_class_of_single_images_has_its_minima_whatever_their_hashes(count: int, training: float) -> None:
    """As far as they go: test first, then validation, then training. Ten classes, and the worst hashes of one."""
    enough = {TEST: min(count, 5), VAL: min(max(count - 5, 0), 2), TRAIN: min(max(count - 7, 0), 5)}
    validation, test = SHARES[training]
    for draw in range(20):
        keys = {1000 * (10 * draw + label) + n: Counter([str(label)]) for label in range(10) for n in range(count)}
        found = counts(keys, split(keys, validation, test, DEFAULT))
        assert all(found[name][str(label)] >= enough[name] for name in ORDER for label in range(10))
    for low, high in ((0.0, test), (test, test + (1 - test) * validation), (0.0, 0.01), (0.99, 1.0)):
        positions = np.linspace(low, high, count, endpoint=False)
        splits = Counter(assign_splits([Unit(x, Counter("a")) for x in positions], validation, test, DEFAULT))
        assert all(splits[name] >= enough[name] for name in ORDER), (low, high, splits)


GROUPS = {  # sizes of the groups of a class, all of them in the lowest positions: what the splits hold
    "six pairs": ([2] * 6, (6, 2, 4)),
    "seven pairs": ([2] * 7, (6, 2, 6)),
    "four triples": ([3] * 4, (6, 3, 3)),
    "six triples": ([3] * 6, (9, 3, 6)),
    "three groups of five": ([5] * 3, (5, 5, 5)),
    "a large group and twelve single images": ([20] + [1] * 12, (25, 2, 5)),
    "twelve single images and a large group": ([1] * 12 + [20], (10, 2, 20)),
    "one group": ([30], (30, 0, 0)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_whose_hashes_are_all_low_stay_together_and_leave_training_what_they_can(name: str) -> None:
    sizes, expected = GROUPS[name]
    made = [Unit(0.001 * number, Counter(a=size)) for number, size in enumerate(sizes)]
    held = Counter[str]()
    for unit, of in zip(made, assign_splits(made, 0.25, 0.2, DEFAULT), strict=True):
        held[of] += unit.images["a"]
    assert (held[TEST], held[VAL], held[TRAIN]) == expected


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


@pytest.mark.parametrize("draw", range(20))
@pytest.mark.parametrize(("validation", "test"), [(0.25, 0.2), (0.5, 0.5), (0.1, 0.0)])
def test_as_many_new_images_as_are_said_to_be_needed_are_enough(draw: int, validation: float, test: float) -> None:
    """In twenty random sets of ten small classes each; no rule is broken after them."""
    rng = np.random.default_rng(draw)
    keys = {
        1000 * label + number: Counter([str(label)]) for label in range(10) for number in range(rng.integers(1, 13))
    }
    keys = {10**5 * draw + key: images for key, images in keys.items()}
    least = {TRAIN: 5, VAL: 2, **({TEST: 5} if test else {})}
    before = counts(keys, split(keys, validation, test, DEFAULT))
    for label in map(str, range(10)):
        lacking = sum(max(0, least[name] - before[name][label]) for name in least)
        new = range(more_needed(lacking, (1 - validation) * (1 - test)))
        grown = keys | {10**7 * (draw + 1) + 1000 * int(label) + number: Counter([label]) for number in new}
        after = counts(grown, split(grown, validation, test, DEFAULT))
        assert all(after[name][label] >= least[name] for name in least), (label, len(new))


@pytest.mark.parametrize(("lacking", "share", "more"), [(0, 0.6, 0), (1, 1.0, 1), (1, 0.6, 8), (8, 0.6, 26)])
def test_the_number_needed_is_the_least_that_is_certain(lacking: int, share: float, more: int) -> None:
    assert more_needed(lacking, share) == more


LEAST = {TRAIN: 5, VAL: 2, TEST: 5}
of_class = st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 8, 30]), min_size=1, max_size=60)  # sizes of groups and bursts


def rows(units_of_class: dict[str, list[int]], name: str) -> pd.DataFrame:
    """Return the images of units of these sizes: key, label and unit."""
    made = [
        (f"{name}/{label}/{unit}/{copy}", label, f"{name}/{label}/{unit}")
        for label, sizes in units_of_class.items()
        for unit, size in enumerate(sizes)
        for copy in range(size)
    ]
    return pd.DataFrame(made, columns=["key", "label", "unit"])


def lacking(images: pd.DataFrame) -> dict[str, int]:
    """Split the images, check that no unit is torn apart, and return what each class has too little of."""
    member = np.unique(images["unit"], return_inverse=True)[1].astype(np.int32)
    splits = assign_splits(units_of(images.assign(weight=1.0), member), 0.25, 0.2, DEFAULT)
    assert len(splits) == images["unit"].nunique()
    found = Counter(zip(images["label"], (splits[unit] for unit in member), strict=True))
    return {
        label: sum(max(0, least - found[label, name]) for name, least in LEAST.items())
        for label in images["label"].unique()
    }


@settings(deadline=None, max_examples=150)
@given(st.lists(of_class, min_size=1, max_size=6), st.integers(0, 10**6))
def test_any_small_set_is_split_and_what_its_refusal_asks_for_is_enough(sets: list[list[int]], draw: int) -> None:
    """Single images are added as asked; beside groups, which move as a whole, a second time at most."""
    images = rows({str(label): sizes for label, sizes in enumerate(sets)}, f"{draw}")
    for attempt in range(2):
        new = {label: [1] * more_needed(count, 0.6) for label, count in lacking(images).items()}
        images = pd.concat([images, rows(new, f"{draw}/new{attempt}")])
    assert not any(lacking(images).values())


def test_a_unit_has_the_highest_of_its_keys_and_counts_the_images_that_have_a_weight() -> None:
    images = pd.DataFrame({"key": list("abcd"), "label": ["x", "x", "y", "y"], "weight": [1.0, 0.0, 1.0, 1.0]})
    found = units_of(images, np.array([0, 0, 1, 0], dtype=np.int32))
    assert found == [Unit(max(map(uniform, "abd")), Counter(x=1, y=1)), Unit(uniform("c"), Counter(y=1))]
