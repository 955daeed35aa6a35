"""Files: atomic writes and the formats that stages exchange."""

import hashlib
import json
import math
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from steps.errors import IntegrityError

if TYPE_CHECKING:  # `regraft status` hashes and reads JSON; it must load neither pandas nor torch
    import numpy as np
    import pandas as pd
    import torch

LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what systems leave in folders
COMPILED = Path(".regraft/compiled")  # what torch compiles: by default under /tmp, by a name others can take first
WHOLE = ""  # the cut behind the last block: the whole backbone without its top
STRETCH = 4096  # rows of features in memory at a time


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` and rename it at the end: a kill leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def project_root() -> Path:
    """Return the project's root: DVC names it in the environment of a stage, elsewhere it is the current folder."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's bytes, by which DVC names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, two spaces deep, in the order given; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Read a YAML file that a program wrote."""
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a Parquet file atomically: same rows, same bytes."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: Path) -> "pd.DataFrame":
    """Read a Parquet file."""
    import pandas as pd

    return pd.read_parquet(path)


def write_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Write a safetensors file atomically; names in sorted order, so same tensors, same bytes."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({name: tensors[name].detach().contiguous() for name in sorted(tensors)}, temporary)


def read_tensors(path: Path) -> dict[str, "torch.Tensor"]:
    """Read a safetensors file: no pickle, no code."""
    from safetensors.torch import load_file

    return dict(load_file(path))


class Rows(Protocol):
    """Float rows [n, width] that can be read a stretch at a time: an array, or something larger than memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (n, width)."""
        ...

    def __getitem__(self, stretch: slice, /) -> "np.ndarray[Any, Any]":
        """Return the rows of a stretch."""
        ...


def write_features(path: Path, ids: list[str], cuts: Mapping[str, Rows]) -> None:
    """Write the features [n, width] of each cut as float32, and their image ids (SHA-256 in hexadecimal), atomically.

    The file is a safetensors file whose tensors lie uncompressed, so that `read_features` maps one cut without
    reading the others. Rows are written a stretch at a time: memory is flat, which `save_file` would not be.
    """
    import numpy as np

    shapes = {"ids": ("U8", (len(ids), 32)), **{f"cut/{c}": ("F32", cuts[c].shape) for c in sorted(cuts)}}
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_safetensors_header(shapes))
        file.write(bytes.fromhex("".join(ids)))
        for cut in sorted(cuts):
            for start in range(0, len(ids), STRETCH):
                file.write(np.ascontiguousarray(cuts[cut][start : start + STRETCH], dtype="<f4").tobytes())


def _safetensors_header(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the head of a safetensors file: length, then JSON with dtype, shape and place of each tensor."""
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


def read_features(path: Path, cut: str = WHOLE) -> "tuple[list[str], np.ndarray[Any, Any]]":
    """Return the image ids and, in the same order, the float32 features [n, width] of a cut, mapped into memory.

    Raises IntegrityError where the file does not hold the cut.
    """
    import numpy as np

    with path.open("rb") as file:
        entries, start = _features_header(file)
        ids = file.read(32 * entries["ids"]["shape"][0])
    if f"cut/{cut}" not in entries:
        has = ", ".join(repr(name.removeprefix("cut/")) for name in entries if name != "ids")
        raise IntegrityError(f"{path.name} holds no features of the cut {cut!r}; it has {has}")
    entry = entries[f"cut/{cut}"]
    n, width = entry["shape"]
    if n == 0:  # nothing cannot be mapped
        return [], np.empty((0, width), dtype=np.float32)
    rows = np.memmap(path, dtype="<f4", mode="r", offset=start + entry["data_offsets"][0], shape=(n, width))
    return [ids[start : start + 32].hex() for start in range(0, len(ids), 32)], rows


def passed_over(name: str) -> bool:
    """Say whether a file or folder of this name is hidden or a system's litter, and no business of ours."""
    return name.startswith(".") or name in LITTER


def speakable(path: str) -> bool:
    """Say whether a path is UTF-8: tables and DVC cannot hold another."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _features_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return what a safetensors file holds, and where its tensors begin."""
    (length,) = struct.unpack("<Q", file.read(8))
    return json.loads(file.read(length)), 8 + length
