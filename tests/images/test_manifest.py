"""The position of a key is the same everywhere; counts are counts."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.images.manifest import SPLITS, class_counts, classes_of, look_alikes, normal, uniform


def test_the_position_of_a_key_is_the_one_that_sha256_gives_on_every_machine() -> None:
    # First 16 digits of the standard's own test vectors: "", "abc" (FIPS 180-4).
    assert uniform("") == 0xE3B0C44298FC1C14 / 2**64
    assert uniform("abc") == 0xBA7816BF8F01CFEA / 2**64


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


@pytest.mark.parametrize(
    ("labels", "alike"),
    [
        (["Cat", "cat", "dog"], ["'Cat' (1) and 'cat' (1)"]),
        (["dog", "dog ", " dog"], ["' dog' (1) and 'dog' (1) and 'dog ' (1)"]),
        (
            ["red fox", "red  fox", "red_fox", "Red-Fox"],
            ["'Red-Fox' (1) and 'red  fox' (1) and 'red fox' (1) and 'red_fox' (1)"],
        ),
        (["cat\u00a0a", "cat a"], ["'cat a' (1) and 'cat\\xa0a' (1)"]),
        (["cat\u200b", "cat"], ["'cat' (1) and 'cat\\u200b' (1)"]),
        (["Straße", "STRASSE"], ["'STRASSE' (1) and 'Straße' (1)"]),
        (["１", "1"], ["'1' (1) and '１' (1)"]),
        (["1", "-1", "01", "1.0", "10", "1 0"], []),
        (["cat", "cats", "car"], []),
        (["c++", "c", "c#"], []),
    ],
)
def test_labels_that_people_take_for_one_look_alike(labels: list[str], alike: list[str]) -> None:
    assert look_alikes(Counter(labels)) == alike


def test_two_forms_of_a_word_are_one_label() -> None:
    assert normal("cafe\u0301") == normal("caf\u00e9") == "caf\u00e9"
