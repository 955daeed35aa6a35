"""Ingest: a folder of pictures becomes a manifest, one row per image. It judges nothing; `validate` does."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd

from steps.checks import duplicates
from steps.checks.duplicates import CopyLimits
from steps.errors import DataError, UndecodableError
from steps.images import decoding, deep_grey
from steps.images.file_kinds import OTHER_FORMAT, SECOND_FORM, kind_of, reason_of
from steps.images.layouts import BESIDE, CARVED, Listed
from steps.images.listing import reading
from steps.images.manifest import UNLABELLED, Rejected, Row
from steps.images.splitting import Minima, Shares, assign_splits, units_of
from steps.runtime import files, stage
from steps.runtime.compute import processors
from steps.runtime.progress import track

READERS = 8  # at most, whatever the machine: each may hold a picture of `images.MAX_PIXELS`
log = logging.getLogger("regraft")


@dataclass(frozen=True, kw_only=True)
class IngestParams(Shares):
    """Shares of the labelled images that are set aside, by fixed thresholds on the image id."""


@dataclass(frozen=True, kw_only=True)
class SplitLimits(Minima, CopyLimits):
    """What the gate will ask of the splits, so that it never refuses those that regraft made."""

    PART_OF: ClassVar[str] = "validate"


class Seen(NamedTuple):
    """A row of the manifest, and the picture's largest value if it is deep grey without a declared range; else 0."""

    row: Row
    largest: int

    @property
    def path(self) -> str:
        """Return the path of the file."""
        return self.row.path


def ingest(params: IngestParams, limits: SplitLimits, raw: Path, manifest: Path, quarantine: Path) -> None:
    """Read every file of `raw`, loose or packed, write the manifest, and put what does not decode into quarantine.

    Layouts: a `listing.csv` or `listing.parquet` (path,label[,split,group,source,weight]); or what `layouts.read`
    knows: split folders that hold class folders, or class folders, in any common spelling.
    Raises DataError if there is no such layout or no readable image.
    """
    table, rejected = _rows(find(raw), decoding.reader(raw))
    if table.empty:
        raise DataError(_none_readable(rejected))
    files.write_table(manifest, _split(table, params, limits, raw))
    rejected = sorted(_second_forms(rejected, table["path"]))
    _log_rejected(rejected)
    files.write_text(quarantine, _csv(rejected))


def find(raw: Path) -> tuple[Listed | Rejected, ...]:
    """Return every file with the label and split that its folder or the listing gives it, or why it has none."""
    read = reading(raw)
    for note in read.notes:
        log.warning(note)
    return read.files


def label_counts(raw: Path) -> Counter[str]:
    """Return how many files each class has by their paths, before any is read; raises as `find` does."""
    return Counter(item.label for item in reading(raw).files if isinstance(item, Listed) and item.label)


def _rows(
    listed: Sequence[Listed | Rejected], read_file: Callable[[str], bytes]
) -> tuple[pd.DataFrame, list[Rejected]]:
    """Return the manifest without its splits, sorted by path, and what cannot be used.

    Deep grey whose range is not declared is read twice: once for the depth that all of it uses, then at that depth.
    """
    seen = _all(listed, read_file, None, "reading images")
    largest = {item.path: item.largest for item in seen if isinstance(item, Seen) and item.largest}
    if largest:
        bits = deep_grey.bits_of(max(largest.values()))
        log.info(deep_grey.in_words([*largest.values()]))
        again = [item for item in listed if bits < deep_grey.FULL and item.path in largest]
        anew = {item.path: item for item in _all(again, read_file, bits, "reading deep grey")}
        seen = [anew.get(item.path, item) for item in seen]
    rows = sorted((item.row for item in seen if isinstance(item, Seen)), key=lambda row: row.path)
    table = pd.DataFrame(rows, columns=Row._fields)
    if largest:
        table[deep_grey.LARGEST] = [largest.get(path, 0) for path in table["path"]]
        _warn_of_shallow(deep_grey.shallow(table), len(largest))
    return table, [item for item in seen if isinstance(item, Rejected)]


