"""A listing: a CSV or Parquet file with the label, split, group, source and weight of each image."""

import os
from pathlib import Path, PurePosixPath

import pandas as pd

from steps.errors import DataError
from steps.images.manifest import SPLITS

DEFAULTS = {"split": "", "group": "", "source": "", "weight": "1"}


def read(path: Path) -> pd.DataFrame:
    """Return a listing's rows, sorted by path: path, label, split, group, source (text, empty where missing), weight.

    Paths are POSIX, relative to the listing's folder and inside it. Raises DataError for a file that cannot be read,
    a missing column, a path that leads elsewhere, an unknown split, an invalid weight.
    """
    table = _table(path)
    missing = {"path", "label"} - set(table.columns)
    if missing:
        raise DataError(f"{path.name} lacks the column(s) {', '.join(sorted(missing))}; it has {list(table.columns)}")
    for name, default in DEFAULTS.items():
        table[name] = table[name] if name in table.columns else default
    table = table[["path", "label", *DEFAULTS]].astype(object)
    table = table.where(table.notna(), "").map(str)
    bad = sorted(set(table["split"]) - {"", *SPLITS})
    if bad:
        raise DataError(f"{path.name}: unknown split {bad[0]!r}; one of {', '.join(SPLITS)} or empty")
    return table.assign(
        path=[_inside(path, value) for value in table["path"]], weight=_weights(path, table)
    ).sort_values("path", ignore_index=True)


def paths(path: Path) -> list[str]:
    """Return the column `path` alone, in the file's order; raises DataError as `read` does."""
    table = _table(path)
    if "path" not in table.columns:
        raise DataError(f"{path.name} lacks the column path; it has {list(table.columns)}")
    return [_inside(path, str(value)) for value in table["path"]]


def _table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path, dtype_backend="numpy_nullable")  # else a gap turns the label 1 into "1.0"
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # the parsers' own errors are ValueErrors, pyarrow's included
        raise DataError(f"{path.name} cannot be read: {error}") from None


def _inside(listing: Path, value: str) -> str:
    pure = PurePosixPath(value)
    if not value or "\0" in value:
        raise DataError(f"{listing.name}: {value!r} is no path")
    folder = os.path.realpath(listing.parent)  # pathlib's `resolve` raises where links loop
    leads_to = os.path.realpath(listing.parent / pure)
    if pure.is_absolute() or ".." in pure.parts or not Path(leads_to).is_relative_to(folder):
        raise DataError(f"{listing.name}: {value!r} points outside the folder of images")
    return pure.as_posix()


def _weights(path: Path, table: pd.DataFrame) -> "pd.Series[float]":
    try:
        weights = pd.to_numeric(table["weight"].replace("", "1")).astype(float)
    except ValueError as error:
        raise DataError(f"{path.name}: a weight is no number: {error}") from None
    wrong = table["path"][~((weights >= 0) & (weights < float("inf")))]
    if len(wrong):
        weight = weights[wrong.index[0]]
        raise DataError(f"{path.name}: the weight of {wrong.iloc[0]} is {weight}; a number of at least 0")
    return weights
