"""Ingest: a folder of pictures becomes a manifest, one row per image. It judges nothing; `validate` does."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from annotated_types import Interval

from steps.checks import duplicates, thumbnails
from steps.checks.duplicates import CopyLimits
from steps.errors import DataError, UndecodableError
from steps.images import decoding, listing, shards
from steps.images.file_kinds import OTHER_FORMAT, SECOND_FORM, kind_of, reason_of
from steps.images.manifest import LISTINGS, SPLITS, TEST, TRAIN, UNLABELLED, VAL, Rejected, Row, normal
from steps.images.splitting import Minima, assign_splits, units_of
from steps.runtime import files, stage
from steps.runtime.progress import track

CARVED = "carved"  # of the user's training images: the hash rule sets a validation part aside, never a test part
FILE, LINKED = "", "a linked folder; it may loop, so put the folder itself here"
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


Tree = dict[str, "Tree | str"]  # the contents of a folder by name: a subfolder's tree, `FILE`, or the fault


class Listed(NamedTuple):
    """A file and what its folder or the listing says of it; the hash rule decides an empty split, `CARVED` in part."""

    path: str
    label: str
    split: str
    group: str = ""
    source: str = ""
    weight: float = 1.0


def ingest(params: IngestParams, limits: SplitLimits, raw: Path, manifest: Path, quarantine: Path) -> None:
    """Read every file of `raw`, loose or packed, write the manifest, and put what does not decode into quarantine.

    Layouts: a `listing.csv` or `listing.parquet` (path,label[,split,group,source,weight]); or `train/ val/ test/`
    holding class folders; or class folders. A folder `unlabelled` holds images without a label.
    Raises DataError if there is no such layout or no readable image.
    """
    listed, read_file = list(find(raw)), decoding.reader(raw)

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


def find(raw: Path) -> Iterator[Listed | Rejected]:
    """Yield every file, sorted, with the label and split that its folder gives it, or the reason why it has none."""
    if not raw.is_dir():
        raise DataError(f"there is no folder of images at {raw}; `regraft use FOLDER` sets one")
    listings = [raw / name for name in LISTINGS if (raw / name).is_file()]
    if listings:
        yield from _from_listing(listings[0])
        return
    packed = shards.opened(raw)
    yield from _in_folders(_grown(packed.paths) if packed else _tree(raw))


def label_counts(raw: Path) -> Counter[str]:
    """Return how many files each class has by their paths, before any is read; raises as `find` does."""
    return Counter(item.label for item in find(raw) if isinstance(item, Listed) and item.label)


def _tree(folder: Path) -> Tree:
    """Return the contents of a folder sorted by name, without hidden files and those of the system."""
    children = sorted(path for path in folder.iterdir() if not files.passed_over(path.name))
    return {path.name: (LINKED if path.is_symlink() else _tree(path)) if path.is_dir() else FILE for path in children}


def _grown(paths: list[str]) -> Tree:
    """Return the tree of files at these paths."""
    tree: Tree = {}
    for path in paths:
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})  # type: ignore[assignment]  # a file and a folder never share a name
        node[name] = FILE
    return tree


def _in_folders(tree: Tree) -> Iterator[Listed | Rejected]:
    folders = {name: node for name, node in tree.items() if isinstance(node, dict)}
    if not folders:
        raise DataError(f"{_what_lies_in(tree)}; expected one folder of images per class (README: 'Your images')")
    if TRAIN in folders and set(folders) <= set(SPLITS):
        yield from _loose(tree, "")
        for split, below in sorted(folders.items()):
            yield from _class_folders(below, f"{split}/", _own_split(split, set(folders)))
        return
    if any(isinstance(node, dict) for node in folders.get(TRAIN, {}).values()):
        # Otherwise `train` and `valid` would silently become two classes.
        extra = min(set(folders) - set(SPLITS))
        raise DataError(
            f"train/ holds class folders, but {extra}/ beside it is no split; rename it to one of {', '.join(SPLITS)}, "
            "or move it out of the folder of images"
        )
    yield from _class_folders(tree, "", "")


def _own_split(split: str, present: set[str]) -> str:
    """Name the split of a folder: train/ + val/ alone means that val is the test set (the field's habit)."""
    if split == VAL and TEST not in present:
        return TEST
    if split == TRAIN and not {VAL, TEST} <= present:
        return CARVED if {VAL, TEST} & present else ""
    return split


def _class_folders(tree: Tree, above: str, split: str) -> Iterator[Listed | Rejected]:
    if split == UNLABELLED:
        yield from _files(tree, above, "", UNLABELLED)
        return
    yield from _loose(tree, above)
    for name, below in tree.items():
        if isinstance(below, dict):
            label, own = ("", UNLABELLED) if name == UNLABELLED else (name, split)
            listed = list(_files(below, f"{above}{name}/", label, own))
            if not listed:  # logged and not recorded: neither git nor DVC keeps an empty folder
                log.warning("passed over: the class folder %s holds no files", above + name)
            yield from listed


def _files(tree: Tree, above: str, label: str, split: str) -> Iterator[Listed | Rejected]:
    for name, below in tree.items():
        if isinstance(below, dict):
            yield from _files(below, f"{above}{name}/", label, split)
        else:
            yield _listed(above + name, below, label, split)


def _listed(path: str, fault: str, label: str, split: str) -> Listed | Rejected:
    if not files.speakable(path):
        return Rejected(path.encode(errors="backslashreplace").decode(), "the name is not UTF-8; rename it", "")
    return Rejected(path, fault, "") if fault else Listed(path, normal(label), split)


def _loose(tree: Tree, above: str) -> Iterator[Rejected]:
    """Yield the files beside class folders as rejected: nothing says which class they show."""
    for name, below in tree.items():
        if not isinstance(below, dict):
            item = _listed(above + name, below, "", "")
            outside = "beside the class folders: no label"
            yield item if isinstance(item, Rejected) else _rejected(item.path, outside, "")


def _what_lies_in(tree: Tree) -> str:
    return "the folder of images is empty" if not tree else f"no class folders, {len(tree)} loose files"


def _from_listing(path: Path) -> Iterator[Listed]:
    table = listing.read(path)
    own = set(table["split"][table["label"] != ""])
    if "" in own and len(own) > 1:
        # If the hash rule filled in the missing splits, one more row could move images from test to training.
        raise DataError(f"{path.name}: some labelled images have a split and some have none; give all of them or none")
    for row in table.itertuples(index=False):
        split = _own_split(row.split, own) if row.split else ""
        yield Listed(row.path, normal(row.label), split, row.group, row.source, row.weight)


def _threads() -> int:
    return min(READERS, os.cpu_count() or 1)


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
        return item
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
