"""Where each image lies in a packed folder: a pure function of the set of images, of their ids and sizes alone.

Images are sorted by id and cut by its first digits, so an image that comes or goes touches one shard, and neither
names nor the order of arrival leave a trace. The number of digits follows from the size of the whole set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

MEAN = 8 * 2**20  # bytes of a shard, at most, on average: what one new image makes DVC copy
MOST_DIGITS = 4  # 65,536 shards
BLOCK = 512  # of a tar: a header of one, then the bytes, filled up to whole ones
PAYS_FROM, PAYS_AT = 5_000, 10  # images of the set, and of a shard: with fewer, DVC's work for each file hardly counts


@dataclass(frozen=True)
class Layout:
    """Ids [n] in order (64 hexadecimal digits each), sizes [n] in bytes, and where in its shard each begins [n]."""

    ids: npt.NDArray[np.bytes_]
    sizes: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    digits: int

    def find(self, identity: str) -> int | None:
        """Return the place of an image in the order of ids, None where it is not there."""
        place = int(np.searchsorted(self.ids, identity.encode()))
        return place if place < len(self.ids) and self.ids[place] == identity.encode() else None

    def shard(self, place: int) -> str:
        """Return the file name of the shard that holds the image at a place."""
        return f"images-{self.ids[place][: self.digits].decode()}.tar"

    def shards(self) -> Iterator[tuple[str, range]]:
        """Yield the file name of each shard and the places of its images."""
        _, first = np.unique(self.ids.astype(f"S{self.digits}"), return_index=True)
        edges = [*first.tolist(), len(self.ids)]
        for start, stop in pairwise(edges):
            yield self.shard(start), range(start, stop)


def layout(ids: Sequence[str], sizes: Sequence[int]) -> Layout:
    """Lay out images by their ids and sizes in bytes, in any order; the same image twice is there once."""
    known, first = np.unique(np.array(ids, dtype="S64"), return_index=True)
    counts = np.asarray(sizes, dtype=np.int64)[first]
    digits = digits_for(int(counts.sum()))
    whole = BLOCK + -(-counts // BLOCK) * BLOCK
    ends = np.cumsum(whole)
    _, begins, of = np.unique(known.astype(f"S{digits}"), return_index=True, return_inverse=True)
    starts = ends - whole - (ends - whole)[begins][of] + BLOCK
    return Layout(known, counts, starts, digits)


def digits_for(total: int) -> int:
    """Return how many digits of the ids cut a set of this many bytes: as few as keep the mean shard within `MEAN`."""
    return next((d for d in range(1, MOST_DIGITS) if total <= MEAN * 16**d), MOST_DIGITS)


def pays(count: int, total: int) -> bool:
    """Return whether images of this number and total size are better packed: many, and many per shard.

    A shard has a 16th of `MEAN` bytes on average where the set has just outgrown its digits. To ask for so many images
    in that, and not in the shards of today, keeps a set that grows from changing its form back and forth.
    """
    return count >= PAYS_FROM and total * PAYS_AT * 16 <= count * MEAN
