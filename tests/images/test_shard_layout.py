"""The layout of packed images is a function of the set of images alone."""

import hashlib

from hypothesis import example, given
from hypothesis import strategies as st

from steps.images.shard_layout import BLOCK, MEAN, PAYS_AT, Layout, digits_for, layout, pays

SETS = st.dictionaries(st.binary(max_size=8), st.integers(0, 3_000), max_size=60)


def ids_of(images: dict[bytes, int]) -> dict[str, int]:
    return {hashlib.sha256(name).hexdigest(): size for name, size in images.items()}


def told(shape: Layout) -> list[tuple[str, list[tuple[bytes, int, int]]]]:
    facts = list(zip(shape.ids.tolist(), shape.sizes.tolist(), shape.starts.tolist(), strict=True))
    return [(name, facts[places.start : places.stop]) for name, places in shape.shards()]


@given(SETS, st.randoms(use_true_random=False))
def test_neither_the_order_of_arrival_nor_a_second_copy_leaves_a_trace(images: dict[bytes, int], rng: object) -> None:
    known = list(ids_of(images).items())
    arrived = known + known[:5]
    rng.shuffle(arrived)  # type: ignore[attr-defined]
    assert told(layout(*columns(arrived))) == told(layout(*columns(known)))


def columns(rows: list[tuple[str, int]]) -> tuple[list[str], list[int]]:
    return [identity for identity, _ in rows], [size for _, size in rows]


@given(SETS)
def test_each_image_lies_in_the_shard_of_its_first_digits_behind_the_one_before(images: dict[bytes, int]) -> None:
    known = ids_of(images)
    shape = layout(list(known), list(known.values()))
    for name, members in told(shape):
        end = 0
        for identity, size, start in members:
            assert name == f"images-{identity.decode()[: shape.digits]}.tar"
            assert start == end + BLOCK
            end = start + -(-size // BLOCK) * BLOCK
    assert {identity: shape.shard(place) for identity in known if (place := shape.find(identity)) is not None} == {
        identity: f"images-{identity[: shape.digits]}.tar" for identity in known
    }
    assert shape.find(hashlib.sha256(b"of no image: longer than eight").hexdigest()) is None


@given(SETS, st.binary(min_size=9, max_size=12), st.integers(0, 3_000))
def test_one_more_image_touches_one_shard(images: dict[bytes, int], new: bytes, size: int) -> None:
    known = ids_of(images)
    more = known | ids_of({new: size})
    before, after = (dict(told(layout(list(some), list(some.values())))) for some in (known, more))
    assert len([name for name in after if after[name] != before.get(name)]) == 1
    assert set(before) <= set(after)


def test_the_number_of_digits_follows_from_the_size_of_the_set() -> None:
    at = [0, 16 * MEAN, 16 * MEAN + 1, 256 * MEAN, 256 * MEAN + 1, 4096 * MEAN + 1, 10**15]
    assert [digits_for(total) for total in at] == [1, 1, 2, 2, 3, 4, 4]


def test_packing_pays_for_many_small_images_alone() -> None:
    assert pays(5_000, 5_000 * 4_000) and pays(100_000, 100_000 * 40_000)
    assert not pays(4_999, 4_999 * 4_000), "few files cost nothing, packed or not"
    assert not pays(10_000, 10_000 * 5_000_000), "a shard of two photographs is no shard"


@given(st.integers(0, 200_000), st.integers(0, 200_000), st.integers(0, 200_000))
@example(21_000, 1_000, 100_000)  # where the number of digits grows
@example(21_000, 1_000, 50_000)
@example(42_000, 1_000, 50_000)
def test_more_images_of_the_same_size_never_turn_packed_into_loose(count: int, more: int, size: int) -> None:
    assert pays(count, count * size) <= pays(count + more, (count + more) * size)


@given(st.integers(5_000, 10**7), st.integers(0, 60_000))
def test_what_is_packed_has_many_images_to_a_shard(count: int, size: int) -> None:
    if pays(count, count * size):
        assert count >= PAYS_AT * 16 ** digits_for(count * size)
