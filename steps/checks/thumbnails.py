"""Small grey thumbnails, compared in pairs: what a perceptual hash takes for a copy has to look like one."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from steps.checks.duplicates import FLAT, CopyLimits, Ints, correlation, near_by_hash
from steps.images.decoding import parallel, read_image
from steps.images.deep_grey import used_bits

SIDE = 32


def near_copies(images: pd.DataFrame, raw: Path, limits: CopyLimits, threads: int) -> Ints:
    """Return index pairs [m, 2] of rows that show the same picture, re-encoded or resized.

    Flat pictures are left out: their hashes are noise, and thousands of blank pages would have to be compared.
    """
    textured = np.flatnonzero(images["contrast"] * 255 >= FLAT)
    pairs = textured[near_by_hash(images["phash"].iloc[textured].tolist(), limits.copy_bits)]
    return confirmed(pairs, images, raw, limits.copy_correlation, threads)


def confirmed(pairs: Ints, images: pd.DataFrame, raw: Path, least: float, threads: int) -> Ints:
    """Return the pairs [m, 2] of rows whose thumbnails have a correlation of at least `least`."""
    ids, paths = images["id"].tolist(), images["path"].tolist()
    pairs_of_two = [pair for pair in pairs.tolist() if ids[pair[0]] != ids[pair[1]]]
    wanted = sorted({row for pair in pairs_of_two for row in pair})
    bits = used_bits(images)
    made = parallel(lambda row: _thumbnail(raw, paths[row], ids[row], bits), wanted, threads)
    thumbnails = dict(zip(wanted, made, strict=True))
    held = [
        ids[first] == ids[second] or correlation(thumbnails[first], thumbnails[second]) >= least
        for first, second in pairs.tolist()
    ]
    kept: Ints = pairs[np.array(held, dtype=bool)]
    return kept


def _thumbnail(raw: Path, path: str, identity: str, grey_bits: int | None) -> npt.NDArray[np.uint8]:
    grey = read_image(raw, path, identity, grey_bits).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE)), dtype=np.uint8)
