"""Copies are found wherever they stand; other pictures are not taken for copies."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.checks.duplicates import correlation, groups, leaking_copies, near_by_features, near_by_hash, same, without


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.lists(st.integers(0, 63), max_size=6)), max_size=30),
    st.integers(0, 8),
)
def test_every_two_hashes_within_the_limit_are_joined_and_no_others(
    drawn: list[int], changed: list[tuple[int, list[int]]], bits: int
) -> None:
    values = [*drawn]
    for place, flips in changed:
        values.append(values[place % len(drawn)] ^ sum({1 << flip for flip in flips}))
    found = near_by_hash([f"{value:016x}" for value in values], bits)
    assert all((values[i] ^ values[j]).bit_count() <= bits for i, j in found)
    reached = {(values[i], values[j]) for i, j in found.tolist()} | {(values[j], values[i]) for i, j in found.tolist()}
    for i, one in enumerate(values):
        for other in values[i + 1 :]:
            assert ((one, other) in reached) == ((one ^ other).bit_count() <= bits)


def test_a_hundred_thousand_hashes_take_a_moment() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2**64, 100_000, dtype=np.uint64)
    values[70_000] = values[3] ^ np.uint64(0b10001)
    found = near_by_hash([f"{value:016x}" for value in values], 6)
    assert [3, 70_000] in found.tolist() and len(found) < 10


def test_correlation_ignores_light_and_takes_no_flat_picture_for_a_copy() -> None:
    picture = np.random.default_rng(0).integers(0, 100, (32, 32)).astype(np.uint8)
    assert correlation(picture, picture * 2 + 10) == pytest.approx(1)
    assert correlation(picture, 200 - picture) == pytest.approx(-1)
    flat = np.full((32, 32), 9, np.uint8)
    grain = flat + (np.arange(32 * 32).reshape(32, 32) % 3).astype(np.uint8)  # the paper's, alike on every blank page
    assert [correlation(*pair) for pair in ((flat, flat + 5), (flat, picture), (grain, grain))] == [0, 0, 0]


def test_features_set_their_own_scale() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(60, 16))
    rows[40] = rows[7] + 0.01 * generator.normal(size=16)
    for scale in (1e-3, 1.0, 1e3):
        assert near_by_features(rows * scale, 0.25).tolist() == [[7, 40]]
    assert len(near_by_features(rows[:2], 0.25)) == 0


def test_pairs_join_to_groups_and_all_but_the_first_split_of_a_group_give_way() -> None:
    images = pd.DataFrame(
        {
            "id": list("abcdef"),
            "path": [f"{i}.png" for i in range(6)],
            "split": ["test", "train", "train", "val", "train", "train"],
            "label": ["x", "x", "y", "x", "y", "y"],
        }
    )
    first, second = groups(images, np.array([[0, 1], [1, 2], [4, 5]]))
    assert [image.path for image in first.images] == ["0.png", "1.png", "2.png"]
    assert (first.leaking, first.conflicting, first.identical) == (True, True, False)
    assert (second.leaking, second.conflicting) == (False, False)
    assert leaking_copies([first, second]) == ["1.png", "2.png"]
    assert without([first, second], ["1.png", "2.png"]) == (second,)
    assert without([first, second], ["5.png"]) == (first,)
    assert groups(images, np.empty((0, 2), dtype=np.int64)) == ()


@pytest.mark.parametrize(
    ("splits", "stay"),
    [
        (["val", "test"], ["test"]),
        (["train", "val"], ["val"]),
        (["train", "val", "test", "test"], ["test", "test"]),
        (["test", "train", "val"], ["test"]),
        (["train", "train"], ["train", "train"]),
    ],
)
def test_of_a_chain_of_copies_those_in_test_stay_else_those_in_validation(splits: list[str], stay: list[str]) -> None:
    images = pd.DataFrame({"id": list("abcd"), "path": list("ABCD"), "label": "x"}).head(len(splits))
    images["split"] = splits
    chain = np.array([[i, i + 1] for i in range(len(splits) - 1)])
    found = groups(images, chain)
    gone = leaking_copies(found)
    assert images["split"][~images["path"].isin(gone)].tolist() == stay
    assert not any(group.leaking for group in without(found, gone))


def test_images_of_the_same_bytes_are_paired_each_with_the_next() -> None:
    assert same(["b", "a", "b", "c", "b"]).tolist() == [[0, 2], [2, 4]]
    assert same([]).shape == (0, 2)
