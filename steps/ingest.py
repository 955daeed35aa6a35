"""Ingest: a folder of pictures becomes a manifest, one row an image. It judges nothing; `validate` does."""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from steps.adapters import files, images, listing, stage
from steps.adapters.progress import track
from steps.core.manifest import SPLITS, TEST, TRAIN, UNLABELLED, VAL, Rejected, Row, assign_split
from steps.errors import DataError

LISTINGS = ("listing.csv", "listing.parquet")
CARVED = "carved"  # of the user's training images: the hash rule sets a validation part aside, never a test part
READERS = 8  # at most, whatever the machine: each may hold a picture of `images.MAX_PIXELS`
log = logging.getLogger("regraft")


@dataclass(frozen=True, kw_only=True)
class IngestParams:
    """Which share of the labelled images is set aside; fixed thresholds on the image id, so no image ever moves."""

    validation_share: float
    test_share: float

    def faults(self) -> Iterator[str]:
        """Yield shares that leave a split without images."""
        for name in ("validation_share", "test_share"):
            if not 0.01 <= getattr(self, name) <= 0.8:
                yield f"{name} is {getattr(self, name)}; 0.01 to 0.8"


class Listed(NamedTuple):
    """A file and what its place says of it; an empty `split` is left to the hash rule, `CARVED` in part."""

    path: str
    label: str
    split: str
    group: str = ""
    source: str = ""
    weight: float = 1.0


def ingest(params: IngestParams, raw: Path, manifest: Path, quarantine: Path) -> None:
    """Read every file under `raw`, write the manifest, and put what does not decode into the quarantine list.

    Layouts: a `listing.csv` or `listing.parquet` (path,label[,split,group,source,weight]); or `train/ val/ test/`
    holding class folders; or class folders. A folder `unlabelled` holds images without a label.
    Raises DataError where there is no such layout or not one readable image.
    """
    listed = list(find(raw))

    rows: list[Row] = []
    rejected: list[Rejected] = []
    read = images.parallel(lambda item: _read(raw, item, params), listed, min(READERS, os.cpu_count() or 1))
    for outcome in track(read, len(listed), "reading images"):
        if isinstance(outcome, Row):
            rows.append(outcome)
        else:
            rejected.append(outcome)
    if not rows:
        raise DataError(_none_readable(rejected))

    files.write_table(manifest, pd.DataFrame(sorted(rows, key=lambda row: row.path), columns=Row._fields))
    files.write_text(quarantine, _csv(sorted(rejected)))


def find(raw: Path) -> Iterator[Listed | Rejected]:
    """Yield every file with the label and split that its place gives it, in sorted order, or why it has none."""
    if not raw.is_dir():
        raise DataError(f"there is no folder of images at {raw}")
    listings = [raw / name for name in LISTINGS if (raw / name).is_file()]
    if listings:
        yield from _from_listing(listings[0])
        return
    top = {child.name for child in _children(raw) if _is_folder(child)}
    if not top:
        raise DataError(f"{_what_lies_in(raw)}; expected one folder of images per class (README: 'Your images')")
    if TRAIN in top and top <= set(SPLITS):
        yield from _loose(raw, raw)
        for split in sorted(top):
            yield from _class_folders(raw, raw / split, _own_split(split, top))
        return
    if TRAIN in top and any(_is_folder(child) for child in _children(raw / TRAIN)):
        # Else `train` and `valid` would become two classes, and all the rest run on without a word.
        other = min(top - set(SPLITS))
        raise DataError(f"train/ holds class folders, but {other}/ beside it is no split; known: {', '.join(SPLITS)}")
    yield from _class_folders(raw, raw, "")


def _own_split(split: str, present: set[str]) -> str:
    """Name the split of a folder: train/ + val/ alone means that val is the test set (the field's habit)."""
    if split == VAL and TEST not in present:
        return TEST
    if split == TRAIN and not {VAL, TEST} <= present:
        return CARVED if {VAL, TEST} & present else ""
    return split


def _class_folders(raw: Path, folder: Path, split: str) -> Iterator[Listed | Rejected]:
    if split == UNLABELLED:
        yield from _files(raw, folder, "", UNLABELLED)
        return
    yield from _loose(raw, folder)
    for child in filter(_is_folder, _children(folder)):
        labelled = child.name != UNLABELLED
        found = list(_files(raw, child, child.name if labelled else "", split if labelled else UNLABELLED))
        if not found:  # told and not recorded: neither git nor DVC keeps an empty folder
            log.warning("passed over: the class folder %s holds no files", child.relative_to(raw).as_posix())
        yield from found


def _files(raw: Path, folder: Path, label: str, split: str) -> Iterator[Listed | Rejected]:
    for child in _children(folder):
        if _is_folder(child):
            yield from _files(raw, child, label, split)
        else:
            yield _listed(raw, child, label, split)


def _listed(raw: Path, path: Path, label: str, split: str) -> Listed | Rejected:
    name = path.relative_to(raw).as_posix()
    if not files.speakable(name):
        return Rejected(name.encode(errors="backslashreplace").decode(), "the name is not UTF-8; rename it", "")
    if path.is_dir():
        return Rejected(name, "a linked folder; it may loop, so put the folder itself here", "")
    return Listed(name, label, split)


def _loose(raw: Path, folder: Path) -> Iterator[Rejected]:
    """Yield the files that stand beside class folders: whose class they show is not for us to guess."""
    for path in _children(folder):
        if not _is_folder(path):
            item = _listed(raw, path, "", "")
            yield item if isinstance(item, Rejected) else Rejected(item.path, "beside the class folders: no label", "")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _children(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not files.passed_over(path.name))


def _what_lies_in(raw: Path) -> str:
    count = len(_children(raw))
    return "the folder of images is empty" if count == 0 else f"no class folders, {count} loose files"


def _from_listing(path: Path) -> Iterator[Listed]:
    table = listing.read(path)
    own = set(table["split"][table["label"] != ""])
    if "" in own and len(own) > 1:
        # Were the hash rule to fill in what the others lack, one more row could move images from test to training.
        raise DataError(f"{path.name}: some labelled images have a split and some have none; give all of them or none")
    for row in table.itertuples(index=False):
        split = _own_split(row.split, own) if row.split else ""
        yield Listed(row.path, row.label, split, row.group, row.source, row.weight)


def _read(raw: Path, item: Listed | Rejected, params: IngestParams) -> Row | Rejected:
    if isinstance(item, Rejected):
        return item
    try:
        data = images.read_bytes(raw / item.path)
        facts = images.inspect(data)
    except images.UndecodableError as error:
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
        id=identity, path=item.path, label=item.label, split=item.split, bytes=len(data), group=item.group,
        source=item.source, weight=item.weight, **facts._asdict(),
    )  # fmt: skip


def _none_readable(rejected: list[Rejected]) -> str:
    if not rejected:
        return "the class folders (or the listing) hold no files"
    first = rejected[0]
    return f"not one of {len(rejected)} files can be used (first: {first.path}: {first.reason})"


def _csv(rejected: list[Rejected]) -> str:
    return str(pd.DataFrame(rejected, columns=Rejected._fields).to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    stage.main(ingest)
