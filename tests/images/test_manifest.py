"""A key alone decides its split, for ever; counts are counts."""

import hashlib
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.images.manifest import SPLITS, TEST, TRAIN, VAL, assign_split, class_counts, classes_of, uniform

shares = st.floats(0.01, 0.8)
ORDER = {TEST: 0, VAL: 1, TRAIN: 2}  # along the line from 0 to 1


def reference(key: str, validation_share: float, test_share: float) -> str:
    """Say the rule in exact arithmetic."""
    position = Fraction(int(hashlib.sha256(key.encode()).hexdigest()[:16], 16), 2**64)
    test = Fraction(test_share)
    if position < test:
        return TEST
    return VAL if (position - test) / (1 - test) < Fraction(validation_share) else TRAIN


def test_the_position_of_a_key_is_the_one_that_sha256_gives_on_every_machine() -> None:
    # First 16 digits of the standard's own test vectors: "", "abc" (FIPS 180-4).
    assert uniform("") == 0xE3B0C44298FC1C14 / 2**64
    assert uniform("abc") == 0xBA7816BF8F01CFEA / 2**64


@settings(deadline=None)
@given(st.text(), shares, shares)
def test_the_split_is_the_reference_rule_applied_to_the_key_alone(key: str, validation: float, test: float) -> None:
    assert assign_split(key, validation, test) == reference(key, validation, test)


@settings(deadline=None)
@given(st.sets(st.text(), min_size=1), st.sets(st.text()), shares, shares)
def test_adding_keys_never_moves_an_old_one(old: set[str], new: set[str], validation: float, test: float) -> None:
    def splits(keys: set[str]) -> dict[str, str]:
        return {key: assign_split(key, validation, test) for key in sorted(keys)}

    before, after = splits(old), splits(old | new)
    assert before == {key: after[key] for key in old}


@settings(deadline=None)
@given(st.text(), shares, shares, shares, shares)
def test_larger_shares_only_ever_pull_images_towards_the_test_end(
    key: str, validation: float, more: float, test: float, larger: float
) -> None:
    low, high = sorted((validation, more))
    least, most = sorted((test, larger))
    assert (assign_split(key, high, test) == TEST) == (assign_split(key, low, test) == TEST)
    assert ORDER[assign_split(key, high, test)] <= ORDER[assign_split(key, low, test)]
    assert ORDER[assign_split(key, validation, most)] <= ORDER[assign_split(key, validation, least)]


@pytest.mark.parametrize(("validation", "test"), [(0.25, 0.2), (0.1, 0.0), (0.5, 0.5), (0.8, 0.8)])
def test_twenty_thousand_keys_fall_into_the_shares_asked_for(validation: float, test: float) -> None:
    n = 20_000
    found = Counter(assign_split(hashlib.sha256(str(i).encode()).hexdigest(), validation, test) for i in range(n))
    expected = {TEST: test, VAL: (1 - test) * validation, TRAIN: (1 - test) * (1 - validation)}
    for split, share in expected.items():
        assert abs(found[split] - n * share) <= 4.5 * math.sqrt(n * share * (1 - share)), split


pairs = st.lists(st.tuples(st.sampled_from(SPLITS), st.sampled_from(["", "ant", "Bee", "wasp", "änt"])))


@given(pairs)
def test_class_counts_are_the_counts_of_the_pairs_in_a_fixed_order(rows: list[tuple[str, str]]) -> None:
    counts = class_counts(rows)
    assert {(s, label): n for s, labels in counts.items() for label, n in labels.items()} == Counter(rows)
    assert list(counts) == [split for split in SPLITS if split in counts]
    assert all(list(labels) == sorted(labels) for labels in counts.values())


@given(pairs)
def test_the_classes_are_the_sorted_labels_of_the_labelled_splits(rows: list[tuple[str, str]]) -> None:
    assert classes_of(class_counts(rows)) == sorted({label for split, label in rows if split != "unlabelled"})
