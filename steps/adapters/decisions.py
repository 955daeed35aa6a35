"""data/decisions.csv: the one file under data/ that a person writes, and the CSV in which they are asked."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from steps.adapters import files
from steps.core.curation import Decision, faults
from steps.errors import DataError


def read(path: Path, images: pd.DataFrame) -> list[Decision]:
    """Return the decisions about `images`; DataError lists everything that is wrong with them."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    if list(table.columns) != list(Decision._fields):
        raise DataError(f"{path.name} has the columns {', '.join(table.columns)}; not {', '.join(Decision._fields)}")
    decisions = [Decision(*(str(value).strip() for value in row)) for row in table.itertuples(index=False)]
    found = list(faults(decisions, images))
    if found:
        count = f"{len(found)} fault{'s' if len(found) != 1 else ''} in {path.name}"
        raise DataError("\n  ".join([f"{count}:", *found]))
    return decisions


def write_questions(path: Path, questions: Iterable[tuple[str, str]]) -> None:
    """Write (image, reason) pairs in the columns of data/decisions.csv; a person fills in and copies the lines."""
    rows = [Decision(image, "", "", reason) for image, reason in questions]
    table = pd.DataFrame(rows, columns=Decision._fields)
    files.write_text(path, str(table.to_csv(index=False, lineterminator="\n")))
