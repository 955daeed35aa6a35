"""What shows a broken rule of the data to a person: pictures side by side with lines to paste, or a short table."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pandas as pd

from steps.checks.curation import DROP, KEEP, RELABEL, Decision
from steps.checks.duplicates import PRECEDENCE, leaking_copies
from steps.checks.reports import Copies, Listed, Screening, Validation
from steps.checks.rule import RuleResult
from steps.checks.rules import KEY_OF, SWAPPED
from steps.images.file_kinds import LOST
from steps.images.manifest import TEST, TRAIN, UNLABELLED, VAL, alike
from steps.pages.rendering import chance, counted, percent, points

WORDS = {TRAIN: "training", VAL: "validation", TEST: "test"}
SAMPLED = 4  # pictures of a class, group or source: enough to see what it looks like
MOST_ROWS = 24  # of a table: what fits on two screens


@dataclass(frozen=True)
class Evidence:
    """What the exhibits are made of: the reports, and the images and rejected files as the decisions leave them.

    `images` has the columns of the manifest, `rejected` those of data/quarantine.csv; `lost` are the classes that the
    last accepted images had and these have not.
    """

    checks: Validation
    screened: Screening | None
    images: pd.DataFrame
    rejected: pd.DataFrame
    lost: Sequence[str]

    @property
    def labelled(self) -> pd.DataFrame:
        """Return the images that have a label."""
        return self.images[self.images["split"] != UNLABELLED]


@dataclass(frozen=True)
class Way:
    """A judgement that a person may reach, and the decisions that carry it out."""

    judgement: str
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Card:
    """Pictures that belong together; `exchanged`: each is also shown with red and blue exchanged."""

    title: str
    images: tuple[Listed, ...]
    ways: tuple[Way, ...] = ()
    exchanged: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: its title, its columns and the first of its `total` rows."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int


@dataclass(frozen=True)
class Exhibit:
    """Everything about the rules of one kind; `decisions` has a line for each image that a person has to decide on."""

    cards: tuple[Card, ...] = ()
    grids: tuple[Grid, ...] = ()
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Section:
    """Broken rules that one exhibit shows."""

    rules: tuple[RuleResult, ...]
    exhibit: Exhibit


def sections(broken: Iterable[RuleResult], evidence: Evidence | None) -> list[Section]:
    """Group broken rules by what shows them, those that reject the data first; without evidence nothing is shown."""
    grouped: dict[Maker, list[RuleResult]] = {}
    for rule in sorted(broken, key=lambda rule: not rule.refuses):
        maker = MAKERS.get(KEY_OF.get(rule.name, ""), _nothing)
        grouped.setdefault(maker, []).append(rule)
    return [Section(tuple(rules), maker(evidence) if evidence else Exhibit()) for maker, rules in grouped.items()]


def _nothing(_: Evidence) -> Exhibit:
    return Exhibit()


def _copies(evidence: Evidence) -> Exhibit:
    """Show copies, and the groups of a listing, that stand in two splits or carry two labels."""
    exhibit = _of_groups(evidence.checks.copies)
    return Exhibit((*exhibit.cards, *_divided(evidence.labelled)), decisions=exhibit.decisions)


def _like(evidence: Evidence) -> Exhibit:
    return _of_groups(evidence.screened.like) if evidence.screened else Exhibit()


def _of_groups(groups: Sequence[Copies]) -> Exhibit:
    broken = sorted(
        (group for group in groups if group.leaking or group.conflicting), key=lambda group: not group.leaking
    )
    decisions = [decision for group in broken for decision in _questions(group)]
    return Exhibit(tuple(map(_card, broken)), decisions=tuple(decisions))


def _card(group: Copies) -> Card:
    labels, splits = _labels(group), [WORDS[name] for name in PRECEDENCE if name in {i.split for i in group.images}]
    what = "identical files" if group.identical else "alike"
    title = f"{counted(len(group.images), 'picture')}, {what}, in {' and '.join(splits)}"
    labelled = f"; labelled {' and '.join(labels)}" if group.conflicting else ""
    return Card(title + labelled, _kept_first(group), tuple(_ways(group)))


def _labels(group: Copies) -> list[str]:
    return sorted({image.label for image in group.images})


def _kept_first(group: Copies) -> tuple[Listed, ...]:
    """Order the images so that those which stay if the copies are left out come first."""
    return tuple(sorted(group.images, key=lambda image: (PRECEDENCE.index(image.split), image.path)))


def _ways(group: Copies) -> Iterator[Way]:
    """Yield what a group of copies may be; each way leaves no broken rule behind."""
    drops = _drops(group)
    gone = {decision.image for decision in drops}
    if not group.conflicting:
        yield Way("If they show the same, leave out the copies:", drops)
    for label in _labels(group) if group.conflicting else ():
        others = (i for i in _kept_first(group) if i.path not in gone and i.label != label)
        yield Way(f"If they show {label}:", (*drops, *(Decision(i.path, RELABEL, label, "") for i in others)))
    if len({image.id for image in group.images}) == len(group.images):
        keeps = tuple(Decision(image.path, KEEP, "", "") for image in _kept_first(group)[1:])
        yield Way("If they show different things:", keeps)


def _drops(group: Copies) -> tuple[Decision, ...]:
    stays = _kept_first(group)[0].path
    return tuple(Decision(path, DROP, "", f"copy of {stays}") for path in leaking_copies([group]))


def _questions(group: Copies) -> Iterator[Decision]:
    """Yield the lines about a group for the CSV: filled in where no label is in doubt."""
    if not group.conflicting:
        yield from _drops(group)
        return
    for image in group.images:
        other = next(other for other in group.images if other.label != image.label)
        yield Decision(image.path, "", "", f"labelled {image.label}; {other.path}, labelled {other.label}, is alike")


def _divided(labelled: pd.DataFrame) -> Iterator[Card]:
    """Yield a card for each group of the listing that stands in two splits, with pictures from each."""
    for name, rows in labelled[labelled["group"] != ""].groupby("group"):
        splits = [split for split in PRECEDENCE if split in set(rows["split"])]
        if len(splits) > 1:
            counts = [f"{(rows['split'] == split).sum():,} in {WORDS[split]}" for split in splits]
            yield Card(f"group {name}: {', '.join(counts)}", _listed(rows.groupby("split").head(SAMPLED // 2)))


def _classes(evidence: Evidence) -> Exhibit:
    """Show the classes by their training images, the fewest first; an image of weight 0 teaches nothing."""
    weighty = evidence.labelled[evidence.labelled["weight"] > 0]
    unread = evidence.rejected[evidence.rejected["kind"].isin(LOST) & (evidence.rejected["label"] != "")]
    counts = {
        label: [
            *((weighty["split"] == split)[weighty["label"] == label].sum() for split in WORDS),
            (unread["label"] == label).sum(),
        ]
        for label in {*evidence.labelled["label"], *unread["label"]}
    }
    fewest = sorted(counts, key=lambda label: (min(counts[label][:3]), counts[label][0], label))
    rows = ((label, *(f"{count:,}" for count in counts[label])) for label in fewest)
    return Exhibit(grids=(_grid("Images of each class, the fewest first", ("class", *WORDS.values(), "unread"), rows),))


def _lost(evidence: Evidence) -> Exhibit:
    present = sorted(set(evidence.labelled["label"]))
    rows = ((label, "0", ", ".join(get_close_matches(label, present, n=1))) for label in evidence.lost)
    return Exhibit(grids=(_grid("Lost classes", ("class", "images today", "a class with a similar name"), rows),))


def _alike(evidence: Evidence) -> Exhibit:
    counts = evidence.labelled["label"].value_counts()
    return Exhibit(
        tuple(
            Card(
                " and ".join(f"{label!r} ({counted(int(counts[label]), 'image')})" for label in labels),
                tuple(image for label in labels for image in _sample(evidence, "label", label, SAMPLED // 2)),
            )
            for labels in alike(counts.index)
        )
    )


def _unread(evidence: Evidence) -> Exhibit:
    missed = evidence.rejected[evidence.rejected["kind"].isin(LOST)].sort_values("path")
    rows = zip(missed["path"], missed["kind"], missed["reason"], strict=True)
    drops = tuple(Decision(path, DROP, "", "cannot be read") for path in missed["path"])
    return Exhibit(
        (Card("Where they have to stay", (), (Way("Leave them out:", drops),)),),
        (_grid("Files that cannot be read", ("file", "kind", "reason"), rows),),
        drops,
    )


def _population(evidence: Evidence) -> Exhibit:
    rows = [(WORDS[row.split], f"{row.effect:.2f}", chance(row.adjusted)) for row in evidence.checks.population]
    return Exhibit(grids=(_grid("Distance of each split from the stated shares", ("split", "Cohen's w", "p"), rows),))


def _sources(evidence: Evidence) -> Exhibit:
    alone = [row for row in evidence.checks.sources if row.significant]
    return Exhibit(
        tuple(
            Card(
                f"source {row.source}: {counted(row.images, 'image')}, all labelled {row.only}",
                _sample(evidence, "source", row.source),
            )
            for row in alone
        )
    )


def _coverage(evidence: Evidence) -> Exhibit:
    unlike = [row for row in evidence.checks.coverage if row.significant]
    rows = [
        (f"{row.column} {row.value}", percent(row.training), percent(row.elsewhere), points(row.effect))
        for row in unlike
    ]
    cards = (Card(f"source {row.value}", _sample(evidence, "source", row.value)) for row in unlike)
    return Exhibit(
        tuple(card for card in cards if card.images),
        (_grid("Sources and months", ("value", "share of training", "share elsewhere", "distance"), rows),),
    )


def _shortcuts(evidence: Evidence) -> Exhibit:
    measures = sorted((row for row in evidence.checks.shortcuts if row.significant), key=lambda row: -row.effect)
    rows = [(row.measure, percent(row.balanced_accuracy), percent(row.effect)) for row in measures]
    grid = _grid("What a plain measure alone knows", ("measure", "balanced accuracy", "chance to certainty"), rows)
    labels = sorted(set(evidence.labelled["label"]))
    return Exhibit(tuple(Card(label, _sample(evidence, "label", label)) for label in labels), (grid,))


def _fields(evidence: Evidence) -> Exhibit:
    unequal = [row for row in evidence.checks.preprocessing if not row.agree]
    rows = [(f"validate.preprocessing.{row.field}", str(row.pipeline), str(row.backbone)) for row in unequal]
    return Exhibit(grids=(_grid("Fields that differ", ("field of params.yaml", "now", "the backbone wants"), rows),))


def _observed(evidence: Evidence) -> Exhibit:
    """Show what was done to a sample and what the weights want; with pictures if the order of colours is in doubt."""
    seen = evidence.checks.observed
    if not seen:
        return Exhibit()
    rows = [(row.question, row.account, row.why) for row in seen.wanted]
    swapped = any(row.account == SWAPPED for row in seen.wanted)
    listed = _listed(evidence.images[evidence.images["path"].isin([row.path for row in seen.shown])])
    return Exhibit(
        tuple(Card("As in the file, and with red and blue exchanged", (image,), exchanged=True) for image in listed)
        if swapped
        else (),
        (_grid(f"What was done to the images: {seen.done}", ("question", "what the weights want", "why"), rows),),
    )


def _label_errors(evidence: Evidence) -> Exhibit:
    suspects = evidence.screened.label_errors if evidence.screened else ()
    cards = (
        Card(
            f"labelled {row.label}, looks like {row.suggested}",
            (row,),
            (
                Way(f"If it shows {row.label}:", (Decision(row.path, KEEP, "", ""),)),
                Way(f"If it shows {row.suggested}:", (Decision(row.path, RELABEL, row.suggested, ""),)),
                Way("If it shows neither:", (Decision(row.path, DROP, "", ""),)),
            ),
        )
        for row in suspects
    )
    questions = (Decision(row.path, "", "", f"labelled {row.label}, looks like {row.suggested}") for row in suspects)
    return Exhibit(tuple(cards), decisions=tuple(questions))


def _unlike(evidence: Evidence) -> Exhibit:
    unlike = [row for row in evidence.screened.splits if row.kind] if evidence.screened else []
    rows = [
        (row.split, moved.measure, str(moved.first), str(moved.second))
        for row in unlike
        for moved in row.measures
        if moved.significant
    ]
    cards = (
        Card(f"{split} images", _sample(evidence, "split", split)) for split in (TRAIN, *(row.split for row in unlike))
    )
    grid = _grid("Measures that moved", ("split", "measure", "in training", "in this split"), rows)
    return Exhibit(tuple(cards) if unlike else (), (grid,) if rows else ())


def _grid(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Grid:
    whole = tuple(rows)
    return Grid(title, head, whole[:MOST_ROWS], len(whole))


def _sample(evidence: Evidence, column: str, value: str, most: int = SAMPLED) -> tuple[Listed, ...]:
    """Return a few images with this value, in the order of their digests, so that nobody chooses."""
    return _listed(evidence.labelled[evidence.labelled[column] == value].sort_values("id")[:most])


def _listed(rows: pd.DataFrame) -> tuple[Listed, ...]:
    return tuple(Listed(*row) for row in rows[["id", "path", "split", "label"]].itertuples(index=False, name=None))


Maker = Callable[[Evidence], Exhibit]
MAKERS: dict[str, Maker] = {  # the key of a rule's severity -> what shows it
    "": _classes,
    "minimum": _classes,
    "imbalance": _classes,
    "lost_classes": _lost,
    "alike_labels": _alike,
    "quarantine": _unread,
    "leakage": _copies,
    "conflicting_labels": _copies,
    "population": _population,
    "sources": _sources,
    "coverage": _coverage,
    "shortcuts": _shortcuts,
    "preprocessing": _fields,
    "observed": _observed,
    "wanted": _observed,
    "label_errors": _label_errors,
    "like_images": _like,
    "domain_shift": _unlike,
}
