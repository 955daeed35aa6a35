"""The layout of a packed folder: a pure function of the ids and sizes of its images.

Images are sorted by id and divided by its first digits, so that an image added or removed changes one shard, and
neither names nor the order of arrival matter. The number of digits follows from the size of the whole set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

MEAN = 8 * 2**20  # mean bytes per shard, at most: what DVC copies for one new image
MOST_DIGITS = 4  # 65,536 shards
BLOCK = 512  # of a tar: a header of one block, then the bytes, padded to whole blocks
PAYS_FROM, PAYS_AT = 5_000, 10  # images in the set, and in a shard: with fewer, DVC's work per file hardly counts


@dataclass(frozen=True)
class Layout:
    """Ids [n] in order (64 hexadecimal digits each), sizes [n] in bytes, and offsets in their shards [n]."""

    ids: npt.NDArray[np.bytes_]
    sizes: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    digits: int

    def find(self, identity: str) -> int | None:
        """Return the index of an image in the order of ids, None if it is not there."""
        index = int(np.searchsorted(self.ids, identity.encode()))
        return index if index < len(self.ids) and self.ids[index] == identity.encode() else None

    def shard(self, index: int) -> str:
        """Return the file name of the shard that holds the image at an index."""
        return f"images-{self.ids[index][: self.digits].decode()}.tar"

    def shards(self) -> Iterator[tuple[str, range]]:
        """Yield the file name of each shard and the indices of its images."""
        _, first = np.unique(self.ids.astype(f"S{self.digits}"), return_index=True)
        edges = [*first.tolist(), len(self.ids)]
        for start, stop in pairwise(edges):
            yield self.shard(start), range(start, stop)


def layout(ids: Sequence[str], sizes: Sequence[int]) -> Layout:
    """Lay out images by their ids and sizes in bytes, in any order; duplicates are kept once."""
    known, first = np.unique(np.array(ids, dtype="S64"), return_index=True)
    counts = np.asarray(sizes, dtype=np.int64)[first]
    digits = digits_for(int(counts.sum()))
    whole = BLOCK + -(-counts // BLOCK) * BLOCK
    ends = np.cumsum(whole)
    _, begins, of = np.unique(known.astype(f"S{digits}"), return_index=True, return_inverse=True)
    starts = ends - whole - (ends - whole)[begins][of] + BLOCK
    return Layout(known, counts, starts, digits)


def digits_for(total: int) -> int:
    """Return how many digits of the ids divide a set of `total` bytes: the fewest with a mean shard within `MEAN`."""
    return next((d for d in range(1, MOST_DIGITS) if total <= MEAN * 16**d), MOST_DIGITS)


def pays(count: int, total: int) -> bool:
    """Return True if packing pays for `count` images of `total` bytes: many, and many per shard.

    The mean shard is a 16th of `MEAN` just after the set has outgrown its digits. The limit is on the images in such a
    shard rather than in the present ones, so that a growing set does not switch back and forth.
    """
    return count >= PAYS_FROM and total * PAYS_AT * 16 <= count * MEAN
