"""What a person decided about single images: keep, relabel or drop. Wrong decisions are listed, all at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from steps.core.manifest import UNLABELLED

KEEP, RELABEL, DROP = "keep", "relabel", "drop"
WORDS = (KEEP, RELABEL, DROP)


class Decision(NamedTuple):
    """One line of data/decisions.csv; `image` is an id or a path of the manifest, `label` is for relabel alone."""

    image: str
    decision: str
    label: str
    note: str


def faults(decisions: Mapping[int, Decision], images: pd.DataFrame) -> Iterator[str]:
    """Yield what is wrong with decisions by their line: unknown image, word or label, one image twice.

    A line of empty fields says nothing.
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
        if image not in split_of:
            yield f"{where}{image!r} is no id and no path of the manifest"
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
        elif word == RELABEL and label not in labels:
            yield f"{where}{label!r} is no label of this data; one of {', '.join(labels)}"
        elif word == RELABEL and split_of.get(image) == UNLABELLED:
            yield f"{where}{image!r} is unlabelled; put it into its class's folder instead"


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
