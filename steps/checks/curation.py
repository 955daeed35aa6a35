"""People's decisions about single images: keep, relabel or drop. Wrong decisions are listed, all at once.

A decision may outlive its image: one about a missing image is reported and counted, nothing more. A name that looks
misspelt is a fault, because the decision that was meant is not carried out.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import pandas as pd

from steps.checks.reports import Obeyed
from steps.images.manifest import UNLABELLED

KEEP, RELABEL, DROP = "keep", "relabel", "drop"
WORDS = (KEEP, RELABEL, DROP)
LEAST_DIGITS = 8  # of a truncated id
LETTERS = 3  # of a name without its suffix, for each of at most two slips that are tolerated


class Decision(NamedTuple):
    """One line of data/decisions.csv; `image` is an id or a path of the manifest, `label` is only for relabel."""

    image: str
    decision: str
    label: str
    note: str


def faults(decisions: Mapping[int, Decision], images: pd.DataFrame, rejected: Collection[str] = ()) -> Iterator[str]:
    """Yield the faults in decisions by line: a misspelt image, an unknown word or label, an image named twice.

    `rejected` are the paths in quarantine. A line of empty fields is ignored.
    """
    split_of = {
        name: split for column in ("id", "path") for name, split in zip(images[column], images["split"], strict=True)
    }
    id_of = dict(zip(images["path"], images["id"], strict=True))
    labels = sorted(set(images["label"][images["split"] != UNLABELLED]))
    line_of = {decision.image: line for line, decision in decisions.items()}
    first: dict[str, int] = {}
    known = Known(images)
    for line, (image, word, label, note) in decisions.items():
        if not any((image, word, label, note)):
            continue
        where = f"line {line}: "
        meant = "" if image in split_of or image in rejected else known.nearest(image)
        if not image:
            yield f"{where}no image is named; write its path or id"
        elif meant:
            yield f"{where}there is no image {image!r}; did you mean {meant!r}? If the file has gone, delete the line"
        elif image in first:
            yield f"{where}{image!r} was decided in line {first[image]} already"
        elif id_of.get(image) in line_of:
            identity = id_of[image]
            yield f"{where}{image!r} is decided in line {line_of[identity]}, too, by its id {identity[:12]}"
        first.setdefault(image, line)
        if word not in WORDS:
            yield f"{where}{word!r} is no decision; one of {', '.join(WORDS)}"
        elif word != RELABEL and label:
            yield f"{where}{word} takes no label, but {label!r} stands there"
        elif word == RELABEL and image in split_of and label not in labels:
            yield f"{where}{label!r} is no label of this data; one of {', '.join(labels)}"
        elif word == RELABEL and split_of.get(image) == UNLABELLED:
            yield f"{where}{image!r} is unlabelled; put it into its class's folder instead"


class Shapes(NamedTuple):
    """Names by their shape, and the shapes without the marks of numbers."""

    names: dict[str, list[str]]
    bare: set[str]


class Known:
    """The existing images, indexed by what a misspelt name may share with them; built once for all lines."""

    def __init__(self, images: pd.DataFrame) -> None:
        self.ids = sorted(images["id"])
        self.by_case: dict[str, str] = {}
        self.by_file: dict[str, list[str]] = {}
        self.files: dict[str, list[str]] = {}
        for path in images["path"]:
            folder, _, file = path.rpartition("/")
            self.by_case.setdefault(path.casefold(), path)
            self.by_file.setdefault(file, []).append(path)
            self.files.setdefault(folder, []).append(file)
        self.folders, self.shapes = _by_shape(self.files), dict[str, Shapes]()

    def nearest(self, name: str) -> str:
        """Return the image that an unknown name seems to mean; empty if the name is rather that of a removed image.

        A name means another image if folders were added or left out, letters differ in case, an id was truncated, or
        a folder or file name is a slip away. Numbers are no hint: any of a.png, a_1.png ... may have been removed.
        """
        name = name.replace("\\", "/")
        return self._whole(name) or self.by_case.get(name.casefold(), "") or self._longer(name) or self._a_slip(name)

    def _whole(self, name: str) -> str:
        paths = self.by_file.get(name.rpartition("/")[2], [])
        return next((p for p in paths if f"/{p}".endswith(f"/{name}") or name.endswith(f"/{p}")), "")

    def _longer(self, name: str) -> str:
        index = bisect_left(self.ids, name)
        found = len(name) >= LEAST_DIGITS and index < len(self.ids) and self.ids[index].startswith(name)
        return self.ids[index] if found else ""

    def _a_slip(self, name: str) -> str:
        folder, _, file = name.rpartition("/")
        if folder in self.files:
            shapes = self.shapes.get(folder) or self.shapes.setdefault(folder, _by_shape(self.files[folder]))
            return next((f"{folder}/{near}".removeprefix("/") for near in _near(file, shapes)), "")
        beside = [f"{near}/{file}" for near in _near(folder, self.folders) if file in self.files[near]]
        return beside[0] if beside else ""


def _by_shape(names: Collection[str]) -> Shapes:
    by_shape: dict[str, list[str]] = {}
    for name in names:
        by_shape.setdefault(_shape(name), []).append(name)
    return Shapes(by_shape, {shape.replace("#", "") for shape in by_shape})


def _near(name: str, known: Shapes) -> list[str]:
    """Return the known names that are a slip away, same numbers first; none if only numbers differ."""
    shape, by_shape = _shape(name), known.names
    slips = min(2, len(shape.partition(".")[0]) // LETTERS)
    cutoff = 1 - (slips + 0.01) / len(shape) if slips else 1
    close = [] if shape.replace("#", "") in known.bare else get_close_matches(shape, by_shape, n=1, cutoff=cutoff)
    candidates = [candidate for shape in close for candidate in by_shape[shape]]
    return sorted(candidates, key=lambda candidate: _numbers(candidate) != _numbers(name))


def _shape(name: str) -> str:
    """Replace each number of a name, and what separates it, by #: photo_1.jpg and photo (2).jpg become photo#.jpg."""
    return re.sub(r"[ _-]*[(]?[0-9]+[)]?", "#", name)


