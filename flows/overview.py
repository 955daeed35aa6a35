"""What `use` understood of a source: its layout, classes, splits and counts, before anything runs."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows import annotations
from flows.sources import STORE, TABLES, Source, Survey, read_source, survey
from flows.unpacking import ARCHIVES, OTHERS
from steps.errors import DataError, RequestError, UndecodableError
from steps.images import layouts, listing
from steps.images.layouts import CARVED, Listed, Reading
from steps.images.manifest import LISTINGS, TEST, TRAIN, VAL, Rejected
from steps.runtime import params

DIGITS = "digits"
SHOWN = 12  # classes that are listed by name
EXPECTED = "expected one folder of images per class, or a listing of path,label"
HASH = "by a hash of each image"
BESIDE_PICTURES = (".aae", ".xmp", ".mov", ".mp4", ".avi", ".3gp")  # what telephones and cameras put beside them


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


@dataclass(frozen=True)
class Look:
    """Images that can be used: their source, its files, and what was understood of them."""

    source: Source
    seen: Survey
    overview: Overview


def look(root: Path, images: str, packed: bool | None, labels: str | None, follow_links: bool | None) -> Look:
    """Look at images once, without loading torch. RequestError if they cannot be used, whatever the reason."""
    source = source_of(root, images, packed, labels, follow_links)
    try:
        seen = survey(source)
        return Look(source, seen, of_source(root, source, seen))
    except DataError as error:  # nothing has been accepted yet: to `use`, it is the request that does not fit
        raise RequestError(str(error)) from None


def source_of(
    root: Path, images: str, packed: bool | None, labels: str | None, follow_links: bool | None = None
) -> Source:
    """Return the source at a path; RequestError if it is no folder, listing or archive, or lies in the project."""
    path = Path(images).expanduser()
    if not path.exists():
        raise RequestError(f"{path} does not exist")
    if not path.is_dir() and not (path.is_file() and path.name.lower().endswith((*TABLES, *ARCHIVES))):
        raise RequestError(f"{path} is {_other(path)}")
    if path.resolve().is_relative_to(root / "data") or root.is_relative_to(path.resolve()):
        raise RequestError(f"{path} and the project {root} lie inside one another; images belong elsewhere")
    same = _same(root, path.resolve())  # `use` of the same images keeps what was said about them
    labels = labels or (same.labels if same else None)
    follow = follow_links if follow_links is not None else bool(same and same.follow_links)
    return Source(path.resolve(), packed, labels, follow, root / STORE)


def _same(root: Path, path: Path) -> Source | None:
    try:
        current = read_source(root)
    except RequestError:  # gone or damaged: it is about to be replaced
        return None
    return current if current and current.path == path else None


def _other(path: Path) -> str:
    if path.suffix.lower() in OTHERS:
        kind, remedy = OTHERS[path.suffix.lower()]
        return f"{kind}; {remedy}, and `regraft use` the result"
    return (
        f"not a folder; expected a folder of images, or a listing ({', '.join(TABLES)}), or an archive (.zip, .tar ...)"
    )


def of_source(root: Path, source: Source, seen: Survey | None = None) -> Overview:
    """Return what `ingest` will read in the mirror of a source; `seen` is its survey, if there is one already.

    Raises RequestError if no file can be decoded, or if more of a listing's rows than `validate.quarantine_limit` name
    no file; DataError where no honest reading exists.
    """
    seen = seen or survey(source)
    _refuse_without_pictures(source.path, seen.files)
    own = next((name for name in LISTINGS if name in seen.files), None)
    read = layouts.of_listing(listing.read(seen.files[own]), own) if own else _read_folders(source.path, seen)
    if own:
        _refuse_missing(source, seen, len(read.files), params.read(root)["validate"]["quarantine_limit"])
    overview = _counted(read, seen.files, seen.notes)
    if not overview.classes:
        raise RequestError(f"{source.path}: no image has a label, so nothing can be learnt; {EXPECTED}")
    return overview


def _read_folders(path: Path, seen: Survey) -> Reading:
    """Return the reading of folders; a refusal says as well what `seen` has noted, e.g. why metadata is not used.

    RequestError if annotations of objects lie in them and no two folders name a class.
    """
    try:
        read = layouts.read(layouts.grown(seen.files), labels=None)
    except DataError as error:
        annotations.refuse(path, seen.files)
        raise DataError("; ".join([str(error), *seen.notes])) from None
    labels = {item.label for item in read.files if isinstance(item, Listed) and not layouts.is_note(item.path)}
    if sum(not layouts.names_no_class(label) for label in labels) < 2:
        annotations.refuse(path, seen.files)
    return read


def _refuse_without_pictures(path: Path, paths: Mapping[str, Path]) -> None:
    """Refuse a source in which no file can be decoded; `ingest` reports single files."""
    from steps.images.decoding import decode, read_bytes

    first, candidates = "", {name: origin for name, origin in paths.items() if name not in LISTINGS}
    for name, origin in candidates.items():
        try:
            decode(read_bytes(origin))
            return
        except (UndecodableError, OSError) as error:
            first = first or f"; the first, {name}: {getattr(error, 'strerror', None) or error}"
    raise RequestError(
        f"{path} holds no picture that can be used ({len(candidates):,} files looked at{first}); "
        "expected one folder of images per class"
    )


def of_raw(raw: Path) -> Overview:
    """Return what `ingest` reads in a folder of raw images."""
    from steps.images.listing import reading

    read = reading(raw)
    return _counted(read, {item.path for item in read.files}, ())


def _counted(read: Reading, files: Collection[str], notes: tuple[str, ...]) -> Overview:
    """Count what was read; a listed file that is not among `files`, or a text, is no image."""
    named = [item for item in read.files if isinstance(item, Listed)]
    there = [item for item in named if item.path in files]
    images = [
        item for item in there if not layouts.is_note(item.path) and not item.path.lower().endswith(BESIDE_PICTURES)
    ]
    labelled = [item for item in images if item.label]
    over = Counter(f"({item.reason})" for item in read.files if isinstance(item, Rejected))
    over["(no picture by its name)"] = len(there) - len(images)
    over["(in the listing, and not there)"] = len(named) - len(there)
    return Overview(
        read.layout,
        dict(sorted(Counter(item.label for item in labelled).items())),
        dict(Counter(item.split for item in labelled)),
        len(images) - len(labelled),
        dict(+over),
        (*notes, *read.notes),
    )


def _refuse_missing(source: Source, seen: Survey, rows: int, limit: float) -> None:
    from flows.label_tables import lost

    count = len(seen.missing)
    if count > limit * rows:
        where = source.shown(lost(seen.folder, seen.missing))
        raise RequestError(
            f"{source.path}: {count:,} of {rows:,} rows name no file; {where}. Mend the "
            f"paths, or remove the rows; up to {limit:.0%} may be missing (validate.quarantine_limit)"
        )
