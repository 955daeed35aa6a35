"""Packing: files become tar shards cut by their ids. Bounded memory, and what has not changed is left alone."""

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
    """A file when it was last read or written; `digest` is of its bytes, for a shard of its members.

    Files of the source go by their paths, shards by their names: a packed folder may be moved to where it belongs.
    """

    size: int
    time: int
    digest: str


Memory = dict[str, Known]


def pack(wanted: Mapping[str, Path], raw: Path, memory: Path) -> int:
    """Make `raw`/shards hold exactly these files, name -> where it lies; return how many shards were written.

    `memory` is a table outside of what is tracked, of the sizes, times and digests that were seen: deleting it costs
    time, never bytes. Raises RequestError where a file changes while it is packed, and forgets what it knew of the
    source; OSError where a file cannot be read.
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
    for name, places in track(shards, len(shards), "packing images"):
        path, told = folder / name, _told(shape, places)
        if before.get(name) != _now(path, told):
            try:
                _write(path, shape, places, sources)
            except _ChangedError:  # perhaps long ago, at the same size and time, and others with it: read all next time
                own = set(map(str, origins))
                _remember(memory, {key: known for key, known in (before | seen).items() if key not in own})
                raise
            written += 1
        seen[name] = _now(path, told)
    _keep_alone({INDEX, *(name for name, _ in shards)}, folder)
    if not _holds(folder / INDEX, table):
        files.write_table(folder / INDEX, table)
    _remember(memory, seen)
    return written


def _holds(path: Path, table: pd.DataFrame) -> bool:
    try:
        return bool(files.read_table(path).equals(table))
    except (OSError, ValueError, KeyError, NotImplementedError):  # there is none, or a damaged one
        return False


def _remember(memory: Path, seen: Memory) -> None:
    rows = [(name, *known) for name, known in sorted(seen.items())]
    files.write_table(memory, pd.DataFrame(rows, columns=["name", *Known._fields]))


def _remembered(memory: Path) -> Memory:
    try:
        table = files.read_table(memory)
        return {row.name: Known(row.size, row.time, row.digest) for row in table.itertuples(index=False)}
    except (OSError, ValueError, AttributeError):  # there is none yet, or none that can be used
        return {}


def _known(origin: Path, before: Known | None) -> Known:
    """Return a file's facts; it is read only where its size or time is another than before, as rsync does."""
    facts = origin.stat()
    if before and (before.size, before.time) == (facts.st_size, facts.st_mtime_ns):
        return before
    return Known(facts.st_size, facts.st_mtime_ns, files.sha256_of(origin))


def _now(shard: Path, told: str) -> Known:
    if not shard.is_file():
        return Known(-1, -1, told)
    facts = shard.stat()
    return Known(facts.st_size, facts.st_mtime_ns, told)


def _told(shape: Layout, places: range) -> str:
    """Return a digest of what a shard holds: a shard of the same images is the same bytes."""
    return hashlib.sha256(shape.ids[places.start : places.stop].tobytes()).hexdigest()


def _write(path: Path, shape: Layout, places: range, sources: Mapping[str, Path]) -> None:
    with files.replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for place in places:
            member = tarfile.TarInfo(shape.ids[place].decode())  # without a date and an owner
            member.size = int(shape.sizes[place])
            _add(tar, member, sources[member.name])


class _ChangedError(RequestError):
    """A file of the source changed after its digest was taken."""


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, origin: Path) -> None:
    with origin.open("rb") as file:
        reading = _Hashed(file)
        if os.fstat(file.fileno()).st_size == member.size:
            tar.addfile(member, reading)  # type: ignore[arg-type]  # all that it does is read
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
