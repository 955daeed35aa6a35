"""The same labels for both sides: a fair comparison with baselines that learned from the training split alone.

The served head was refitted on train + validation, and `baselines.most_images` may limit its rivals to a part of the
training images. So the head fitted on train alone, or refitted on that part, stands in for the frozen head here.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from steps.backbones import models
from steps.backbones.heads import State
from steps.images.manifest import TEST, TRAIN, VAL
from steps.runtime import files
from steps.runtime.arrays import Floats
from steps.runtime.feature_file import read_features
from steps.runtime.seeding import derive
from steps.training.choice import FINE_TUNED, HEAD
from steps.training.head_training import fit_head, probabilities
from steps.training.histories import BaselinesHistory, HeadHistory
from steps.training.linear_probe import Labelled
from steps.training.rivals import bounded


@dataclass(frozen=True)
class Learnt:
    """A model's scores [n, classes] of the test images, sorted by path, and how many labels it learned from."""

    model: str
    answers: Floats
    labels: int
    labels_of: int

    @property
    def words(self) -> str:
        """Return how many labels both sides learned from, in words."""
        if self.labels == self.labels_of:
            return f"both from {self.labels:,} labels"
        return f"both from {self.labels:,} of the {self.labels_of:,} labels (baselines.most_images)"


@dataclass(frozen=True)
class Cached:
    """The labelled images with their cached features at the head's cut, and the folder of the head."""

    table: pd.DataFrame
    classes: list[str]
    features: Path
    head: Path

    def part(self, table: pd.DataFrame, split: str) -> Labelled:
        """Return one split of `table`, sorted by path."""
        part = table[table["split"] == split].sort_values("path")
        return Labelled(
            read_features(self.features, models.cut_of(self.head)).of(part["id"]),
            np.searchsorted(self.classes, part["label"].tolist()),
            part["weight"].to_numpy(np.float64),
        )

    def refit(self, history: HeadHistory, most: int, seed: int) -> State:
        """Fit the head as `train_head` did, with the strength that it chose, on the images the baselines learned from.

        If they had all of them, this is the head that `train_head` fitted on train alone.
        """
        table = bounded(self.table, most)
        if len(table) == len(self.table):
            return models.under("train_only.", files.read_tensors(self.head / models.WEIGHTS))
        train, val = (self.part(table, split) for split in (TRAIN, VAL))
        rng = derive(seed, "train_head") % 2**32
        return fit_head(history.kind, train, val, len(self.classes), [history.chosen_c], rng).train_only


def stand_in(chosen: str, cached: Cached, history: HeadHistory, rivals: BaselinesHistory, seed: int) -> State | None:
    """Return the head that stands in for the chosen model; None if the fine-tuned network, of train alone, is compared.

    If the baselines learned from a part of the training images, the frozen head stands in for both: fine-tuning again
    would cost what the part was to save.
    """
    if chosen == FINE_TUNED and rivals.train == rivals.train_of:
        return None
    return cached.refit(history, rivals.most_images, seed)


def same_labels(head: State | None, tuned: Floats, cached: Cached, rivals: BaselinesHistory) -> Learnt:
    """Return the answers of the stand-in or, if there is none, those of the fine-tuned network, `tuned`."""
    if head is None:
        return Learnt(FINE_TUNED, tuned, rivals.train, rivals.train_of)
    answers = probabilities(head, cached.part(cached.table, TEST))
    return Learnt(HEAD, answers, rivals.train, rivals.train_of)
