"""The page of broken rules: the way out of each first, then the pictures that show it; and a CSV of lines to decide."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from steps.checks import decision_files
from steps.checks.curation import DROP, Decision, obeyed
from steps.checks.reports import Listed, Screening, Unsound, Validation
from steps.images.deep_grey import used_bits
from steps.pages.album import Album, exchanged
from steps.pages.exhibits import Card, Evidence, Section, sections
from steps.pages.rendering import Picture, render
from steps.runtime import files

BUDGET = 3_000_000  # characters for all pictures: the page stays light enough to mail
SIDE = 160
MOST_CARDS = 24  # of one section: what a person looks through at a sitting
MOST_IMAGES = 6  # of one card
MOST_LINES = 24  # to paste; more are easier taken from the CSV
Shown = tuple[Listed, list[Picture]]


def write_page(
    page: Path, lines: Path, inputs: Mapping[str, Path], checks: Unsound, screened: Screening | None
) -> None:
    """Write the page and the CSV if a rule is broken, else remove them.

    `inputs` are the paths of `validate` by argument (raw, manifest, quarantine, decisions, lost_classes). `screened` is
    None if `screen` was not reached.
    """
    broken = [rule for report in (checks, screened) if report for rule in report.rules if not rule.passed]
    if not broken:
        page.unlink(missing_ok=True)
        lines.unlink(missing_ok=True)
        return
    evidence = _evidence(inputs, checks, screened)
    shown = sections(broken, evidence)
    album = Album(inputs["raw"], SIDE, BUDGET, used_bits(evidence.images) if evidence else None)

    files.write_text(
        page,
        render(
            "gate.html",
            sections=[(section, _cards(section, album)) for section in shown],
            rejected=any(rule.refuses for rule in broken),
            count=len(broken),
            line=decision_files.line,
            lines=lines.name,
            most_lines=MOST_LINES,
        ),
    )
    decision_files.write(lines, _decisions(shown))


def _decisions(shown: Sequence[Section]) -> Iterable[Decision]:
    """Return the lines of all sections, one per image: the first section's."""
    lines: dict[str, Decision] = {}
    for decision in (decision for section in shown for decision in section.exhibit.decisions):
        lines.setdefault(decision.image, decision)
    return lines.values()


def _evidence(inputs: Mapping[str, Path], checks: Unsound, screened: Screening | None) -> Evidence | None:
    """Read what the pictures show, as the decisions leave it; None if the table of images is no manifest."""
    if not isinstance(checks, Validation):
        return None
    judged = decision_files.obeyed_before(inputs["decisions"])
    images = obeyed(files.read_table(inputs["manifest"]), judged)
    rejected = pd.read_csv(inputs["quarantine"], dtype=str, keep_default_na=False)
    dropped = [decision.image for decision in judged if decision.decision == DROP]
    return Evidence(
        checks=checks,
        screened=screened,
        images=images[~images["path"].isin(checks.dropped)],
        rejected=rejected[~rejected["path"].isin(dropped)],
        lost=files.read_json(inputs["lost_classes"]),
    )


def _cards(section: Section, album: Album) -> list[tuple[Card, Sequence[Shown]]]:
    """Return the first cards of a section with the pictures that fit on the page."""
    return [(card, [*_pictures(card, album)]) for card in section.exhibit.cards[:MOST_CARDS]]


def _pictures(card: Card, album: Album) -> Iterator[Shown]:
    changes = (None, exchanged) if card.exchanged else (None,)
    for image in card.images[:MOST_IMAGES]:
        pictures = (album.add(image.path, image.id, change) for change in changes)
        yield image, [picture for picture in pictures if picture]
