"""`regraft predict`: a version's answers to files and folders, as a table, CSV, Parquet or JSON."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from steps.errors import RequestError, visible
from steps.images import named_pictures
from steps.serving import answer_files
from steps.serving.bulk_answers import Answer, load
from steps.serving.bulk_answers import predict as predict_rows

SHOWN = 200  # rows of the table on a terminal
TOLD = ("path", "sha256", "label", "probability", "abstain", "unfamiliar", "version", "digest", "error")


@dataclass(frozen=True)
class Answered:
    """How many files a version answered, and where the answers are; None if they were printed."""

    version: str
    files: int
    abstained: int
    unfamiliar: int
    errors: int
    output: str | None

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Return text for a person."""
        where = f"; {self.output}" if self.output else ""
        return [
            f"version {self.version}: {self.files - self.errors} of {self.files} files answered, {self.abstained} "
            f"abstained, {self.unfamiliar} unfamiliar, {self.errors} with an error{where}"
        ]


def predict(
    root: Path, paths: Sequence[str], output: Path | None, version: str | None, probabilities: bool, as_json: bool
) -> Answered:
    """Write the answers to `output` or print them as they come; return their counts.

    RequestError, once they are written, if there is an answer to no file.
    """
    if output is not None:
        answer_files.check(output)
    files = named_pictures.find(paths, besides=output)
    served = load(root, version)
    counts: Counter[str] = Counter()
    first: list[str] = []
    answers = _counted(predict_rows(root, served, files), counts, first)
    columns = [*TOLD, *(f"probability_{name}" for name in served.classes if probabilities)]
    values = (_values(answer, len(columns) - len(TOLD)) for answer in answers)
    if output is not None:
        answer_files.write(output, columns, values)
    elif as_json:
        _print_json(columns, values, sys.stdout)
    elif sys.stdout.isatty():
        _print_table(columns, values)
    else:
        answer_files.write_csv(sys.stdout, columns, values)
    if counts["errors"] == counts["files"]:
        raise RequestError(f"not one of {counts['files']:,} files could be answered; the first, {first[0]}")
    where = str(output) if output else None
    return Answered(served.number, counts["files"], counts["abstained"], counts["unfamiliar"], counts["errors"], where)


def _counted(answers: Iterable[Answer], counts: "Counter[str]", faults: list[str]) -> Iterator[Answer]:
    """Count answers as they pass; `faults` receives the first file without one, and why."""
    for answer in answers:
        if answer.error and not faults:
            faults.append(f"{answer.path}: {answer.error}")
        counts["files"] += 1
        counts["errors"] += answer.error is not None
        counts["abstained"] += bool(answer.abstain)
        counts["unfamiliar"] += bool(answer.unfamiliar)
        yield answer


def _values(answer: Answer, classes: int) -> list[Any]:
    named = answer._asdict()
    nothing: list[float | None] = [None] * classes
    probabilities = answer.probabilities or nothing
    return [*(named[column] for column in TOLD), *probabilities[:classes]]


def _print_json(columns: Sequence[str], rows: Iterable[Sequence[Any]], file: TextIO) -> None:
    """Print an array, one row per line, as the rows arrive."""
    lead = "[\n"
    for row in rows:
        file.write(lead + json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False))
        lead = ",\n"
    file.write("\n]\n")


def _print_table(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    kept = [i for i, name in enumerate(columns) if name not in ("sha256", "version", "digest")]
    table = Table(*(columns[i] for i in kept))
    for row in islice(rows, SHOWN):
        table.add_row(*(escape(visible(_short(row[i]))) for i in kept))
    more = sum(1 for _ in rows)
    console = Console()
    console.print(table)
    if more:
        console.print(f"and {more} more; --output answers.csv keeps all of them")


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.3f}" if isinstance(value, float) else str(value or "")
