"""Decisions and weights for single images, by people or their commands: data/decisions.csv, data/importance.csv.

This module also writes the CSV of suspects on which people decide. The weights in data/importance.csv are written by
`regraft validate --against FOLDER --reweight`. Both files are in git: a weight that changes a model has an author and
a date. If a file has only its header, all weights are 1.
"""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from steps.checks.curation import Decision, faults
from steps.errors import DataError
from steps.runtime import files

WEIGHT_COLUMNS = ("image", "weight")


def read(path: Path, images: pd.DataFrame, rejected: Collection[str] = ()) -> list[Decision]:
    """Return the decisions about `images` and the `rejected` files; raises DataError listing all faults by line.

    `images` is the whole manifest: compared with what earlier decisions left of it, a `drop` would be a fault.
    """
    decisions = _lines(path)
    _refuse(path, list(faults(decisions, images, rejected)))
    return [decision for decision in decisions.values() if any(decision)]


def obeyed_before(path: Path) -> list[Decision]:
    """Return the decisions unchecked, for stages after the one that checked them against the manifest."""
    return [decision for decision in _lines(path).values() if any(decision)]


def _lines(path: Path) -> Mapping[int, Decision]:
    rows = dict(_rows(path))
    head = rows.pop(1, [])
    wanted = list(Decision._fields)
    if head != wanted:
        raise DataError(
            f"{path.name} has the columns {', '.join(head) or 'of an empty file'}; its first line has to be "
            f"{','.join(wanted)}"
        )
    fields = len(wanted)
    _refuse(
        path,
        [
            f"line {line}: {len(row)} fields for {', '.join(wanted)}; a comma within one of them needs quotes around it"
            for line, row in rows.items()
            if len(row) > fields
        ],
    )
    return {line: Decision(*(row + [""] * fields)[:fields]) for line, row in rows.items()}


def _refuse(path: Path, messages: list[str]) -> None:
    if messages:
        count = f"{len(messages)} fault{'s' if len(messages) != 1 else ''} in {path.name}"
        raise DataError("\n  ".join([f"{count}:", *messages]))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV with the line on which each begins; raises DataError if the file is not CSV.

    A library that guesses would take an extra comma for an index. Strict, because a stray quote would swallow the rest.
    """
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            for row in reader:
                yield line, [value.strip() for value in row]
                line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path.name} cannot be read from line {line} on (a quote too many?): {error}") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None


def write_questions(path: Path, questions: Iterable[tuple[str, str]]) -> None:
    """Write (image, reason) pairs in the columns of data/decisions.csv; a person fills in and copies the lines."""
    write(path, (Decision(image, "", "", reason) for image, reason in questions))


def write(path: Path, decisions: Iterable[Decision]) -> None:
    """Write decisions in the columns of data/decisions.csv."""
    table = pd.DataFrame(list(decisions), columns=Decision._fields)
    files.write_text(path, str(table.to_csv(index=False, lineterminator="\n")))


def line(decision: Decision) -> str:
    """Return a decision as one line of data/decisions.csv, with quotes where CSV asks for them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(decision)
    return buffer.getvalue()


def read_weights(path: Path, images: pd.DataFrame) -> "pd.Series[Any]":
    """Return the factor of each row of `images` (by its column id), 1 if the file does not name it.

    Images that no longer exist are ignored. Raises DataError with what is wrong with the file.
    """
    try:
        table = pd.read_csv(path, dtype={"image": str, "weight": float})
    except (ValueError, OSError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    if tuple(table.columns) != WEIGHT_COLUMNS:
        raise DataError(f"{path.name} has the columns {', '.join(table.columns)}; not {', '.join(WEIGHT_COLUMNS)}")
    wrong = table["image"][~(np.isfinite(table["weight"]) & (table["weight"] > 0)) | table["image"].duplicated()]
    if len(wrong):
        raise DataError(f"{path.name}: a weight is a number above 0, and an image has one; look at {wrong.iloc[0]}")
    return images["id"].map(table.set_index("image")["weight"]).fillna(1.0).astype(np.float64)


def write_weights(path: Path, ids: Sequence[str], weights: npt.NDArray[np.float64]) -> None:
    """Write the weights, four decimals each, sorted by id."""
    table = pd.DataFrame({"image": ids, "weight": weights.round(4)}).sort_values("image")
    files.write_text(path, str(table.to_csv(index=False, lineterminator="\n")))
