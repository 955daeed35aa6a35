"""The feature store: an append-only file of rows per way of computing them. A cache: it changes time, never bytes.

A record is an image id (32 bytes), its features (float32) and a seal: a hash of both, keyed with all that the features
depend on. A record that was truncated by a kill, damaged on disk or written for another backbone has a wrong seal and
counts as missing. Nothing is ever rewritten, so several processes may read and write one file.
"""

import fcntl
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.errors import IntegrityError
from steps.runtime import files
from steps.runtime.stage import digest_of

Floats = npt.NDArray[np.float32]
FOLDER = Path(".regraft", "features")  # under the project's root
ID, SEAL = 32, 8  # bytes
STRETCH = 2**24  # bytes in memory at a time


class FeatureStore:
    """Rows of `width` float32 by image id (SHA-256 in hexadecimal), all computed in the way that `key` describes."""

    def __init__(self, folder: Path, key: Mapping[str, Any], width: int) -> None:
        digest = digest_of(dict(key))
        self.path, self._key = folder / digest[:32] / "rows", bytes.fromhex(digest)
        self.width, self._length = width, ID + 4 * width + SEAL
        self._places: dict[bytes, int] = {}  # id -> offset of its record; 200 bytes per image
        self._seen = 0
        files.write_json(self.path.with_name("key.json"), dict(key))  # for people
        self.path.touch()

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids, in their order, for which the store holds no intact record."""
        self._look()
        return [identity for identity in ids if bytes.fromhex(identity) not in self._places]

    def add(self, ids: Sequence[str], rows: Floats) -> None:
        """Append rows [n, width]; the next writer removes a record that a kill truncated."""
        bodies = [bytes.fromhex(i) + row.astype("<f4").tobytes() for i, row in zip(ids, rows, strict=True)]
        records = b"".join(body + self._seal(body) for body in bodies)
        with self.path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel frees it when the process dies
            end = file.seek(0, os.SEEK_END)
            file.truncate(end - end % self._length)
            file.seek(0, os.SEEK_END)
            file.write(records)

    def rows(self, ids: Sequence[str]) -> "StoredRows":
        """Return the rows of these ids, in their order; IntegrityError if one is missing."""
        lost = self.missing(ids)
        if lost:
            raise IntegrityError(f"{len(lost)} rows of {self.path} cannot be read back; is the disk full or failing?")
        return StoredRows(self.path, [self._places[bytes.fromhex(identity)] for identity in ids], self.width)

    def _look(self) -> None:
        """Index the intact records that were appended since the last read."""
        size = max(1, STRETCH // self._length) * self._length
        with self.path.open("rb") as file:
            while len(stretch := os.pread(file.fileno(), size, self._seen)) >= self._length:
                for start in range(0, len(stretch) - self._length + 1, self._length):
                    body, seal = stretch[start : start + self._length - SEAL], start + self._length - SEAL
                    if self._seal(body) == stretch[seal : seal + SEAL]:
                        self._places[body[:ID]] = self._seen
                    self._seen += self._length

    def _seal(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=SEAL, key=self._key).digest()


class StoredRows:
    """Rows that stay on disk until a slice of them is read."""

    def __init__(self, path: Path, offsets: Sequence[int], width: int) -> None:
        self._path, self._offsets, self.shape = path, offsets, (len(offsets), width)

    def __getitem__(self, stretch: slice, /) -> Floats:
        """Read the rows of a slice, float32 [m, width]."""
        offsets, size = self._offsets[stretch], 4 * self.shape[1]
        with self._path.open("rb") as file:
            read = b"".join(os.pread(file.fileno(), size, offset + ID) for offset in offsets)
        return np.frombuffer(read, dtype="<f4").reshape(len(offsets), self.shape[1])
