"""Rivals that transfer has to beat: the most frequent class, a linear model on small pixels, the network from scratch.

They are fitted like the head (class-weighted, chosen on validation), on the training split alone: the model that they
are compared with has the same labels, so that a difference is due to the features and not to the care.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from steps.images.manifest import TRAIN, uniform
from steps.runtime.arrays import Floats, Ints
from steps.training.fine_tuning import OFF, Recipe, from_scratch
from steps.training.transferability import first_share

WEIGHT_DECAY = 1e-2


def class_shares(targets: Ints, weights: Floats, classes: int) -> Floats:
    """Return each class's share of the weighted images, [classes]: all that is known without looking at a picture."""
    counts = np.bincount(targets, weights, minlength=classes)
    return np.asarray(counts / counts.sum())


def small_pixels(images: torch.Tensor, side: int) -> Floats:
    """Shrink preprocessed images [n, 3, h, w] by averaging to float32 rows [n, 3 * side * side]."""
    return F.adaptive_avg_pool2d(images.contiguous(), side).flatten(1).numpy()


def bounded(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the table with at most about `most` training images, the same share of each class, picked by their hash.

    Other splits are unchanged: what learns from fewer images is still tested on all test images.
    """
    training = (table["split"] == TRAIN).to_numpy()
    if training.sum() <= most:
        return table
    train = table[training]
    order = np.argsort(train["id"].map(uniform).to_numpy(), kind="stable")
    kept = first_share(np.unique(train["label"], return_inverse=True)[1], order, most / len(train))
    return pd.concat([table[~training], train.iloc[np.sort(kept)]])


@dataclass(frozen=True)
class Duration:
    """Epochs at most, and epochs without a lower validation loss before training stops."""

    epochs: int
    patience: int


def lengthened(
    usual: Duration, epoch_steps: int, epoch_flops: float, least_steps: int, budget_flops: float
) -> Duration:
    """Return a duration of at least `least_steps` steps, as far as the budget allows; never less than the usual one.

    A network learns by steps: 20 epochs of 50 images in batches of 32 are 40 of them, too few for random weights.
    Patience grows in proportion.
    """
    wanted, affordable = math.ceil(least_steps / epoch_steps), int(budget_flops / epoch_flops)
    epochs = max(usual.epochs, min(wanted, affordable))
    return Duration(epochs, math.ceil(usual.patience * epochs / usual.epochs))


def schedule(rate: float, epochs: int, patience: int) -> Recipe:
    """Return the recipe for random weights: every part of the network at the same rate, after a short warm-up."""
    return from_scratch(
        Recipe(
            **vars(OFF) | {"weight_decay": WEIGHT_DECAY},
            optimiser="adamw",
            decay="cosine",
            epochs=epochs,
            patience=patience,
            head_rate=rate,
            backbone_rate=rate,
        )
    )
