"""The images that a model learnt from, as a small file of its package: eight bytes of each image's id, sorted."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from steps.images.manifest import TRAIN, VAL, in_use
from steps.runtime.arrays import Bools, Ints
from steps.training.choice import HEAD

if TYPE_CHECKING:
    import pandas as pd

FILE = "learnt_from.ids"
DIGITS = 16  # hexadecimal digits of an id that are kept: among a million images two share them once in 37 million sets
KEY = ">u8"


def learnt_from(table: "pd.DataFrame", kind: str) -> list[str]:
    """Return the ids of the images of a manifest that a model of this kind is fitted on, those of weight 0 left out.

    The head is refitted on train and validation; of the fine-tuned network, validation images only choose the epoch.
    """
    splits = [TRAIN, VAL] if kind == HEAD else [TRAIN]
    return list(in_use(table, *splits)["id"])


def packed(ids: Iterable[str]) -> bytes:
    """Return the content of the file for these ids (SHA-256 in hexadecimal)."""
    return np.unique(_keys(ids)).tobytes()


def among(ids: Iterable[str], content: bytes) -> Bools:
    """Return for each id [n] whether the file lists it."""
    return np.isin(_keys(ids), np.frombuffer(content, KEY))


def _keys(ids: Iterable[str]) -> Ints:
    return np.array([int(identity[:DIGITS], 16) for identity in ids], dtype=KEY)
