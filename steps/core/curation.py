"""What a person decided about single images: keep, relabel or drop. Wrong decisions are listed, all at once.

A decision may outlive its image: one about an image that has gone is told and counted, and nothing else. A name that
looks like a slip of the pen is a fault, for what it means is not done.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import pandas as pd

from steps.core.manifest import UNLABELLED

KEEP, RELABEL, DROP = "keep", "relabel", "drop"
WORDS = (KEEP, RELABEL, DROP)
LEAST_DIGITS = 8  # of an id that was cut off
LETTERS = 3  # of a name, its ending apart, for each of at most two slips that still leave it known


class Decision(NamedTuple):
    """One line of data/decisions.csv; `image` is an id or a path of the manifest, `label` is for relabel alone."""

    image: str
    decision: str
    label: str
    note: str


def faults(decisions: Mapping[int, Decision], images: pd.DataFrame, rejected: Collection[str] = ()) -> Iterator[str]:
    """Yield what is wrong with decisions by their line: a misspelt image, unknown word or label, one image twice.

    `rejected` are the paths in quarantine. A line of empty fields says nothing.
    """
    split_of = {
        name: split for column in ("id", "path") for name, split in zip(images[column], images["split"], strict=True)
    }
    id_of = dict(zip(images["path"], images["id"], strict=True))
    labels = sorted(set(images["label"][images["split"] != UNLABELLED]))
    line_of = {decision.image: line for line, decision in decisions.items()}
    first: dict[str, int] = {}
    for line, (image, word, label, note) in decisions.items():
        if not any((image, word, label, note)):
            continue
        where = f"line {line}: "
        meant = "" if image in split_of or image in rejected else nearest(image, images)
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


def nearest(name: str, images: pd.DataFrame) -> str:
    """Return the image that an unknown name seems to mean; empty where it rather is an image that has gone.

    It means another where folders were added or left out, letters are in another case, an id was cut off, or the name
    of a folder or file is a slip away. Numbers tell nothing: of 1.png, 2.png ... any may have been removed.
    """
    name, paths = name.replace("\\", "/"), images["path"].tolist()
    whole = (path for path in paths if f"/{path}".endswith(f"/{name}") or name.endswith(f"/{path}"))
    other_case = (path for path in paths if path.casefold() == name.casefold())
    longer = (identity for identity in images["id"] if len(name) >= LEAST_DIGITS and identity.startswith(name))
    return next((found for names in (whole, other_case, longer) for found in names), "") or _a_slip_away(name, paths)


def _a_slip_away(name: str, paths: Sequence[str]) -> str:
    folder, _, file = name.rpartition("/")
    files: dict[str, list[str]] = {}
    for path in paths:
        files.setdefault(path.rpartition("/")[0], []).append(path.rpartition("/")[2])
    if folder in files:
        return next((f"{folder}/{near}".removeprefix("/") for near in _near(file, files[folder])), "")
    beside = [f"{near}/{file}" for near in _near(folder, files) if file in files[near]]
    return beside[0] if beside else ""


def _near(name: str, known: Collection[str]) -> list[str]:
    """Return the known names that are a slip away, those with the same numbers first; none where the numbers differ."""
    by_shape: dict[str, list[str]] = {}
    for other in known:
        by_shape.setdefault(_shape(other), []).append(other)
    shape = _shape(name)
    slips = min(2, len(shape.partition(".")[0]) // LETTERS)
    cutoff = 1 - (slips + 0.01) / len(shape) if slips else 1
    close = [] if shape in by_shape else get_close_matches(shape, by_shape, n=1, cutoff=cutoff)
    found = [other for shape in close for other in by_shape[shape]]
    return sorted(found, key=lambda other: _numbers(other) != _numbers(name))


def _shape(name: str) -> str:
    return re.sub("[0-9]+", "#", name)


def _numbers(name: str) -> list[str]:
    return re.findall("[0-9]+", name)


def absent(decisions: Sequence[Decision], images: pd.DataFrame, rejected: Collection[str]) -> list[str]:
    """Return the images that decisions name and that are not there (any more), in the order of the decisions.

    A file in `rejected` is there for those that drop it.
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
    """Say of each image whether a decision of this kind names it, by id or by path."""
    names = {d.image for d in decisions if d.decision == word}
    return images["id"].isin(names) | images["path"].isin(names)


def counted(decisions: Sequence[Decision]) -> Mapping[str, int]:
    """Count the decisions by their word."""
    return {word: sum(d.decision == word for d in decisions) for word in WORDS}
