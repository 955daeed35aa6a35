"""Bad and odd files through ingest itself: every one gets its verdict, and no damage costs a good image."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.images import containers, decoding
from steps.images.manifest import Row
from steps.ingest import IngestParams, SplitLimits, ingest
from tests.corpus import BAD, GOOD, LOSSY, PNG, Specimen, jpeg_with, many_scans

PARAMS = IngestParams(validation_share=0.3, test_share=0.25)
LIMITS = SplitLimits(
    min_train_per_class=1, min_val_per_class=1, min_test_per_class=1, copy_bits=6, copy_correlation=0.99
)


def ingested(raw: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    ingest(PARAMS, LIMITS, raw, raw.parent / "manifest.parquet", raw.parent / "quarantine.csv")
    # Python's own reader takes a lone carriage return inside quotes for what it is.
    rejected = pd.read_csv(raw.parent / "quarantine.csv", keep_default_na=False, engine="python")
    return pd.read_parquet(raw.parent / "manifest.parquet").set_index("path"), rejected.set_index("path")


def write(raw: Path, name: str, data: bytes) -> None:
    (raw / name).parent.mkdir(parents=True, exist_ok=True)
    (raw / name).write_bytes(data)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    raw = tmp_path_factory.mktemp("corpus") / "raw"
    for specimen in (*GOOD, *BAD):
        write(raw, f"odd/{specimen.name}", specimen.data)
    write(raw, "one alone/a.png", PNG)
    for litter in (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "__MACOSX/odd/._a.png", ".hidden/a.png"):
        write(raw, litter, b"litter")
        write(raw, f"odd/{litter}", b"litter")
    (raw / "class of nothing").mkdir()
    write(raw, "README.txt", b"beside the class folders")
    write(raw, "left behind.png", PNG)
    (raw / "odd/to nowhere.png").symlink_to(raw / "missing.png")
    (raw / "odd/to itself.png").symlink_to(raw / "odd/to itself.png")
    (raw / "odd/round and round").symlink_to(raw, target_is_directory=True)
    (raw / "linked class").symlink_to(raw / "one alone", target_is_directory=True)
    os.mkfifo(raw / "odd/a pipe that nobody writes to.png")
    (raw / os.fsdecode(b"odd/no \xff utf-8.png")).write_bytes(PNG)
    yield ingested(raw)


PLACES = {
    "README.txt": "beside the class folders: no label",
    "left behind.png": "beside the class folders: no label",
    "odd/to nowhere.png": "cannot be read",
    "odd/to itself.png": "cannot be read",
    "odd/round and round": "a linked folder",
    "linked class": "a linked folder",
    "odd/a pipe that nobody writes to.png": "a pipe, socket or device",
    "odd/no \\udcff utf-8.png": "the name is not UTF-8",
}


def test_the_corpus_is_large_enough_and_names_no_file_twice() -> None:
    names = [specimen.name for specimen in (*GOOD, *BAD)]
    assert len(names) + len(PLACES) >= 60
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("specimen", GOOD, ids=lambda s: repr(s.name))
def test_an_odd_file_that_shows_a_picture_is_kept(
    specimen: Specimen, verdicts: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    kept, rejected = verdicts
    assert f"odd/{specimen.name}" not in rejected.index, rejected.loc[f"odd/{specimen.name}"].to_dict()
    assert kept.loc[f"odd/{specimen.name}", "bytes"] == len(specimen.data)
    pixels = np.asarray(decoding.decode(specimen.data)).astype(int)
    height, width = pixels.shape[:2]
    for x, wanted in ((width // 4, specimen.shows[0]), (3 * width // 4, specimen.shows[1])):
        found = pixels[height // 2, x]
        assert np.abs(found - wanted).max() <= specimen.tolerance, f"{found} instead of {wanted}"


@pytest.mark.parametrize("specimen", BAD, ids=lambda s: repr(s.name))
def test_a_file_that_shows_none_is_quarantined_with_its_reason(
    specimen: Specimen, verdicts: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    kept, rejected = verdicts
    assert f"odd/{specimen.name}" not in kept.index
    found = rejected.loc[f"odd/{specimen.name}"]
    assert found["reason"].startswith(specimen.verdict)
    assert (found["exception"] != "") == (specimen.verdict.split()[0] in ("damaged", "not", "an", "too"))


@pytest.mark.parametrize("path", PLACES)
def test_a_file_in_an_odd_place_is_quarantined_with_its_reason(
    path: str, verdicts: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    assert verdicts[1].loc[path, "reason"].startswith(PLACES[path])


def test_nothing_else_is_kept_or_quarantined(verdicts: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    kept, rejected = verdicts
    assert set(kept.index) == {"one alone/a.png", *(f"odd/{specimen.name}" for specimen in GOOD)}
    assert set(rejected.index) == {*PLACES, *(f"odd/{specimen.name}" for specimen in BAD)}
    assert set(kept["label"]) == {"odd", "one alone"}
    assert list(kept.reset_index()[list(Row._fields)].columns) == list(Row._fields)


# Damage


SOURCES = [s for s in (*GOOD, *BAD) if 0 < len(s.data) < 20_000]
WITNESSES = [s for s in GOOD if s.name in ("turned 6.jpg", "palette.png", "sixteen bits.tiff", "first frame.webp")]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a file of the corpus and cut, flip, repeat or splice it with another."""
    data = bytearray(draw(st.sampled_from(SOURCES)).data)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, min(100, len(data) - 1))) | st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "flip", "set", "cut", "remove", "repeat", "splice"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[at : at + 4] = draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]))
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 50))
        else:
            other = draw(st.sampled_from(SOURCES)).data
            data[at:] = other[draw(st.integers(0, len(other) - 1)) :]
    return bytes(data)


