"""A listing: a CSV or Parquet file with the label, split, group, source and weight of each image."""

import os
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pandas as pd

from steps.errors import DataError
from steps.images import layouts, shards
from steps.images.layouts import CARVED, FILE, Listed, Tree, nearest_split
from steps.images.manifest import LISTINGS, SPLITS, TEST, TRAIN, VAL
from steps.runtime import files

LINKED = "a linked folder; it may loop, so put the folder itself here"
PARSERS = {  # what pandas and pyarrow say of a text, a Parquet file: what it means
    r"Expected (\d+) fields in line (\d+), saw (\d+)": "line {1} has {2} columns, and the lines above it have {0}; a "
    "value that holds the separator needs quotation marks",
    r"EOF inside string starting at row (\d+)": "a quotation mark is opened and never closed, from row {0} on",
    r"No columns to parse": "it is empty; expected a line path,label and a row per image",
    r"codec can't decode byte .* in position (\d+)": "it is no text in UTF-8 (byte {0})",
    r"(?i)parquet|thrift|arrow": "it is no Parquet file, or it is cut off",
}
DEFAULTS = {"split": "", "group": "", "source": "", "weight": "1"}


def reading(raw: Path) -> layouts.Reading:
    """Return what a listing in `raw` or its layout says; raises DataError where no honest reading exists."""
    if not raw.is_dir():
        raise DataError(f"there is no folder of images at {raw}; `regraft use FOLDER` sets one")
    listings = [raw / name for name in LISTINGS if (raw / name).is_file()]
    if listings:
        return layouts.of_listing(read(listings[0]), listings[0].name)
    packed = shards.opened(raw)
    return layouts.read(layouts.grown(packed.paths) if packed else _tree(raw), labels=None)


def splits_of_ours(raw: Path) -> tuple[str, ...]:
    """Return the splits that regraft makes of the images in `raw` by their hashes: all, those within train, or none."""
    given = {item.split for item in reading(raw).files if isinstance(item, Listed) and item.label}
    return (TRAIN, VAL, TEST) if "" in given else (TRAIN, VAL) if CARVED in given else ()


def _tree(folder: Path) -> Tree:
    """Return the contents of a folder sorted by name, without hidden files and those of the system."""
    children = sorted(path for path in folder.iterdir() if not files.passed_over(path.name))
    return {path.name: (LINKED if path.is_symlink() else _tree(path)) if path.is_dir() else FILE for path in children}


def read(path: Path) -> pd.DataFrame:
    """Return the rows of a listing, as `checked` does; DataError for a file that cannot be read as well."""
    return checked(_table(path), path.parent, path.name)


def checked(table: pd.DataFrame, folder: Path, name: str) -> pd.DataFrame:
    """Return rows sorted by path: path, label, split, group, source (text, empty where missing), weight.

    Paths are POSIX, relative to `folder` and inside it; `name` is that of the listing. Raises DataError for a missing
    column, a path that leads elsewhere, an unknown split, an invalid weight.
    """
    missing = {"path", "label"} - set(table.columns)
    if missing:
        raise DataError(f"{name} lacks the column(s) {', '.join(sorted(missing))}; it has {list(table.columns)}")
    for column, default in DEFAULTS.items():
        table[column] = table[column] if column in table.columns else default
    table = table[["path", "label", *DEFAULTS]].astype(object)
    table = table.where(table.notna(), "").map(str)
    bad = sorted(set(table["split"]) - {"", *SPLITS})
    if bad:
        near = nearest_split(bad[0])
        meant = f" (did you mean {near}?)" if near else ""
        raise DataError(f"{name}: unknown split {bad[0]!r}; one of {', '.join(SPLITS)} or empty{meant}")
    return table.assign(
        path=[_inside(folder, value, name) for value in table["path"]], weight=_weights(name, table)
    ).sort_values("path", ignore_index=True)


def paths(path: Path) -> list[str]:
    """Return the column `path` alone, in the file's order; raises DataError as `read` does."""
    table = _table(path)
    if "path" not in table.columns:
        raise DataError(f"{path.name} lacks the column path; it has {list(table.columns)}")
    return [_inside(path.parent, str(value), path.name) for value in table["path"]]


def _table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path, dtype_backend="numpy_nullable")  # else a gap turns the label 1 into "1.0"
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # the parsers' own errors are ValueErrors, pyarrow's included
        raise DataError(f"{path.name} cannot be read: {in_words(error)}") from None


def in_words(error: Exception) -> str:
    """Return what a parser's error means to the owner of a table."""
    for pattern, meaning in PARSERS.items():
        if match := re.search(pattern, str(error)):
            return meaning.format(*match.groups())
    return str(error)


def _inside(folder: Path, value: str, listing: str) -> str:
    """Return a path of a listing in its POSIX form; raises DataError if it leads out of the folder, or is none."""
    pure = PurePosixPath(value)
    if not value or "\0" in value:
        raise DataError(f"{listing}: {value!r} is no path")
    root = _real(folder)
    leads_to = os.path.realpath(root / pure)
    if pure.is_absolute() or ".." in pure.parts or not Path(leads_to).is_relative_to(root):
        raise DataError(f"{listing}: {value!r} points outside the folder of images")
    return pure.as_posix()


@lru_cache(maxsize=1)
def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))  # pathlib's `resolve` raises where links loop


def _weights(name: str, table: pd.DataFrame) -> "pd.Series[float]":
    try:
        weights = pd.to_numeric(table["weight"].replace("", "1")).astype(float)
    except ValueError as error:
        raise DataError(f"{name}: a weight is no number: {error}") from None
    wrong = table["path"][~((weights >= 0) & (weights < float("inf")))]
    if len(wrong):
        weight = weights[wrong.index[0]]
        raise DataError(f"{name}: the weight of {wrong.iloc[0]} is {weight}; a number of at least 0")
    return weights
