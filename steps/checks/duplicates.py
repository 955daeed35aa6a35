"""Copies: the same picture under two names, found by perceptual hash and confirmed by pixels, or found by features."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval
from PIL.Image import Image

from steps.checks.reports import Copies, Listed
from steps.images.decoding import parallel
from steps.images.manifest import TEST, TRAIN, UNLABELLED, VAL
from steps.runtime.arrays import Floats
from steps.runtime.binding import Because

Ints = npt.NDArray[np.int64]
Reader = Callable[[str, str], Image]  # path and id of an image -> the picture, decoded
BITS = 64
SIDE = 32  # pixels of a thumbnail
FLAT = 2.0  # grey levels of 255; a picture that varies less has no content to compare
PRECEDENCE = (TEST, VAL, TRAIN)  # of similar images in several splits, those in the first of these stay


@dataclass(frozen=True, kw_only=True)
class CopyLimits:
    """How alike two pictures are that count as copies; params.yaml explains each value."""

    copy_bits: Annotated[int, Interval(ge=0, le=8), Because("of 64; beyond, other pictures are met by chance")]
    copy_correlation: Annotated[float, Interval(ge=0.5, le=1)]


def near_by_hash(hashes: Sequence[str], bits: int) -> Ints:
    """Return index pairs [m, 2] of 64-bit hashes (16 hexadecimal digits) that differ in at most `bits` bits.

    Each of several equal hashes is paired only with the next, so that the number of pairs is not quadratic. Hashes
    within `bits` of each other agree in one of `bits` + 1 bands (pigeonhole), so only those with an equal band are
    compared.
    """
    values, first, inverse = np.unique(
        np.array([int(value, 16) for value in hashes], dtype=np.uint64), return_index=True, return_inverse=True
    )
    edges = np.linspace(0, BITS, bits + 2).astype(int)
    pair_arrays = [_same(inverse)]
    for low, high in pairwise(edges):
        band = (values >> np.uint64(low)) & np.uint64(2 ** int(high - low) - 1)
        pair_arrays += [first[pairs] for pairs in _within_band(values, band, bits)]
    return np.unique(np.sort(np.concatenate(pair_arrays), axis=1), axis=0)


def same(ids: Sequence[str]) -> Ints:
    """Return index pairs [m, 2] of equal ids, each paired only with the next."""
    return _same(np.unique(np.array(ids, dtype=str), return_inverse=True)[1])


def _same(inverse: Ints) -> Ints:
    order = np.argsort(inverse, kind="stable")
    equal = np.flatnonzero(inverse[order][1:] == inverse[order][:-1])
    return np.stack([order[equal], order[equal + 1]], axis=1)


def counted_once(images: pd.DataFrame) -> pd.DataFrame:
    """Return the images with weight 0 for each further copy of the same bytes under one label in one split.

    Copies are no evidence and no labels of their own; the first file that counts stands for all of them.
    """
    labelled = images[(images["split"] != UNLABELLED) & (images["weight"] > 0)]
    again = images.index.isin(labelled.index[labelled.duplicated(["id", "split", "label"])])
    return images.assign(weight=images["weight"].mask(again, 0.0))


def _within_band(values: npt.NDArray[np.uint64], band: npt.NDArray[np.uint64], bits: int) -> list[Ints]:
    order = np.argsort(band, kind="stable")
    band, values, pair_arrays = band[order], values[order], []
    here = np.arange(len(band) - 1)
    step = 1
    while len(here):  # neighbours one apart, two apart, ... as long as any two share the band
        here = here[here + step < len(band)]
        here = here[band[here] == band[here + step]]
        close = here[np.bitwise_count(values[here] ^ values[here + step]) <= bits]
        pair_arrays.append(np.stack([order[close], order[close + step]], axis=1))
        step += 1
    return pair_arrays


def correlation(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the correlation of two small grey pictures [s, s]; 0 if either is flat: noise is no evidence."""
    a, b = (picture.astype(np.float64).ravel() - picture.mean() for picture in (one, other))
    if min(a.std(), b.std()) < FLAT:
        return 0.0
    return float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))