def _numbers(name: str) -> list[str]:
    return re.findall("[0-9]+", name)


def absent(decisions: Sequence[Decision], images: pd.DataFrame, rejected: Collection[str]) -> list[str]:
    """Return the images that decisions name and that do not exist (any more), in the order of the decisions.

    A file in `rejected` exists for decisions that drop it.
    """
    known = {*images["id"], *images["path"]}
    return [d.image for d in decisions if d.image not in known and not (d.decision == DROP and d.image in rejected)]


def obeyed(images: pd.DataFrame, decisions: Sequence[Decision]) -> pd.DataFrame:
    """Return the images without the dropped ones and with the new labels; no image changes its split."""
    new = {d.image: d.label for d in decisions if d.decision == RELABEL}
    gone = named(images, decisions, DROP)
    label = [
        new.get(identity, new.get(path, old))
        for identity, path, old in zip(images["id"], images["path"], images["label"], strict=True)
    ]
    return images.assign(label=label)[~gone].reset_index(drop=True)


def named(images: pd.DataFrame, decisions: Sequence[Decision], word: str) -> "pd.Series[bool]":
    """Return for each image whether a decision of this kind names it, by id or by path."""
    names = {d.image for d in decisions if d.decision == word}
    return images["id"].isin(names) | images["path"].isin(names)


def counted(decisions: Sequence[Decision], gone: Sequence[str]) -> Obeyed:
    """Count the decisions by their word; `gone` are the named images that do not exist."""
    words = [decision.decision for decision in decisions]
    return Obeyed(words.count(KEEP), words.count(RELABEL), words.count(DROP), tuple(gone))
