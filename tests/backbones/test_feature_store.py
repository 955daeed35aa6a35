"""The store gives back what was put in, bit for bit, or says that it is not there."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.backbones.feature_store import FeatureStore
from steps.errors import IntegrityError

KEY = {"backbone": "b" * 64, "cut": ""}
WIDTH = 3
RECORD = 32 + 4 * WIDTH + 8


def ids_of(*numbers: int) -> list[str]:
    return [hashlib.sha256(bytes([number])).hexdigest() for number in numbers]


def rows_of(*numbers: int) -> Any:
    return np.stack([np.random.default_rng(number).normal(size=WIDTH) for number in numbers]).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path, KEY, WIDTH)
    made.add(ids_of(1, 2, 3), rows_of(1, 2, 3))
    return made


def again(store: FeatureStore, key: dict[str, Any] = KEY, width: int = WIDTH) -> FeatureStore:
    return FeatureStore(store.path.parents[1], key, width)


def test_rows_come_back_bit_for_bit_in_the_order_asked_for(store: FeatureStore) -> None:
    for opened in (store, again(store)):
        rows = opened.rows(ids_of(3, 1, 3))
        assert rows.shape == (3, WIDTH)
        assert rows[0:2].tobytes() == rows_of(3, 1).tobytes()
        assert rows[2:9].tobytes() == rows_of(3).tobytes()


def test_what_is_missing_is_told_in_order_and_refused_as_rows(store: FeatureStore) -> None:
    assert store.missing(ids_of(9, 1, 7, 2)) == ids_of(9, 7)
    with pytest.raises(IntegrityError, match=r"1 rows .* cannot be read back"):
        store.rows(ids_of(1, 7))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 3 * RECORD - 1), bit=st.integers(0, 7))
def test_a_record_with_any_bit_flipped_is_not_there_and_the_others_are(
    store: FeatureStore, place: int, bit: int
) -> None:
    sound = store.path.read_bytes()
    damaged = bytearray(sound)
    damaged[place] ^= 1 << bit
    store.path.write_bytes(damaged)
    hit = place // RECORD + 1
    opened = again(store)
    assert opened.missing(ids_of(1, 2, 3)) == ids_of(hit)
    opened.add(ids_of(hit), rows_of(hit))
    assert opened.rows(ids_of(1, 2, 3))[0:3].tobytes() == rows_of(1, 2, 3).tobytes()
    store.path.write_bytes(sound)


@pytest.mark.parametrize("cut_off", [1, 8, 30, RECORD - 1, RECORD, RECORD + 5])
def test_a_write_cut_off_loses_its_last_records_and_spoils_no_later_one(store: FeatureStore, cut_off: int) -> None:
    store.path.write_bytes(store.path.read_bytes()[:-cut_off])
    opened = again(store)
    lost = opened.missing(ids_of(1, 2, 3))
    assert lost == (ids_of(3) if cut_off <= RECORD else ids_of(2, 3))
    opened.add(ids_of(4), rows_of(4))
    opened.add(lost, rows_of(3) if len(lost) == 1 else rows_of(2, 3))
    assert again(store).rows(ids_of(1, 2, 3, 4))[0:4].tobytes() == rows_of(1, 2, 3, 4).tobytes()


@pytest.mark.parametrize("key", [{**KEY, "cut": "layer2"}, {**KEY, "backbone": "c" * 64}, {**KEY, "threads": 1}])
def test_rows_computed_in_another_way_are_not_found_nor_believed_when_copied(
    store: FeatureStore, key: dict[str, Any]
) -> None:
    other = again(store, key)
    assert other.missing(ids_of(1, 2, 3)) == ids_of(1, 2, 3)
    other.path.write_bytes(store.path.read_bytes())
    assert again(store, key).missing(ids_of(1, 2, 3)) == ids_of(1, 2, 3)


def test_a_store_of_another_width_under_the_same_name_is_not_believed(store: FeatureStore) -> None:
    wider = again(store, width=WIDTH + 1)
    assert wider.missing(ids_of(1, 2, 3)) == ids_of(1, 2, 3)
    rows = np.ones((1, WIDTH + 1), dtype=np.float32)
    wider.add(ids_of(1), rows)
    assert wider.rows(ids_of(1))[0:1].tobytes() == rows.tobytes()


def test_writers_and_readers_at_once_lose_and_mix_up_nothing(store: FeatureStore) -> None:
    def write(first: int) -> None:
        mine = again(store)
        for number in range(first, first + 20):
            mine.add(ids_of(number), rows_of(number))
            mine.missing(ids_of(1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [10, 30, 50, 50]))
    numbers = range(10, 70)
    assert again(store).rows(ids_of(*numbers))[0:60].tobytes() == rows_of(*numbers).tobytes()