def near_copies(images: pd.DataFrame, read: Reader, limits: CopyLimits, threads: int) -> Ints:
    """Return index pairs [m, 2] of rows that show the same picture, re-encoded or resized.

    Flat pictures are left out: their hashes are noise, and thousands of blank pages would have to be compared.
    """
    textured = np.flatnonzero(images["contrast"] * 255 >= FLAT)
    pairs = textured[near_by_hash(images["phash"].iloc[textured].tolist(), limits.copy_bits)]
    return confirmed(pairs, images, read, limits.copy_correlation, threads)


def confirmed(pairs: Ints, images: pd.DataFrame, read: Reader, least: float, threads: int) -> Ints:
    """Return the pairs [m, 2] of rows whose thumbnails have a correlation of at least `least`."""
    ids, paths = images["id"].tolist(), images["path"].tolist()
    pairs_of_two = [pair for pair in pairs.tolist() if ids[pair[0]] != ids[pair[1]]]
    wanted = sorted({row for pair in pairs_of_two for row in pair})
    made = parallel(lambda row: _thumbnail(read(paths[row], ids[row])), wanted, threads)
    thumbnails = dict(zip(wanted, made, strict=True))
    held = [
        ids[first] == ids[second] or correlation(thumbnails[first], thumbnails[second]) >= least
        for first, second in pairs.tolist()
    ]
    kept: Ints = pairs[np.array(held, dtype=bool)]
    return kept


def _thumbnail(picture: Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture.convert("L").resize((SIDE, SIDE)), dtype=np.uint8)


def near_by_features(features: Floats, nearness: float) -> Ints:
    """Return index pairs [m, 2] of features [n, d] that lie closer than `nearness` times the usual distance.

    The usual distance is the median of the distances to the nearest neighbour, between directions: features set the
    scale.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(features) < 3:
        return np.empty((0, 2), dtype=np.int64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    index = NearestNeighbors().fit(features / np.maximum(norms, np.finfo(np.float32).tiny))
    distances, neighbours = index.kneighbors(n_neighbors=1)
    close = np.flatnonzero(distances[:, 0] < nearness * np.median(distances))
    pairs = np.stack([close, neighbours[close, 0]], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def components(count: int, pairs: Ints) -> npt.NDArray[np.int32]:
    """Return for each of `count` rows the number of the component that pairs [m, 2] of rows join it to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    member: npt.NDArray[np.int32] = connected_components(edges, directed=False)[1]
    return member


def groups(images: pd.DataFrame, pairs: Ints) -> tuple[Copies, ...]:
    """Join pairs of labelled rows into groups of similar images, each sorted by path; groups by their first path."""
    member = components(len(images), pairs)
    rows = images[["id", "path", "split", "label"]].iloc[np.unique(pairs)].assign(group=member[np.unique(pairs)])
    parts = (of_group.drop(columns="group").sort_values("path") for _, of_group in rows.groupby("group"))
    copies = (_group([Listed(*row) for row in of_group.itertuples(index=False, name=None)]) for of_group in parts)
    return tuple(sorted(copies, key=lambda group: group.images[0].path))


def _group(images: Sequence[Listed]) -> Copies:
    splits, labels, ids = ({getattr(image, name) for image in images} for name in ("split", "label", "id"))
    return Copies(tuple(images), leaking=len(splits) > 1, conflicting=len(labels) > 1, identical=len(ids) == 1)


def leaking_copies(found: Sequence[Copies]) -> list[str]:
    """Return the sorted paths to drop so that no group lies in two splits: see `PRECEDENCE`.

    A whole group counts as one picture, including images that are similar only through a third.
    """
    return sorted(path for group in found for path in _giving_way(group.images))


def _giving_way(images: Sequence[Listed]) -> list[str]:
    stays = min((image.split for image in images), key=PRECEDENCE.index)
    return [image.path for image in images if image.split != stays]


def without(found: Sequence[Copies], gone: Collection[str]) -> tuple[Copies, ...]:
    """Return the groups without the images at these paths; a group remains while it has two images."""
    left = ([image for image in group.images if image.path not in gone] for group in found)
    return tuple(_group(images) for images in left if len(images) > 1)
