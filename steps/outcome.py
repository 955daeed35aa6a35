"""The report with the verdict on top: what the registry made of the model, which no tracked file may hold."""

from dataclasses import dataclass
from pathlib import Path

from steps.adapters import files
from steps.adapters.pages import render
from steps.errors import DataError

MARKER = "<!-- outcome -->"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What promotion decided, in words, and where to read on: `links` are pairs of text and address."""

    promoted: bool
    headline: str
    reasons: tuple[str, ...]
    champion_version: str | None
    challenger_version: str | None
    model_name: str
    links: tuple[tuple[str, str], ...]


def write_outcome(report: Path, page: Path, outcome: Outcome) -> None:
    """Write `page`: the report with the outcome's section where its marker stands.

    Raises DataError where the report does not hold the marker exactly once.
    """
    text = report.read_text(encoding="utf-8")
    if (found := text.count(MARKER)) != 1:
        raise DataError(
            f"{report} holds the marker {MARKER} {found} times, not once; make it anew: dvc repro -f report"
        )

    told = text.replace(MARKER, render("outcome.html", outcome=outcome))

    files.write_text(page, told)
