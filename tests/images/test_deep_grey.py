"""Deep grey is scaled by what its file declares, else by the depth that its set uses: 12-bit data is not black."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image, TiffImagePlugin

from steps.images import containers, deep_grey
from steps.images.decoding import decode, examine
from steps.images.deep_grey import LARGEST, bits_of, used_bits
from steps.ingest import IngestParams, SplitLimits, ingest

Pixels = np.ndarray[Any, Any]
PARAMS = IngestParams(validation_share=0.3, test_share=0.25)
LIMITS = SplitLimits(
    min_train_per_class=1, min_val_per_class=1, min_test_per_class=1, copy_bits=6, copy_correlation=0.99
)
UP_TO_4095 = np.linspace(0, 4095, 63).astype(np.uint16).reshape(9, 7)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(values: Pixels, significant: int | None = None, **options: Any) -> bytes:
    """Return a PNG of 16-bit grey, perhaps with a chunk sBIT."""
    data = saved(Image.fromarray(values.astype(np.uint16)), "PNG", **options)
    if significant is None:
        return data
    chunk = b"sBIT" + bytes([significant])
    return data[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def tiff(values: Pixels, kind: type[np.generic] = np.uint16, **tags: int) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[int(name.removeprefix("tag"))] = value
    return saved(Image.fromarray(values.astype(kind)), "TIFF", tiffinfo=directory)


def signed_tiff(values: Pixels) -> bytes:
    """Return a TIFF of 16 bits with a sign, which Pillow reads but does not write."""
    height, width = values.shape
    fields = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 2 * height * width),
        (339, 2),
    ]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    pixels = values.astype("<i2").tobytes()
    fields_at = 8 + len(pixels)
    return b"II*\0" + struct.pack("<I", fields_at) + pixels + struct.pack("<H", len(fields)) + entries + bytes(4)


def pgm(values: Pixels, most: int) -> bytes:
    return f"P5 {values.shape[1]} {values.shape[0]} {most}\n".encode() + values.astype(">u2").tobytes()


class File(NamedTuple):
    """How a file is written, what is measured of it, and which of its values becomes white in a set of 12 bits."""

    name: str
    data: bytes
    largest: int
    white: int


FILES = [
    File("PNG", png(UP_TO_4095), 4095, 4095),
    File("PNG, dark", png(UP_TO_4095 // 8), 511, 4095),
    File("PNG that declares 12 significant bits", png(UP_TO_4095 // 8, significant=12), 4095, 4095),
    File(
        "PNG with a transparent level",
        png(np.where(UP_TO_4095 == 0, 60000, UP_TO_4095), transparency=60000),
        4095,
        4095,
    ),
    File("TIFF", tiff(UP_TO_4095), 4095, 4095),
    File("TIFF, compressed", saved(Image.fromarray(UP_TO_4095), "TIFF", compression="tiff_lzw"), 4095, 4095),
    File("TIFF with a sign", signed_tiff(UP_TO_4095), 4095, 4095),
    File("TIFF of 32 bits", tiff(UP_TO_4095, np.int32), 4095, 4095),
    File("TIFF that declares its largest sample", tiff(UP_TO_4095 // 2, tag341=16383), 0, 16383),
    File("PGM of all 16 bits", pgm(UP_TO_4095, 65535), 4095, 4095),
    File("PGM that declares 10 bits", pgm(UP_TO_4095 // 4, 1023), 0, 1023),
    File("float TIFF", tiff(UP_TO_4095 / 65535, np.float32), 0, 1),
    File("8-bit PNG", saved(Image.fromarray((UP_TO_4095 // 16).astype(np.uint8)), "PNG"), 0, 255),
]


def colour_png(values: Pixels) -> bytes:
    """Return a PNG of 16-bit colour [h, w, 3 or 4] or grey with alpha [h, w, 2], for Pillow writes none."""
    height, width, channels = values.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    kind = {2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def colour_tiff(values: Pixels, order: str, compressed: bool = False) -> bytes:
    """Return a TIFF of 16-bit RGB, uncompressed or with deflate."""
    height, width, _ = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if compressed else pixels
    bits_at = 8 + len(pixels) + len(pixels) % 2
    fields = {256: width, 257: height, 258: bits_at, 259: 8 if compressed else 1, 262: 2, 273: 8, 277: 3}
    fields |= {278: height, 279: len(pixels)}
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 3, 3, value) if tag == 258 else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in fields.items()
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", bits_at + 6)
    pixels += bytes(len(pixels) % 2)
    return head + pixels + struct.pack(f"{order}HHHH", 16, 16, 16, len(fields)) + entries + bytes(4)


COLOURS = np.stack([UP_TO_4095, UP_TO_4095[::-1], UP_TO_4095 // 2], axis=2)
OPAQUE = np.full((9, 7, 1), 65535)
COLOURED = {
    "PNG": (colour_png(COLOURS), COLOURS),
    "PNG with alpha": (colour_png(np.concatenate([COLOURS, OPAQUE], axis=2)), COLOURS),
    "PNG with alpha of 12 bits": (colour_png(np.concatenate([COLOURS, OPAQUE // 16], axis=2)), COLOURS),
    "PNG of grey with alpha": (
        colour_png(np.concatenate([UP_TO_4095[..., None], OPAQUE], axis=2)),
        UP_TO_4095[..., None],
    ),
    "TIFF": (colour_tiff(COLOURS, "<"), COLOURS),
    "compressed TIFF": (colour_tiff(COLOURS, "<", compressed=True), COLOURS),
    "big-endian compressed TIFF": (colour_tiff(COLOURS, ">", compressed=True), COLOURS),
    "big-endian TIFF": (colour_tiff(COLOURS, ">"), COLOURS),
}


@pytest.mark.parametrize("name", COLOURED)
def test_colour_of_16_bits_is_measured_and_scaled_likewise(name: str) -> None:
    data, values = COLOURED[name]
    _, decoded = examine(data, 12)
    assert decoded.largest == 4095
    assert np.abs(np.asarray(decoded.image) - np.rint(values / 4095 * 255)).max() <= 1
    with Image.open(io.BytesIO(data)) as image:
        as_ever = image.convert("RGBA").convert("RGB") if "alpha" not in name else None
    assert as_ever is None or np.array_equal(np.asarray(decode(data)), np.asarray(as_ever))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_scaled_by_its_declaration_or_the_sets_depth(file: File) -> None:
    _, decoded = examine(file.data, 12)
    assert decoded.largest == file.largest
    with Image.open(io.BytesIO(file.data)) as image:
        stored = np.asarray(image).astype(np.float64) * (1023 / 65535 if "10 bits" in file.name else 1)
    wanted = np.rint(255 * (stored / file.white).clip(0, 1))
    assert np.abs(np.asarray(decoded.image)[..., 0] - wanted).max() <= 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_without_a_set_and_in_one_of_full_depth_a_file_is_read_as_ever(file: File) -> None:
    assert np.array_equal(np.asarray(decode(file.data)), np.asarray(decode(file.data, deep_grey.FULL)))


def test_jpeg_2000_is_measured_if_it_declares_16_bits() -> None:
    data = saved(Image.fromarray(UP_TO_4095), "JPEG2000", irreversible=False)
    assert examine(data, None)[1].largest == 4095
    place = data.find(b"\xff\x4f\xff\x51") + 42
    assert data[place] == 15
    assert containers.jpeg2000_bits(data[:place] + b"\x0b" + data[place + 1 :]) == 12


def test_white_is_zero_is_respected_at_the_depth_of_the_set() -> None:
    plain, inverted = decode(tiff(UP_TO_4095), 12), decode(tiff(UP_TO_4095, tag262=0), 12)
    assert np.array_equal(np.asarray(inverted), 255 - np.asarray(plain))


def test_a_single_picture_with_larger_values_is_clipped_to_white() -> None:
    assert np.asarray(decode(png(UP_TO_4095 * 16), 12))[1:].min() == 255


@pytest.mark.parametrize(
    ("largest", "bits"), [(1, 8), (255, 8), (256, 9), (1023, 10), (4095, 12), (4096, 13), (32767, 15), (65535, 16)]
)
def test_the_depth_is_the_least_that_holds_every_value(largest: int, bits: int) -> None:
    assert bits_of(largest) == bits


def radiograph(seed: int, most: int) -> Pixels:
    coarse = np.random.default_rng(seed).integers(0, most, (8, 8)).astype(np.float32)
    fine = np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BILINEAR)).copy()
    fine[0, 0] = most
    rounded: Pixels = np.rint(fine)
    return rounded


def read(root: Path, pictures: dict[str, bytes]) -> pd.DataFrame:
    for name, data in pictures.items():
        (root / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "raw" / name).write_bytes(data)
    ingest(PARAMS, LIMITS, root / "raw", root / "manifest.parquet", root / "quarantine.csv")
    return pd.read_parquet(root / "manifest.parquet")


def a_set(write: Callable[[Pixels], bytes], most: int) -> dict[str, bytes]:
    return {f"{'ab'[n % 2]}/{n}.png": write(radiograph(n, most)) for n in range(12)}


@pytest.mark.parametrize("most", [1023, 4095, 16383])
@pytest.mark.parametrize("write", [png, tiff, signed_tiff])
def test_a_set_of_few_bits_has_the_facts_of_the_same_set_stretched(
    tmp_path: Path, write: Callable[[Pixels], bytes], most: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Field trial B28: of 4,096 grey levels 16 were left, and nothing was said."""
    caplog.set_level("INFO", "regraft")
    table = read(tmp_path / "few", a_set(write, most))
    stretched = {name: png(radiograph(int(name[2:-4]), most) * (65535 // most)) for name in a_set(write, most)}
    control = read(tmp_path / "full", stretched)
    assert np.allclose(table["brightness"], control["brightness"], atol=1 / 255)
    assert (table["contrast"] > 0.1).all()
    assert used_bits(table) == most.bit_length() and used_bits(control) is None
    bits = most.bit_length()
    assert f"12 pictures of 16 bits: the largest value is {most:,}; they are read as {bits}-bit" in caplog.messages


def test_a_larger_picture_changes_the_range_of_all_and_no_id(tmp_path: Path) -> None:
    before = read(tmp_path, a_set(png, 1023))
    after = read(tmp_path, {"a/bright.png": png(radiograph(99, 4095))})
    assert (used_bits(before), used_bits(after)) == (10, 12)
    old = after[after["path"] != "a/bright.png"]
    assert old["id"].tolist() == before["id"].tolist()
    assert (old["brightness"].to_numpy() < before["brightness"].to_numpy() / 3).all()


def test_pictures_of_another_depth_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read(tmp_path, {**a_set(png, 4095), "b/full.png": png(radiograph(99, 65535))})
    assert used_bits(table) is None
    assert len(deep_grey.shallow(table)) == 12 and "b/full.png" not in deep_grey.shallow(table)
    assert "12 of 13 pictures of 16 bits (92 %) use less than an eighth of that range" in caplog.text


def test_a_set_without_deep_grey_has_no_column_for_it(tmp_path: Path) -> None:
    table = read(tmp_path, a_set(lambda values: saved(Image.fromarray((values % 256).astype(np.uint8)), "PNG"), 255))
    assert LARGEST not in table and used_bits(table) is None
