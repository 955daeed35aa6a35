"""data/decisions.csv: the one file under data/ that a person writes, and the CSV in which they are asked."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from steps.adapters import files
from steps.core.curation import Decision, faults
from steps.errors import DataError


def read(path: Path, images: pd.DataFrame) -> list[Decision]:
    """Return the decisions about `images`; DataError lists everything that is wrong with them, by line."""
    rows = dict(_rows(path))
    head = rows.pop(1, [])
    wanted = list(Decision._fields)
    if head != wanted:
        raise DataError(f"{path.name} has the columns {', '.join(head)}; not {', '.join(wanted)}")
    fields = len(wanted)
    decisions = {line: Decision(*(row + [""] * fields)[:fields]) for line, row in rows.items()}
    found = [
        f"line {line}: {len(row)} fields for {', '.join(wanted)}; a comma within one of them needs quotes around it"
        for line, row in rows.items() if len(row) > fields
    ] or list(faults(decisions, images))  # fmt: skip
    if found:
        count = f"{len(found)} fault{'s' if len(found) != 1 else ''} in {path.name}"
        raise DataError("\n  ".join([f"{count}:", *found]))
    return [decision for decision in decisions.values() if any(decision)]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV as it stands, by the line in which they begin; DataError where it is none.

    A library that guesses would take a comma too many for an index. Strict, or a stray quote would swallow the rest.
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
    rows = [Decision(image, "", "", reason) for image, reason in questions]
    table = pd.DataFrame(rows, columns=Decision._fields)
    files.write_text(path, str(table.to_csv(index=False, lineterminator="\n")))
