"""Packed images: tar shards cut by the images' ids, and a table of the paths at which they were found.

`packing` writes them. Nothing is ever unpacked: an image is read where the layout says that it lies.
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
_opening = threading.Lock()  # else each of eight reading threads would load the index


class Packed:
    """The images of a packed folder, by id, checked against it; 72 bytes of memory for each."""

    def __init__(self, raw: Path) -> None:
        self.folder = raw / SHARDS
        table = self._columns("id", "bytes")
        self.layout: Layout = layout(table["id"].tolist(), table["bytes"].tolist())

    def read(self, identity: str) -> bytes:
        """Return the bytes of an image; IntegrityError, naming the shard, where it does not hold them."""
        place = self.layout.find(identity)
        if place is None:
            raise IntegrityError(f"{self.folder / INDEX} knows no image {identity[:12]}; run again")
        shard = self.folder / self.layout.shard(place)
        try:
            with shard.open("rb") as file:
                file.seek(self.layout.starts[place])
                data = file.read(self.layout.sizes[place])
        except FileNotFoundError:
            raise IntegrityError(f"{shard} is missing; {REMEDY}") from None
        if hashlib.sha256(data).hexdigest() != identity:
            raise IntegrityError(f"{shard} is truncated or another one: image {identity[:12]} is not in it; {REMEDY}")
        return data

    def known(self, path: str) -> tuple[str, int]:
        """Return id and size in bytes of the file that was found at `path`; FileNotFoundError where there was none."""
        if path not in self._by_path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._by_path[path]

    @property
    def paths(self) -> list[str]:
        """Return the paths at which files were found, in order."""
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
            told = str(error).splitlines()[0]
            raise DataError(f"{self.folder / INDEX} is no table of path, id and bytes: {told}; {REMEDY}") from None


def opened(raw: Path) -> Packed | None:
    """Return the packed images of a folder, None where they lie loose; DataError where the index is no such table."""
    try:
        facts = (raw / SHARDS / INDEX).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    with _opening:
        return _opened(raw, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2)
def _opened(raw: Path, *_: int) -> Packed:
    return Packed(raw)
