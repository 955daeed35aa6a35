"""What `use` understood of a source: its layout, classes, splits and counts, before anything runs."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.sources import Source, Survey
from steps.errors import RequestError
from steps.images import layouts, listing
from steps.images.layouts import CARVED, Listed, Reading
from steps.images.manifest import LISTINGS, TEST, TRAIN, VAL, Rejected

SHOWN = 12  # classes that are listed by name
HASH = "by a hash of each image"


@dataclass(frozen=True)
class Overview:
    """A reading in numbers: images per class and per split; files that are passed over, by reason."""

    layout: str
    classes: Mapping[str, int]
    splits: Mapping[str, int]  # "": a hash of each image decides; CARVED: training, with validation set aside so
    unlabelled: int
    passed_over: Mapping[str, int]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return text for a person."""
        waiting = [f"          unlabelled images: {self.unlabelled:,}"] if self.unlabelled else []
        over = [
            f"          passed over: {count:,} file{'s' * (count > 1)} {reason}"
            for reason, count in self.passed_over.items()
        ]
        return [
            f"layout    {self.layout}",
            f"classes   {self._classes()}",
            f"splits    {self._splits()}",
            *waiting,
            *over,
            *(f"note      {note}" for note in self.notes),
        ]

    def _classes(self) -> str:
        named = [f"{label} {count:,}" for label, count in [*self.classes.items()][:SHOWN]]
        more = len(self.classes) - SHOWN
        return f"{len(self.classes):,}: {', '.join([*named, *([f'and {more:,} more'] if more > 0 else [])])}"

    def _splits(self) -> str:
        words = {TRAIN: "train", CARVED: f"train (with val set aside {HASH})", VAL: "val", TEST: "test"}
        known = [f"{words[split]} {self.splits[split]:,}" for split in words if self.splits.get(split)]
        free = self.splits.get("", 0)
        return ", ".join([*known, *([f"train, val and test {HASH}: {free:,} in all"] if free else [])])


def of_source(source: Source, survey: Survey, limit: float) -> Overview:
    """Return what `ingest` will read in the mirror of these files.

    Raises DataError where no reading exists, RequestError if more than a share `limit` of a listing's rows name no
    file.
    """
    own = next((name for name in LISTINGS if name in survey.files), None)
    if own is None:
        return _counted(layouts.read(layouts.grown(survey.files), labels=None), survey.files, survey.notes)
    read = layouts.of_listing(listing.read(survey.files[own]), own)
    _refuse_missing(source, survey, len(read.files), limit)
    return _counted(read, survey.files, survey.notes)


def of_raw(raw: Path) -> Overview:
    """Return what `ingest` reads in a folder of raw images."""
    from steps.ingest import reading

    read = reading(raw)
    return _counted(read, {item.path for item in read.files}, ())


def _counted(read: Reading, files: Collection[str], notes: tuple[str, ...]) -> Overview:
    """Count what was read; a listed file that is not among `files` is no image."""
    listed = [item for item in read.files if isinstance(item, Listed) and item.path in files]
    labelled = [item for item in listed if item.label]
    rejected = [item for item in read.files if isinstance(item, Rejected)]
    missing = len(read.files) - len(rejected) - len(listed)
    over = {f"({reason})": count for reason, count in Counter(item.reason for item in rejected).items()}
    return Overview(
        read.layout,
        dict(sorted(Counter(item.label for item in labelled).items())),
        dict(Counter(item.split for item in labelled)),
        len(listed) - len(labelled),
        over | ({"(in the listing, and not there)": missing} if missing else {}),
        (*notes, *read.notes),
    )


def _refuse_missing(source: Source, survey: Survey, rows: int, limit: float) -> None:
    from flows.label_tables import lost

    count = len(survey.missing)
    if count > limit * rows:
        raise RequestError(
            f"{source.path}: {count:,} of {rows:,} rows name no file; {lost(survey.folder, survey.missing)}. Mend the "
            f"paths, or remove the rows; up to {limit:.0%} may be missing (validate.quarantine_limit)"
        )
