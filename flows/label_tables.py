"""Tables of labels as people have them, translated into the listing that `ingest` reads.

Separators, encodings and headers vary, and so do the spellings of a path: what a table means is decided against the
files that exist.
"""

import codecs
import io
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath

import pandas as pd

from steps.errors import DataError
from steps.images import layouts, listing
from steps.images.layouts import split_named
from steps.images.manifest import TRAIN, normal
from steps.runtime import files

DELIMITERS = (",", ";", "\t", "|")
SUFFIXES = (".jpg", ".jpeg", ".png")
COLUMNS = {
    "path": ("path", "filename", "file", "file_name", "file_path", "filepath", "image", "image_path", "image_name"),
    "label": ("label", "class", "target", "category", "class_name", "label_name"),
    "split": ("split", "subset", "partition", "set"),
    "group": ("group",),
    "source": ("source",),
    "weight": ("weight",),
}
IDENTITY = ("id", "image_id", "id_code")  # names the picture where no column says that it does, as on Kaggle


Spelled = dict[str, list[str]]  # paths by their spelling without case


@dataclass(frozen=True)
class Table:
    """Rows of path (POSIX, relative to `folder`), label and further columns of a listing.

    `missing` are the paths that name no file; `notes` say what was translated, and are empty for a table that `ingest`
    reads as it is.
    """

    rows: pd.DataFrame
    folder: Path
    notes: tuple[str, ...]
    missing: tuple[str, ...]


def read(path: Path) -> Table:
    """Read a listing. Raises DataError if it is none, or if a path leads outside or has two labels."""
    notes: list[str] = []
    try:
        rows = listing.read(path)
    except DataError:
        rows, notes = _parsed(path)
    if rows.empty:
        raise DataError(f"{path.name} has a header and no rows; expected one row per image")
    present = _base(path, rows["path"].tolist())
    notes += [] if present.folder == path.parent else [f"the paths are relative to {present.folder}"]
    return _located(rows, present, path.name, notes)


def metadata(folder: Path, names: Iterable[str], pictures: Sequence[str]) -> Table:
    """Read these metadata files of Hugging Face's image folders (`file_name,label`).

    A path is relative to the metadata file, and the top folder may be a split. Raises DataError if none of the files
    holds labels, or if they do not name each of the `pictures`.
    """
    tables = [rows for name in names for rows in _described(folder, name)]
    if not tables:
        raise DataError("none has a column for the path and one for the label")
    rows = pd.concat(tables, ignore_index=True).fillna("")
    if "split" not in rows.columns:
        rows["split"] = [split_named(path.split("/")[0]) if "/" in path else "" for path in rows["path"]]
    table = _located(rows, Present(folder), "metadata", ["labels are read from the metadata files"])
    left = sorted({*pictures} - {*table.rows["path"]})
    if left:
        raise DataError(f"they do not name {len(left):,} of {len(pictures):,} pictures, such as {left[0]}")
    return replace(table, notes=(*table.notes, *_contradicted(table.rows, pictures)))


def _described(folder: Path, name: str) -> Iterator[pd.DataFrame]:
    """Yield the rows of a metadata file with paths relative to `folder`, unless it is about something else."""
    with suppress(DataError):
        rows, above = _columns(_frame(folder / name)[0], name), PurePosixPath(name).parent
        if {"path", "label"} <= set(rows.columns):
            yield rows.assign(path=[(above / path).as_posix() for path in rows["path"]])


def _contradicted(rows: pd.DataFrame, pictures: Iterable[str]) -> Iterator[str]:
    """Yield a note if several class folders give other labels than these rows do."""
    with suppress(DataError):  # there are no class folders
        files_in_folders = layouts.read(layouts.grown(pictures), None).files
        named = {item.path: item.label for item in files_in_folders if isinstance(item, layouts.Listed) and item.label}
        labels = dict(zip(rows["path"], map(normal, rows["label"]), strict=True))
        other = [path for path, label in named.items() if labels[path] != label]
        if other and len({*named.values()}) > 1:
            example = f"{other[0]}: {labels[other[0]]!r}, not {named[other[0]]!r}"
            yield f"the labels of {len(other):,} pictures differ from their class folders ({example})"


