"""Packing: files become tar shards divided by their ids, in bounded memory; unchanged shards are left alone."""

import hashlib
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pandas as pd

from steps.errors import RequestError
from steps.images.decoding import parallel
from steps.images.manifest import SHARDS
from steps.images.shard_layout import Layout, layout
from steps.images.shards import INDEX
from steps.runtime import files
from steps.runtime.progress import track

READERS = 4


class Known(NamedTuple):
    """The state of a file when it was last read or written; `digest` is that of its bytes, for a shard of its members.

    Keys are the paths of source files and the names of shards: a packed folder may be moved.
    """

    size: int
    time: int
    digest: str


Memory = dict[str, Known]


def pack(wanted: Mapping[str, Path], raw: Path, memory: Path) -> int:
    """Make `raw`/shards hold exactly these files, name -> path in the source; return how many shards were written.

    `memory` is an untracked table of the sizes, times and digests seen: deleting it costs time and changes no bytes.
    Raises RequestError if a file changes while it is packed, and then forgets the state of the source; OSError if a
    file cannot be read.
    """
    before = _remembered(memory)
    names, origins = sorted(wanted), [wanted[name] for name in sorted(wanted)]
    read = parallel(lambda origin: _known(origin, before.get(str(origin))), origins, READERS)
    seen = dict(zip(map(str, origins), track(read, len(origins), "reading the source"), strict=True))
    facts = [seen[str(origin)] for origin in origins]
    table = pd.DataFrame({"path": names, "id": [f.digest for f in facts], "bytes": [f.size for f in facts]})
    shape = layout(table["id"].tolist(), table["bytes"].tolist())
    sources = dict(zip(table["id"], origins, strict=True))

    folder, written = raw / SHARDS, 0
    shards = list(shape.shards())
    for name, indices in track(shards, len(shards), "packing images"):
        path, digest = folder / name, _digest(shape, indices)
        if before.get(name) != _now(path, digest):
            try:
                _write(path, shape, indices, sources)
            except _ChangedError:  # perhaps long ago, with size and time unchanged, like others: read all next time
                own = set(map(str, origins))
                _remember(memory, {key: known for key, known in (before | seen).items() if key not in own})
                raise
            written += 1
        seen[name] = _now(path, digest)
    _keep_alone({INDEX, *(name for name, _ in shards)}, folder)
    if not _holds(folder / INDEX, table):
        files.write_table(folder / INDEX, table)
    _remember(memory, seen)
    return written


def _holds(path: Path, table: pd.DataFrame) -> bool:
    try:
        return bool(files.read_table(path).equals(table))
    except (OSError, ValueError, KeyError, NotImplementedError):  # missing or damaged
        return False


def _remember(memory: Path, seen: Memory) -> None:
    rows = [(name, *known) for name, known in sorted(seen.items())]
    files.write_table(memory, pd.DataFrame(rows, columns=["name", *Known._fields]))


def _remembered(memory: Path) -> Memory:
    try:
        table = files.read_table(memory)
        return {row.name: Known(row.size, row.time, row.digest) for row in table.itertuples(index=False)}
    except (OSError, ValueError, AttributeError):  # missing or unusable
        return {}


def _known(origin: Path, before: Known | None) -> Known:
    """Return a file's state; it is read only if its size or time has changed, as by rsync."""
    facts = origin.stat()
    if before and (before.size, before.time) == (facts.st_size, facts.st_mtime_ns):
        return before
    return Known(facts.st_size, facts.st_mtime_ns, files.sha256_of(origin))


def _now(shard: Path, digest: str) -> Known:
    if not shard.is_file():
        return Known(-1, -1, digest)
    facts = shard.stat()
    return Known(facts.st_size, facts.st_mtime_ns, digest)


def _digest(shape: Layout, indices: range) -> str:
    """Return a digest of a shard's images: a shard of the same images has the same bytes."""
    return hashlib.sha256(shape.ids[indices.start : indices.stop].tobytes()).hexdigest()


def _write(path: Path, shape: Layout, indices: range, sources: Mapping[str, Path]) -> None:
    with files.replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for index in indices:
            member = tarfile.TarInfo(shape.ids[index].decode())  # without a date and an owner
            member.size = int(shape.sizes[index])
            _add(tar, member, sources[member.name])


class _ChangedError(RequestError):
    """A file of the source changed after its digest was taken."""


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, origin: Path) -> None:
    with origin.open("rb") as file:
        reading = _Hashed(file)
        if os.fstat(file.fileno()).st_size == member.size:
            tar.addfile(member, reading)  # type: ignore[arg-type]  # it only reads
    if reading.digest.hexdigest() != member.name:
        raise _ChangedError(f"{origin} changed while it was packed; run again")


class _Hashed:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data


def _keep_alone(names: set[str], folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink()