def _warn_of_shallow(paths: Sequence[str], deep: int) -> None:
    """Name the deep grey pictures that the range of the others leaves nearly black: another camera's, perhaps."""
    if paths:
        log.warning(
            "%d of %d pictures of 16 bits (%.0f %%) use less than an eighth of that range and become nearly black, the "
            "first %s: where they are of another depth, scale them up to that of the others in the source",
            *(len(paths), deep, 100 * len(paths) / deep, paths[0]),
        )


def _all(
    items: Sequence[Listed | Rejected], read_file: Callable[[str], bytes], grey_bits: int | None, what: str
) -> list[Seen | Rejected]:
    read = decoding.parallel(lambda item: _read(read_file, item, grey_bits), items, _threads())
    return list(track(read, len(items), what))


def _threads() -> int:
    return min(READERS, processors())


def _split(images: pd.DataFrame, params: IngestParams, limits: SplitLimits, raw: Path) -> pd.DataFrame:
    """Assign a split to the images that came without one; copies of a picture, near or exact, go to the same."""
    ours = np.flatnonzero(images["split"].isin(["", CARVED]))
    if not len(ours):
        return images
    pool = images.iloc[ours].reset_index(drop=True)
    test = params.test_share if pool["split"].iloc[0] == "" else 0.0
    read = partial(decoding.read_image, raw, grey_bits=deep_grey.used_bits(pool))
    copies = duplicates.near_copies(pool, read, limits, _threads())
    keys = pool["group"].where(pool["group"] != "", pool["id"])
    member = duplicates.components(len(pool), np.concatenate([duplicates.same(keys.tolist()), copies]))
    splits = assign_splits(units_of(pool.assign(key=keys), member), params.validation_share, test, limits)
    every = images["split"].to_numpy(dtype=object)
    every[ours] = [splits[unit] for unit in member]
    return images.assign(split=every)


def _read(read_file: Callable[[str], bytes], item: Listed | Rejected, grey_bits: int | None) -> Seen | Rejected:
    if isinstance(item, Rejected):
        return _rejected(item.path, item.reason, item.exception) if item.reason == BESIDE else item
    data = b""
    try:
        data = read_file(item.path)
        facts, decoded = decoding.examine(data, grey_bits)
    except UndecodableError as error:
        return _rejected(item.path, error.reason, error.exception, data, item.label)
    except OSError as error:
        return _rejected(item.path, "cannot be read", f"{type(error).__name__}: {error.strerror}", label=item.label)
    identity = hashlib.sha256(data).hexdigest()
    row = Row(
        id=identity,
        path=item.path,
        label=item.label,
        split=item.split if item.label else UNLABELLED,
        bytes=len(data),
        group=item.group,
        source=item.source,
        weight=item.weight,
        **facts._asdict(),
    )
    return Seen(row, decoded.largest)


def _rejected(path: str, reason: str, exception: str, data: bytes = b"", label: str = "") -> Rejected:
    kind, known = kind_of(path, data)
    if kind == OTHER_FORMAT:
        reason = reason_of(known)
    return Rejected(path, reason, exception, kind, known.name if known else "", label)


def _second_forms(rejected: Iterable[Rejected], paths: Iterable[str]) -> Iterator[Rejected]:
    """Mark the pictures in formats that are not read if the same name stands beside them in one that is."""
    readable = {PurePosixPath(path).with_suffix("") for path in paths}
    for item in rejected:
        twin = item.kind == OTHER_FORMAT and PurePosixPath(item.path).with_suffix("") in readable
        yield item._replace(kind=SECOND_FORM) if twin else item


def _log_rejected(rejected: Iterable[Rejected]) -> None:
    """Log how many files of which kind and format are not used."""
    counts = Counter((item.kind, item.format) for item in rejected)
    for (kind, name), count in sorted(counts.items()):
        what = f"{kind} ({name})" if name else kind
        log.info("not used, see data/quarantine.csv: %d x %s", count, what)


def _none_readable(rejected: list[Rejected]) -> str:
    if not rejected:
        return "the class folders (or the listing) hold no files"
    first = rejected[0]
    return (
        f"not one of {len(rejected)} files can be used (first: {first.path}: {first.reason}); "
        "expected one folder of images per class"
    )


def _csv(rejected: list[Rejected]) -> str:
    return str(pd.DataFrame(rejected, columns=Rejected._fields).to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    stage.main(ingest)
