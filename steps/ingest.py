"""Ingest: a folder of pictures becomes a manifest, one row per image. It judges nothing; `validate` does."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from annotated_types import Interval

from steps.checks import duplicates, thumbnails
from steps.checks.duplicates import CopyLimits
from steps.errors import DataError, UndecodableError
from steps.images import decoding, layouts, listing, shards
from steps.images.file_kinds import OTHER_FORMAT, SECOND_FORM, kind_of, reason_of
from steps.images.layouts import BESIDE, CARVED, FILE, Listed, Tree
from steps.images.manifest import LISTINGS, UNLABELLED, Rejected, Row
from steps.images.splitting import Minima, assign_splits, units_of
from steps.runtime import files, stage
from steps.runtime.compute import processors
from steps.runtime.progress import track

LINKED = "a linked folder; it may loop, so put the folder itself here"
READERS = 8  # at most, whatever the machine: each may hold a picture of `images.MAX_PIXELS`
log = logging.getLogger("regraft")


@dataclass(frozen=True, kw_only=True)
class IngestParams:
    """Shares of the labelled images that are set aside, by fixed thresholds on the image id."""

    validation_share: Annotated[float, Interval(ge=0.01, le=0.8)]
    test_share: Annotated[float, Interval(ge=0.01, le=0.8)]


@dataclass(frozen=True, kw_only=True)
class SplitLimits(Minima, CopyLimits):
    """What the gate will ask of the splits, so that it never refuses those that regraft made."""

    PART_OF: ClassVar[str] = "validate"


def ingest(params: IngestParams, limits: SplitLimits, raw: Path, manifest: Path, quarantine: Path) -> None:
    """Read every file of `raw`, loose or packed, write the manifest, and put what does not decode into quarantine.

    Layouts: a `listing.csv` or `listing.parquet` (path,label[,split,group,source,weight]); or what `layouts.read`
    knows: split folders that hold class folders, or class folders, in any common spelling.
    Raises DataError if there is no such layout or no readable image.
    """
    listed, read_file = find(raw), decoding.reader(raw)

    rows: list[Row] = []
    rejected: list[Rejected] = []
    read = decoding.parallel(lambda item: _read(read_file, item), listed, _threads())
    for outcome in track(read, len(listed), "reading images"):
        if isinstance(outcome, Row):
            rows.append(outcome)
        else:
            rejected.append(outcome)
    if not rows:
        raise DataError(_none_readable(rejected))

    table = pd.DataFrame(sorted(rows, key=lambda row: row.path), columns=Row._fields)
    files.write_table(manifest, _split(table, params, limits, raw))
    rejected = sorted(_second_forms(rejected, rows))
    _log_rejected(rejected)
    files.write_text(quarantine, _csv(rejected))


def find(raw: Path) -> tuple[Listed | Rejected, ...]:
    """Return every file with the label and split that its folder or the listing gives it, or why it has none."""
    read = reading(raw)
    for note in read.notes:
        log.warning(note)
    return read.files


def reading(raw: Path) -> layouts.Reading:
    """Return what a listing in `raw` or its layout says; raises DataError where no honest reading exists."""
    if not raw.is_dir():
        raise DataError(f"there is no folder of images at {raw}; `regraft use FOLDER` sets one")
    listings = [raw / name for name in LISTINGS if (raw / name).is_file()]
    if listings:
        return layouts.of_listing(listing.read(listings[0]), listings[0].name)
    packed = shards.opened(raw)
    return layouts.read(layouts.grown(packed.paths) if packed else _tree(raw), labels=None)


def label_counts(raw: Path) -> Counter[str]:
    """Return how many files each class has by their paths, before any is read; raises as `find` does."""
    return Counter(item.label for item in reading(raw).files if isinstance(item, Listed) and item.label)


def _tree(folder: Path) -> Tree:
    """Return the contents of a folder sorted by name, without hidden files and those of the system."""
    children = sorted(path for path in folder.iterdir() if not files.passed_over(path.name))
    return {path.name: (LINKED if path.is_symlink() else _tree(path)) if path.is_dir() else FILE for path in children}


def _threads() -> int:
    return min(READERS, processors())


def _split(images: pd.DataFrame, params: IngestParams, limits: SplitLimits, raw: Path) -> pd.DataFrame:
    """Assign a split to the images that came without one; copies of a picture, near or exact, go to the same."""
    ours = np.flatnonzero(images["split"].isin(["", CARVED]))
    if not len(ours):
        return images
    pool = images.iloc[ours].reset_index(drop=True)
    test = params.test_share if pool["split"].iloc[0] == "" else 0.0
    copies = thumbnails.near_copies(pool, raw, limits, _threads())
    keys = pool["group"].where(pool["group"] != "", pool["id"])
    member = duplicates.components(len(pool), np.concatenate([duplicates.same(keys.tolist()), copies]))
    splits = assign_splits(units_of(pool.assign(key=keys), member), params.validation_share, test, limits)
    every = images["split"].to_numpy(dtype=object)
    every[ours] = [splits[unit] for unit in member]
    return images.assign(split=every)


def _read(read_file: Callable[[str], bytes], item: Listed | Rejected) -> Row | Rejected:
    if isinstance(item, Rejected):
        return _rejected(item.path, item.reason, item.exception) if item.reason == BESIDE else item
    data = b""
    try:
        data = read_file(item.path)
        facts = decoding.inspect(data)
    except UndecodableError as error:
        return _rejected(item.path, error.reason, error.exception, data, item.label)
    except OSError as error:
        return _rejected(item.path, "cannot be read", f"{type(error).__name__}: {error.strerror}", label=item.label)
    identity = hashlib.sha256(data).hexdigest()
    return Row(
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


def _rejected(path: str, reason: str, exception: str, data: bytes = b"", label: str = "") -> Rejected:
    kind, known = kind_of(path, data)
    if kind == OTHER_FORMAT:
        reason = reason_of(known)
    return Rejected(path, reason, exception, kind, known.name if known else "", label)


def _second_forms(rejected: Iterable[Rejected], rows: Iterable[Row]) -> Iterator[Rejected]:
    """Mark the pictures in formats that are not read if the same name stands beside them in one that is."""
    readable = {PurePosixPath(row.path).with_suffix("") for row in rows}
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
