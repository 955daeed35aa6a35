"""Packed images: tar shards divided by image id, and a table of the images' original paths.

`packing` writes them. Nothing is ever unpacked: an image is read at the offset that the layout gives.
"""

import errno
import hashlib
import os
import threading
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from steps.errors import DataError, IntegrityError
from steps.images.manifest import SHARDS
from steps.images.shard_layout import Layout, layout

INDEX = "index.parquet"
REMEDY = "`regraft run` packs it anew from the images' source, `dvc checkout data/raw.dvc` brings back what was tracked"
_opening = threading.Lock()  # otherwise each of eight reading threads would load the index


class Packed:
    """Images of a packed folder, read by id and verified against it; the index takes 72 bytes of memory per image."""

    def __init__(self, raw: Path) -> None:
        self.folder = raw / SHARDS
        table = self._columns("id", "bytes")
        self.layout: Layout = layout(table["id"].tolist(), table["bytes"].tolist())

    def read(self, identity: str) -> bytes:
        """Return the bytes of an image; raises IntegrityError with the shard's name if it does not hold them."""
        index = self.layout.find(identity)
        if index is None:
            raise IntegrityError(f"{self.folder / INDEX} knows no image {identity[:12]}; run again")
        shard = self.folder / self.layout.shard(index)
        try:
            with shard.open("rb") as file:
                file.seek(self.layout.starts[index])
                data = file.read(self.layout.sizes[index])
        except FileNotFoundError:
            raise IntegrityError(f"{shard} is missing; {REMEDY}") from None
        if hashlib.sha256(data).hexdigest() != identity:
            raise IntegrityError(f"{shard} is truncated or another one: image {identity[:12]} is not in it; {REMEDY}")
        return data

    def known(self, path: str) -> tuple[str, int]:
        """Return id and size in bytes of the file with this original path; raises FileNotFoundError if none has it."""
        if path not in self._by_path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._by_path[path]

    @property
    def paths(self) -> list[str]:
        """Return the original paths of the files, in order."""
        return list(self._by_path)

    @cached_property
    def _by_path(self) -> dict[str, tuple[str, int]]:
        table = self._columns("path", "id", "bytes")
        return dict(zip(table["path"], zip(table["id"], table["bytes"], strict=True), strict=True))

    def _columns(self, *names: str) -> Any:
        import pandas as pd

        try:
            return pd.read_parquet(self.folder / INDEX, columns=list(names))
        except (ValueError, OSError, KeyError) as error:  # pyarrow's own are ValueErrors
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.folder / INDEX} is no table of path, id and bytes: {reason}; {REMEDY}") from None


def opened(raw: Path) -> Packed | None:
    """Return the packed images of a folder, None if it is not packed; raises DataError if the index is unreadable."""
    try:
        facts = (raw / SHARDS / INDEX).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    with _opening:
        return _opened(raw, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2)
def _opened(raw: Path, *_: int) -> Packed:
    return Packed(raw)
