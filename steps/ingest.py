"""Ingest: a folder of pictures becomes a manifest, one row per image. It judges nothing; `validate` does."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from annotated_types import Interval

from steps.errors import DataError, UndecodableError
from steps.images import decoding, layouts, listing, shards
from steps.images.layouts import CARVED, FILE, Listed, Tree
from steps.images.manifest import LISTINGS, UNLABELLED, Rejected, Row, assign_split
from steps.runtime import files, stage
from steps.runtime.progress import track

LINKED = "a linked folder; it may loop, so put the folder itself here"
READERS = 8  # at most, whatever the machine: each may hold a picture of `images.MAX_PIXELS`
log = logging.getLogger("regraft")


@dataclass(frozen=True, kw_only=True)
class IngestParams:
    """Shares of the labelled images that are set aside: fixed thresholds on the image id, so no image ever moves."""

    validation_share: Annotated[float, Interval(ge=0.01, le=0.8)]
    test_share: Annotated[float, Interval(ge=0.01, le=0.8)]


def ingest(params: IngestParams, raw: Path, manifest: Path, quarantine: Path) -> None:
    """Read every file of `raw`, loose or packed, write the manifest, and put what does not decode into quarantine.

    Layouts: a `listing.csv` or `listing.parquet` (path,label[,split,group,source,weight]); or what `layouts.read`
    knows: split folders that hold class folders, or class folders, in any common spelling.
    Raises DataError if there is no such layout or no readable image.
    """
    listed, read_file = find(raw), decoding.reader(raw)

    rows: list[Row] = []
    rejected: list[Rejected] = []
    read = decoding.parallel(lambda item: _read(read_file, item, params), listed, min(READERS, os.cpu_count() or 1))
    for outcome in track(read, len(listed), "reading images"):
        if isinstance(outcome, Row):
            rows.append(outcome)
        else:
            rejected.append(outcome)
    if not rows:
        raise DataError(_none_readable(rejected))

    files.write_table(manifest, pd.DataFrame(sorted(rows, key=lambda row: row.path), columns=Row._fields))
    files.write_text(quarantine, _csv(sorted(rejected)))


def find(raw: Path) -> tuple[Listed | Rejected, ...]:
    """Return every file with the label and split that its folder or the listing gives it, or why it has none."""
    if not raw.is_dir():
        raise DataError(f"there is no folder of images at {raw}; `regraft use FOLDER` sets one")
    read = reading(raw)
    for note in read.notes:
        log.warning(note)
    return read.files


def reading(raw: Path) -> layouts.Reading:
    """Return what a listing in `raw` or its layout says; raises DataError where no honest reading exists."""
    listings = [raw / name for name in LISTINGS if (raw / name).is_file()]
    if listings:
        return layouts.of_listing(listing.read(listings[0]), listings[0].name)
    packed = shards.opened(raw)
    return layouts.read(layouts.grown(packed.paths) if packed else _tree(raw), labels=None)


def _tree(folder: Path) -> Tree:
    """Return the contents of a folder sorted by name, without hidden files and those of the system."""
    children = sorted(path for path in folder.iterdir() if not files.passed_over(path.name))
    return {path.name: (LINKED if path.is_symlink() else _tree(path)) if path.is_dir() else FILE for path in children}


def _read(read_file: Callable[[str], bytes], item: Listed | Rejected, params: IngestParams) -> Row | Rejected:
    if isinstance(item, Rejected):
        return item
    try:
        data = read_file(item.path)
        facts = decoding.inspect(data)
    except UndecodableError as error:
        return Rejected(item.path, error.reason, error.exception)
    except OSError as error:
        return Rejected(item.path, "cannot be read", f"{type(error).__name__}: {error.strerror}")
    identity = hashlib.sha256(data).hexdigest()
    if not item.label:
        item = item._replace(split=UNLABELLED)
    elif item.split in ("", CARVED):
        test_share = params.test_share if item.split == "" else 0.0
        item = item._replace(split=assign_split(item.group or identity, params.validation_share, test_share))
    return Row(
        id=identity,
        path=item.path,
        label=item.label,
        split=item.split,
        bytes=len(data),
        group=item.group,
        source=item.source,
        weight=item.weight,
        **facts._asdict(),
    )


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
