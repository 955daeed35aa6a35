"""Packed images: standard tars, the same for the same set, read by id and never believed unchecked."""

import hashlib
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.errors import DataError, IntegrityError, RequestError, UndecodableError
from steps.images import decoding, packing, shards
from steps.images.manifest import SHARDS
from steps.images.packing import pack
from tests.conftest import tree, write

IMAGES = {f"ant/{i}.jpg": bytes([i]) * (i * 97) for i in range(40)} | {"bee/a copy.jpg": bytes([7]) * (7 * 97)}


def identity(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    pack(write(tmp_path / "source", IMAGES), tmp_path / "raw", tmp_path / "memory")
    return tmp_path / "raw"


def again(raw: Path) -> int:
    source = raw.parent / "source"
    wanted = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    return pack(wanted, raw, raw.parent / "memory")


def test_what_was_packed_is_read_by_id_and_by_path(raw: Path) -> None:
    read = decoding.reader(raw)
    for name, data in IMAGES.items():
        assert decoding.bytes_of(raw, name, identity(data)) == data == read(name)


def test_a_shard_is_a_tar_that_tar_reads_at_the_places_that_the_layout_says(raw: Path) -> None:
    shape, found = shards.Packed(raw).layout, {}
    for path in sorted((raw / SHARDS).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                place = shape.find(member.name)
                assert place is not None
                assert (path.name, member.offset_data) == (shape.shard(place), shape.starts[place])
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                found[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    assert found == {identity(data): data for data in IMAGES.values()}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(sorted(IMAGES)), st.integers(0, len(IMAGES)))
def test_the_order_of_arrival_leaves_no_trace(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], first: int
) -> None:
    home = tmp_path_factory.mktemp("order")
    early = write(home / "source", {name: IMAGES[name] for name in order[:first]})
    pack(early | write(home / "source", {"gone.jpg": b"gone"}), home / "raw", home / "memory")
    pack(early | write(home / "source", {name: IMAGES[name] for name in order[first:]}), home / "raw", home / "memory")
    pack(write(home / "once", IMAGES), home / "at once", home / "no memory")
    assert tree(home / "raw") == tree(home / "at once")


def test_a_second_pass_writes_nothing_and_a_new_image_one_shard_and_a_name_none(raw: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (raw / SHARDS).iterdir()}
    assert again(raw) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (raw / SHARDS).iterdir()} == before
    write(raw.parent / "source", {"wasp/new.jpg": b"new"})
    assert again(raw) == 1
    assert decoding.reader(raw)("wasp/new.jpg") == b"new"
    (raw.parent / "source/wasp/new.jpg").rename(raw.parent / "source/wasp/renamed.jpg")
    assert again(raw) == 0
    assert decoding.reader(raw)("wasp/renamed.jpg") == b"new"
    with pytest.raises(FileNotFoundError):
        decoding.reader(raw)("wasp/new.jpg")


def test_without_its_memory_it_packs_the_same_bytes_once_more(raw: Path) -> None:
    before = tree(raw)
    (raw.parent / "memory").write_text("no table")
    assert again(raw) == len(before) - 1
    assert tree(raw) == before


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:600])


def swapped(shard: Path) -> None:
    other = next(path for path in sorted(shard.parent.glob("*.tar")) if path != shard)
    shard.write_bytes(other.read_bytes())


def flipped(shard: Path) -> None:
    shard.write_bytes(bytes(byte ^ 1 for byte in shard.read_bytes()))


@pytest.mark.parametrize("damage", [cut, swapped, flipped, Path.unlink])
def test_a_damaged_shard_is_refused_by_name_and_the_next_pass_heals_it(raw: Path, damage: object) -> None:
    before, data = tree(raw), IMAGES["ant/39.jpg"]
    shard = raw / SHARDS / f"images-{identity(data)[0]}.tar"
    damage(shard)  # type: ignore[operator]
    with pytest.raises(IntegrityError) as refused:
        for one in IMAGES.values():
            if identity(one)[0] == identity(data)[0]:
                decoding.bytes_of(raw, "any", identity(one))
    assert str(shard) in str(refused.value) and "`regraft run` packs it anew" in str(refused.value)
    assert again(raw) == 1
    assert tree(raw) == before


def overwritten(index: Path) -> None:
    index.write_bytes(b"PAR1 and nothing else")


def of_other_columns(index: Path) -> None:
    pd.DataFrame({"path": ["a"], "other": [1]}).to_parquet(index)


def emptied(index: Path) -> None:
    index.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flipped, Path.unlink, overwritten, of_other_columns, emptied])
def test_a_damaged_index_is_healed_by_the_next_pass_which_writes_no_shard(raw: Path, damage: object) -> None:
    before = tree(raw)
    damage(raw / SHARDS / shards.INDEX)  # type: ignore[operator]
    assert again(raw) == 0
    assert tree(raw) == before


def test_an_image_that_is_not_there_and_an_index_that_is_none_are_refused(raw: Path) -> None:
    with pytest.raises(IntegrityError, match="knows no image 000000000000"):
        decoding.bytes_of(raw, "any", "0" * 64)
    index = raw / SHARDS / shards.INDEX
    pd.DataFrame({"path": ["a"], "other": [1]}).to_parquet(index)
    with pytest.raises(DataError, match=r"index\.parquet is no table of path, id and bytes"):
        decoding.bytes_of(raw, "any", "0" * 64)
    index.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"index\.parquet is no table"):
        decoding.reader(raw)


def test_a_file_that_changes_while_it_is_packed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = write(tmp_path / "source", {"a.jpg": b"first", "b.jpg": b"other"})
    hashed = packing.files.sha256_of

    def and_then_it_changes(path: Path) -> str:
        told = hashed(path)
        if path.name == "a.jpg":
            path.write_bytes(b"FIRST")
        return told

    monkeypatch.setattr(packing.files, "sha256_of", and_then_it_changes)
    with pytest.raises(RequestError, match=r"a\.jpg changed while it was packed"):
        pack(wanted, tmp_path / "raw", tmp_path / "memory")


def test_files_that_changed_at_the_same_size_and_time_are_refused_once_and_then_packed(raw: Path) -> None:
    changed = {f"ant/{i}.jpg": b"!" * len(IMAGES[f"ant/{i}.jpg"]) for i in (37, 38, 39)}
    for name, data in changed.items():
        origin = raw.parent / "source" / name
        facts = origin.stat()
        origin.write_bytes(data)
        os.utime(origin, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        (raw / SHARDS / f"images-{identity(IMAGES[name])[0]}.tar").unlink(missing_ok=True)  # so that it is written anew
    with pytest.raises(RequestError, match=r"3[789]\.jpg changed while it was packed; run again"):
        again(raw)
    again(raw)
    assert {name: decoding.reader(raw)(name) for name in IMAGES} == IMAGES | changed
    assert again(raw) == 0


def test_memory_does_not_grow_with_the_bytes(tmp_path: Path, raw: Path) -> None:
    rng, megabytes = np.random.default_rng(0), 2**20
    wanted = write(tmp_path / "large", {f"{i}.jpg": rng.bytes(2 * megabytes) for i in range(24)})
    tracemalloc.start()
    try:
        pack(wanted, tmp_path / "large raw", tmp_path / "large memory")
        read = decoding.reader(tmp_path / "large raw")
        for name in wanted:
            read(name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * megabytes, "of 48"


def test_too_long_a_file_is_refused_before_it_is_read(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
    with pytest.raises(UndecodableError, match="3783 bytes; at most 1000"):
        decoding.reader(raw)("ant/39.jpg")
