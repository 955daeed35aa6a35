"""Cached features on disk: one safetensors file, a row per image and cut, read without loading the other cuts."""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from steps.errors import IntegrityError
from steps.runtime.cuts import WHOLE
from steps.runtime.files import replacing

STRETCH = 4096  # rows of features in memory at a time


class Rows(Protocol):
    """Float rows [n, width] that can be read in slices: an array, or something larger than memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (n, width)."""
        ...

    def __getitem__(self, stretch: slice, /) -> np.ndarray[Any, Any]:
        """Return a slice of the rows."""
        ...


class Features(NamedTuple):
    """Image ids (SHA-256 in hexadecimal) and, in the same order, float32 rows [n, width]."""

    ids: list[str]
    rows: npt.NDArray[np.float32]

    def of(self, ids: Iterable[str]) -> npt.NDArray[np.float32]:
        """Return the rows of these images, in their order; KeyError for an image without features."""
        index = {identity: i for i, identity in enumerate(self.ids)}
        return np.asarray(self.rows[[index[identity] for identity in ids]])


def write_features(path: Path, ids: list[str], cuts: Mapping[str, Rows]) -> None:
    """Write the features [n, width] of each cut as float32, and their image ids (SHA-256 in hexadecimal), atomically.

    The file is a safetensors file whose tensors lie uncompressed, so that `read_features` maps one cut without
    reading the others. Rows are written a stretch at a time to keep memory flat; `save_file` would not.
    """
    shapes = {"ids": ("U8", (len(ids), 32)), **{f"cut/{c}": ("F32", cuts[c].shape) for c in sorted(cuts)}}
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_safetensors_header(shapes))
        file.write(bytes.fromhex("".join(ids)))
        for cut in sorted(cuts):
            for start in range(0, len(ids), STRETCH):
                file.write(np.ascontiguousarray(cuts[cut][start : start + STRETCH], dtype="<f4").tobytes())


def _safetensors_header(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the head of a safetensors file: length, then JSON with dtype, shape and offsets of each tensor."""
    entries, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + math.prod(shape) * (4 if dtype == "F32" else 1)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def feature_cuts(path: Path) -> list[str]:
    """Return the names of the cuts whose features the file holds, sorted by name."""
    with path.open("rb") as file:
        entries, _ = _features_header(file)
    return sorted(name.removeprefix("cut/") for name in entries if name != "ids")


def read_features(path: Path, cut: str = WHOLE) -> Features:
    """Return the image ids and, in the same order, the features of a cut, mapped into memory.

    Raises IntegrityError if the file does not hold the cut.
    """
    with path.open("rb") as file:
        entries, start = _features_header(file)
        ids = file.read(32 * entries["ids"]["shape"][0])
    if f"cut/{cut}" not in entries:
        has = ", ".join(repr(name.removeprefix("cut/")) for name in entries if name != "ids")
        raise IntegrityError(f"{path.name} holds no features of the cut {cut!r}; it has {has}")
    entry = entries[f"cut/{cut}"]
    n, width = entry["shape"]
    if n == 0:  # an empty file cannot be mapped
        return Features([], np.empty((0, width), dtype=np.float32))
    rows = np.memmap(path, dtype="<f4", mode="r", offset=start + entry["data_offsets"][0], shape=(n, width))
    return Features([ids[start : start + 32].hex() for start in range(0, len(ids), 32)], rows)


def _features_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's entries, and the offset of its tensors."""
    (length,) = struct.unpack("<Q", file.read(8))
    return json.loads(file.read(length)), 8 + length
