"""The report with the verdict on top: the registry's decision on the model, which no tracked file may hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steps.errors import DataError
from steps.evaluation.results import Judgement, PairedComparison
from steps.pages.caveats import Caveat
from steps.pages.rendering import render
from steps.runtime import files

PROMOTED, REMAINS, PROPOSED, REFUSED = "promoted", "remains", "proposed", "refused"
PARTS = {"<!-- outcome -->": "outcome.html", "<!-- reasons -->": "reasons.html"}  # the pictures stand between them


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What promotion decided, in words, and where to read on.

    `judged` is the challenger; `comparison` is the challenger minus the champion on the same test images, None if
    nothing was compared. `looks` says how often the test images were evaluated (sentence; state: within budget, over
    budget, exhausted). `links` are pairs of text and address. `caveats` could overturn the result, the gravest first.
    """

    verdict: str
    headline: str
    reasons: tuple[str, ...]
    champion_version: str | None
    challenger_version: str
    previous_version: str | None
    model_name: str
    judged: Judgement
    confidence: float
    comparison: PairedComparison | None
    looks: Mapping[str, str] | None
    links: tuple[tuple[str, str], ...]
    caveats: tuple[Caveat, ...]


def write_outcome(report: Path, page: Path, outcome: Outcome) -> None:
    """Write `page`: the report with the outcome's parts where their markers stand.

    Raises DataError if the report does not hold each marker exactly once.
    """
    text = report.read_text(encoding="utf-8")
    for marker, template in PARTS.items():
        if (count := text.count(marker)) != 1:
            raise DataError(
                f"{report} holds the marker {marker} {count} times, not once; make it anew: dvc repro -f report"
            )
        text = text.replace(marker, render(template, outcome=outcome))

    files.write_text(page, text)


def markdown(outcome: Outcome) -> str:
    """Return the outcome as Markdown, for places that show no page: Prefect's artifacts, a pull request."""
    return render("outcome.md", outcome=outcome)