def of_reading(reading: layouts.Reading, folder: Path) -> Table:
    """Return a reading of folders as a table; a split of `CARVED` images follows from its name again."""
    rows = [
        (item.path, item.label, TRAIN if item.split == layouts.CARVED else item.split)
        for item in reading.files
        if isinstance(item, layouts.Listed)
    ]
    frame = pd.DataFrame(rows, columns=["path", "label", "split"])
    return Table(frame, folder, (f"the labels are those of {reading.layout}, as --labels says",), ())


def lost(folder: Path, missing: Sequence[str]) -> str:
    """Return where missing files were looked for, and what is there instead."""
    like = Present(folder).like(missing[0])
    return f"looked in {folder} for {', '.join(missing[:3])}{f'; {like} is there' if like else ''}"


def write(table: Table, path: Path) -> Path:
    """Write a table as the listing that `ingest` reads, unless it is there already; return its path."""
    text = table.rows.to_csv(index=False, lineterminator="\n")
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)
    return path


# What the file says


def _parsed(path: Path) -> tuple[pd.DataFrame, list[str]]:
    frame, notes = _frame(path)
    rows = _columns(frame, path.name)
    missing = {"path", "label"} - set(rows.columns)
    if missing:
        first, second, *_ = [str(name) for name in frame.columns] + ["", ""]
        if not second or not any((folder / first).is_file() for folder in (path.parent, path.parent.parent)):
            raise DataError(
                f"{path.name} lacks the column(s) {', '.join(sorted(missing))}; it has {[*map(str, frame.columns)]}; "
                "name the column with the file path, and that with the class label"
            )
        rows = _headless(path)
        notes.append("the table has no header")
    if not set(rows.columns) <= set(map(str, frame.columns)):
        notes.append(f"the columns {', '.join(map(str, frame.columns))} are read as {', '.join(rows.columns)}")
    if "split" in rows.columns:
        given = rows["split"].unique()
        rows["split"] = [split_named(value) or value for value in rows["split"]]
        notes += [f"the splits {', '.join(given)} are read as {', '.join(rows['split'].unique())}"]
    return rows, notes


def _frame(path: Path, header: int | None = 0) -> tuple[pd.DataFrame, list[str]]:
    """Return a file's columns as text, with a note on its encoding and its delimiter where they are not the usual.

    `header`: the line of a text that names the columns; None: no line does.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(path, dtype_backend="numpy_nullable").astype(object)
            return table.where(table.notna(), "").map(str), []
        text, encoding = _decoded(path)
        notes = [] if encoding == "utf-8-sig" else [f"the table's encoding is read as {encoding}"]
        if suffix == ".jsonl":
            table = pd.DataFrame(_records(text), dtype=object)
            return table.where(table.notna(), "").map(str), notes
        if text.startswith("sep="):
            text = text.split("\n", 1)[-1]
            notes.append("Excel's line sep= is left out")
        first = text.split("\n", 1)[0]
        delimiter = max(DELIMITERS, key=first.count) if any(map(first.count, DELIMITERS)) else " "
        notes += [] if delimiter == "," else [f"the table's columns are separated by {delimiter!r}"]
        return pd.read_csv(io.StringIO(text), sep=delimiter, header=header, dtype=str, keep_default_na=False), notes
    except (ValueError, OSError, TypeError, AttributeError) as error:  # the parsers' own errors are ValueErrors
        raise DataError(f"{path.name} cannot be read: {listing.in_words(error)}") from None


def _records(text: str) -> list[dict[str, object]]:
    """Return the objects of JSON lines; ValueError for a line that is none."""
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            record = None
            with suppress(ValueError):
                record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f'line {number} is no JSON object such as {{"path": "cats/1.jpg", "label": "cat"}}')
            records.append(record)
    return records


def _decoded(path: Path) -> tuple[str, str]:
    """Return a text and its encoding; cp1252 comes last, because it takes nearly anything."""
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        with suppress(UnicodeError):
            text = data.decode(encoding)
            if "\0" not in text:
                return text, encoding
    raise ValueError("it is no text in UTF-8, cp1252, or UTF-16 with a byte-order mark")


def _headless(path: Path) -> pd.DataFrame:
    rows, _ = _frame(path, header=None)  # as a header, a cell that is empty or repeated would get another name
    names = ("path", "label", "split")[: len(rows.columns)]
    return rows.iloc[:, : len(names)].set_axis(list(names), axis=1)


def _columns(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the columns of a listing, whatever they are called."""
    spelled = {str(column): str(column).strip().casefold().replace(" ", "_") for column in frame.columns}
    chosen = {meaning: _chosen(meaning, spelled, name) for meaning in COLUMNS}
    known = {column: meaning for meaning, column in chosen.items() if column}
    return frame[list(known)].rename(columns=known)


