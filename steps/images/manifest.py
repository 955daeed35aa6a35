"""The manifest: one row per image file, its splits, and the number that places an image among others."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from steps.images.file_kinds import DAMAGED, Kind

if TYPE_CHECKING:
    import pandas as pd

TRAIN, VAL, TEST, UNLABELLED = "train", "val", "test", "unlabelled"
SPLITS = (TRAIN, VAL, TEST, UNLABELLED)
LABELLED = SPLITS[:3]
LISTINGS = ("listing.csv", "listing.parquet")  # in the folder of raw images, beside class folders or shards
SHARDS = "shards"  # the folder of packed images in that of raw images


class Row(NamedTuple):
    """One image file. `id` is the SHA-256 of its bytes; `path` is POSIX, relative to the folder of raw images."""

    id: str
    path: str
    label: str  # empty: unlabelled
    split: str
    width: int  # pixels, as stored (before EXIF rotation)
    height: int
    mode: str  # Pillow's, before conversion to RGB
    bytes: int
    format: str
    group: str  # images of one group never straddle a split; empty: each image is its own group
    source: str
    weight: float
    phash: str  # perceptual hash of the upright picture, 64 bits as 16 hexadecimal digits
    brightness: float  # mean luma, 0 to 1
    contrast: float  # standard deviation of luma, 0 to 0.5
    sharpness: float  # variance of the Laplacian of luma, at a fixed small size
    taken: str  # EXIF DateTimeOriginal as ISO 8601 local time; empty: unknown


class Rejected(NamedTuple):
    """A file that is not used: the reason in words, what it is, its format if known, and the class it stands in."""

    path: str
    reason: str
    exception: str
    kind: Kind = DAMAGED
    format: str = ""
    label: str = ""


def uniform(key: str) -> float:
    """Map a key to [0, 1) by its SHA-256: the same key always gives the same number, on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def in_hash_order(table: "pd.DataFrame") -> "pd.DataFrame":
    """Sort images by the hash of their `id`: an arbitrary order, so that its first n are an unbiased sample."""
    return table.sort_values("id", key=lambda ids: ids.map(uniform), kind="stable")


def independent(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return one image per group and per content, picked by their hash: images of one group are alike."""
    ordered = in_hash_order(table).drop_duplicates("id")
    return ordered[~units_of(ordered).duplicated()]


def units_of(table: "pd.DataFrame") -> "pd.Series[str]":
    """Return the name of what each image is drawn with: its group, or the image itself if it has none."""
    return table["group"].where(table["group"] != "", table["id"])


def in_use(table: "pd.DataFrame", *splits: str) -> "pd.DataFrame":
    """Return the rows that count, of these splits or of all labelled ones: those of weight above 0.

    An image of weight 0 is absent from training, choice, calibration and judgement alike. Without weights all count.
    """
    part = table[table["split"].isin(splits or LABELLED)]
    return part[part["weight"] > 0] if "weight" in part else part


def class_counts(rows: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Count images by split, then by label, from (split, label) pairs; labels in sorted order."""
    counts: dict[str, dict[str, int]] = {}
    for split, label in rows:
        counts.setdefault(split, {}).setdefault(label, 0)
        counts[split][label] += 1
    return {split: dict(sorted(counts[split].items())) for split in SPLITS if split in counts}


def normal(label: str) -> str:
    """Return a label in Unicode's composed form: macOS and Linux write the same word in two forms."""
    return unicodedata.normalize("NFC", label)


def look_alikes(counts: Mapping[str, int]) -> list[str]:
    """Name the labels, given with their numbers of images, that `alike` puts into one group."""
    return [" and ".join(f"{label!r} ({counts[label]:,})" for label in labels) for labels in alike(counts)]


def alike(labels: Iterable[str]) -> list[list[str]]:
    """Return the groups of labels that differ only in case, spaces, separators or forms of Unicode, sorted."""
    by_form: dict[str, list[str]] = {}
    for label in sorted(labels):
        by_form.setdefault(_folded(label), []).append(label)
    return [labels for labels in by_form.values() if len(labels) > 1]


def _folded(label: str) -> str:
    visible = (sign for sign in unicodedata.normalize("NFKC", label) if unicodedata.category(sign) != "Cf")
    words = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", "".join(visible))
    return " ".join(words.casefold().split())


def classes_of(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return every class that any labelled split holds, sorted: the order of a head's outputs."""
    return sorted({label for split, labels in counts.items() if split != UNLABELLED for label in labels})