@pytest.mark.timeout(300)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(damaged(), min_size=1, max_size=12))
def test_damaged_files_never_stop_ingest_nor_cost_a_good_image(
    tmp_path_factory: pytest.TempPathFactory, files: list[bytes]
) -> None:
    raw = tmp_path_factory.mktemp("fuzz") / "raw"
    for i, data in enumerate(files):
        write(raw, f"odd/damaged {i}", data)
    for specimen in WITNESSES:
        write(raw, f"good/{specimen.name}", specimen.data)
    kept, rejected = ingested(raw)
    assert {f"good/{specimen.name}" for specimen in WITNESSES} <= set(kept.index)
    assert sorted([*kept.index, *rejected.index]) == sorted(
        path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()
    )
    assert (kept["width"] * kept["height"] <= decoding.MAX_PIXELS).all()
    assert kept["brightness"].between(0, 1).all()


SEGMENTS = {
    0xE1: b"Exif\0\0MM\0*\0\0\0\x08",
    0xE2: b"MPF\0II*\0\x08\0\0\0",
    0xED: b"Photoshop 3.0\x008BIM",
    0xEE: b"",
    0xFE: b"",
}


@settings(max_examples=300)
@given(st.sampled_from(sorted(SEGMENTS)), st.binary(max_size=200))
def test_whatever_stands_in_a_jpegs_notes_the_picture_is_kept(marker: int, rest: bytes) -> None:
    image = decoding.decode(jpeg_with(marker, SEGMENTS[marker] + rest))
    assert sorted(image.size) == [24, 32]
    decoding.inspect(jpeg_with(marker, SEGMENTS[marker] + rest))


@pytest.mark.parametrize("count", [1, 2, 20, 100])
def test_scans_are_counted_up_to_the_limit(count: int) -> None:
    assert containers.scans(many_scans(max(count, 10))) == max(count, 10)
    assert decoding.decode(many_scans(max(count, 10))).size == (32, 32)


def test_lossy_formats_are_told_apart_from_exact_ones() -> None:
    assert sum(specimen.tolerance > 2 for specimen in GOOD) <= 30
    assert LOSSY["tolerance"] <= 6