def _chosen(meaning: str, spelled: Mapping[str, str], name: str) -> str | None:
    candidates = [column for column, word in spelled.items() if word in COLUMNS[meaning]]
    if meaning == "path" and not candidates:
        candidates = [column for column, word in spelled.items() if word in IDENTITY]
    exact = [column for column in candidates if spelled[column] == meaning]
    if len(exact or candidates) > 1:
        raise DataError(f"{name}: which column is the {meaning}, {' or '.join(candidates)}? rename it to {meaning}")
    return next(iter(exact or candidates), None)


# What its paths mean


class Present:
    """The files below a folder; other spellings are collected only in those of its folders that a path begins with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._exact: dict[str, bool] = {}
        self._below: dict[str, Spelled] = {}

    def exactly(self, name: str) -> bool:
        """Return True if a relative path names a file."""
        if name not in self._exact:
            pure = PurePosixPath(name)
            self._exact[name] = not pure.is_absolute() and ".." not in pure.parts and (self.folder / pure).is_file()
        return self._exact[name]

    def loosely(self, name: str) -> str:
        """Return the only file whose path differs at most in case, Unicode form or a missing suffix; "" if none."""
        folded = _folded(name)
        top = folded.split("/")[0] if "/" in folded else ""
        if top not in self._below:
            self._below[top] = self._collect(top)
        spelled = self._below[top]
        same = spelled.get(folded) or [path for suffix in SUFFIXES for path in spelled.get(folded + suffix, [])]
        return same[0] if len(same) == 1 else ""

    def like(self, name: str) -> str:
        """Return a picture of the same name in another folder, else any, "" if there is none among the first files."""
        below = sorted(path.relative_to(self.folder).as_posix() for path in islice(self.folder.rglob("*.*"), 10_000))
        every = [path for path in below if not layouts.is_note(path) and files.speakable(path)]
        wanted = _folded(PurePosixPath(name).name)
        return next((path for path in every if _folded(path.split("/")[-1]) == wanted), next(iter(every), ""))

    @cached_property
    def _children(self) -> list[Path]:
        return sorted(child for child in self.folder.iterdir() if files.speakable(child.name))

    @cached_property
    def _folders(self) -> dict[str, list[Path]]:
        folders: dict[str, list[Path]] = {}
        for child in self._children:
            if child.is_dir():
                folders.setdefault(_folded(child.name), []).append(child)
        return folders

    def _collect(self, top: str) -> Spelled:
        """Index the files below folders of this name or, if it is empty, those in no folder."""
        folders = self._folders.get(top, [])
        below = [path for folder in folders for path in sorted(folder.rglob("*"))] if top else self._children
        spelled: Spelled = {}
        for path in below:
            name = path.relative_to(self.folder).as_posix()
            if files.speakable(name) and path.is_file():
                spelled.setdefault(_folded(name), []).append(name)
        return spelled


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _base(path: Path, names: Sequence[str]) -> Present:
    """Return the files that paths name: in the folder of the listing, else in the one above, else in one below."""
    own, above = Present(path.parent), Present(path.parent.parent)
    slashed = [_slashed(name, own) for name in names]
    if any(own.exactly(name) for name in slashed) or _dropped(slashed, own):
        return own
    hidden = any(part.startswith(".") for name in slashed for part in PurePosixPath(name).parts)
    fits = not hidden and any(above.exactly(name) or above.loosely(name) for name in slashed)
    return above if fits else own if hidden else _below(own, slashed)


def _below(own: Present, names: Sequence[str]) -> Present:
    """Return the only folder beside a listing that holds its bare names, as on Kaggle; else that of the listing."""
    if any("/" in name or own.loosely(name) for name in names):
        return own
    folders = [Present(path) for path in sorted(own.folder.iterdir()) if path.is_dir() and files.speakable(path.name)]
    holding = [below for below in folders if any(below.exactly(name) or below.loosely(name) for name in names)]
    return holding[0] if len(holding) == 1 else own


def _slashed(name: str, present: Present) -> str:
    """Return a path with POSIX separators; what leads out of the folder and back in is resolved."""
    if not name or "\0" in name or present.exactly(name):
        return name
    slashed = PurePosixPath(name.replace("\\", "/")).as_posix()
    if ".." in slashed.split("/") or slashed.startswith("/"):
        inside = os.path.relpath(present.folder / slashed, present.folder)
        return slashed if inside.startswith("..") else inside
    return slashed


def _dropped(slashed: Sequence[str], present: Present) -> str:
    """Return the leading part that paths have more than the folder, as in `C:/data/cats/1.png`; "" if there is none.

    All paths share it, and none names a file with it: dropping what fits best from each would find the wrong file.
    """
    folders = [name.split("/")[:-1] for name in slashed]
    shared = sum(1 for _ in takewhile(lambda level: len({*level}) == 1, zip(*folders, strict=False)))
    if not shared or any(".." in name.split("/") or present.exactly(name) for name in slashed):
        return ""
    for fits in (present.exactly, present.loosely):
        for parts in (name.split("/") for name in slashed if not present.loosely(name)):
            count = next((n for n in range(1, shared + 1) if fits("/".join(parts[n:]))), 0)
            if count:
                return "/".join(parts[:count]) + "/"
    return ""


def _located(rows: pd.DataFrame, present: Present, name: str, notes: Sequence[str]) -> Table:
    """Find the file of each row. Raises DataError for a path that leads outside, or has two labels."""
    given = rows["path"].tolist()
    slashed = [_slashed(path, present) for path in given]
    said = [*notes]
    other = next(
        (pair for pair in zip(given, slashed, strict=True) if PurePosixPath(pair[0]).as_posix() != pair[1]), ()
    )
    if other:
        said.append(f"paths are read with other separators: {other[0]} is {other[1]}")
    dropped = _dropped(slashed, present)
    if dropped:
        said.append(f"{dropped} at the start of the paths is left out")
    short = [path.removeprefix(dropped) for path in slashed]
    paths = [path if not path or present.exactly(path) else present.loosely(path) or path for path in short]
    different = next((pair for pair in zip(short, paths, strict=True) if pair[0] != pair[1]), None)
    if different:
        said.append(f"paths that differ in case, Unicode form or suffix are the same: {different[0]} is {different[1]}")
    located = _unambiguous(listing.checked(rows.assign(path=paths), present.folder, name), name)
    missing = dict.fromkeys(path for path in located["path"] if not present.exactly(path))
    return Table(located, present.folder, tuple(said), tuple(missing))


def _unambiguous(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows; raises DataError if a path has two labels."""
    pairs = rows[["path", "label"]].drop_duplicates()
    twice = pairs[pairs["path"].duplicated(keep=False)].sort_values("path", kind="stable")
    if len(twice):
        first, second = twice["label"].iloc[:2]
        raise DataError(
            f"{name}: {twice['path'].iloc[0]} has two labels, {first!r} and {second!r}; keep one "
            f"({twice['path'].nunique()} such files)"
        )
    return rows
