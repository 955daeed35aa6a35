"""Splits that regraft makes: units of images in the order of their hashes, and a minimum of each class per split.

A unit is an image, a group, or what belongs together as copies: all of it goes to one split.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from annotated_types import Ge, Interval

from steps.images.manifest import TEST, TRAIN, VAL, uniform

CERTAINTY = 0.999

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Minima:
    """Images that each class needs to learn, choose and judge by; splits of ours hold them if the class has them."""

    min_train_per_class: Annotated[int, Ge(1)]
    min_val_per_class: Annotated[int, Ge(1)]
    min_test_per_class: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Shares of the labelled images that are set aside: validation of what is not test, test of all."""

    validation_share: Annotated[float, Interval(ge=0.01, le=0.8)]
    test_share: Annotated[float, Interval(ge=0.01, le=0.8)]


class Unit(NamedTuple):
    """Images that share a split: their position from 0 to 1, and how many each class has among them."""

    position: float
    images: Counter[str]


def units_of(images: "pd.DataFrame", member: "npt.NDArray[np.int32]") -> list[Unit]:
    """Return the units of `images` (key, label, weight); `member` [n] is the unit of each row, from 0.

    A key is hashed to a position; a unit has the highest of its keys, so one more copy moves it only towards training.
    Images of weight 0 do not count.
    """
    units = [Unit(0.0, Counter()) for _ in range(int(member.max()) + 1)]
    for index, key, label, weight in zip(member, images["key"], images["label"], images["weight"], strict=True):
        position, of_class = units[index]
        of_class.update([label] if weight > 0 else [])
        units[index] = Unit(max(position, uniform(key)), of_class)
    return units


def assign_splits(units: Sequence[Unit], validation: float, test: float, minima: Minima) -> list[str]:
    """Return the split of each unit: the lowest positions are test, the next validation, the rest training.

    `validation` is a share of what is not test; a test share of 0 takes no test images at all. A class that the shares
    leave below its minimum takes the next units in order, those of more images than the minimum last: a burst of
    copies would take what training needs. A class whose low positions would leave training below its minimum keeps the
    highest of them out of test, then out of validation; so `n` single images are enough if the minima are `n` in sum.

    The more units there are, the fewer of them a class needs for its minimum, so a new unit moves an old one only
    towards training: from test to validation or training, from validation to training. The exception are the units that
    a class was short of: once it has enough images, they return to the split of their position. No assignment that
    depends on the images alone could spare both: if each set of `n` images had a training image that stays one in any
    larger set, at most `n - 1` images of a large set would not be training images, whatever the shares.
    """
    every = range(len(units))
    learn, choose, judge = minima.min_train_per_class, minima.min_val_per_class, minima.min_test_per_class
    of_test = set(_taken(units, every, test, judge, (choose, learn))) if test else set()
    rest = [index for index in every if index not in of_test]
    of_val = set(_taken(units, rest, test + (1 - test) * validation, choose, (learn,)))
    return [TEST if index in of_test else VAL if index in of_val else TRAIN for index in every]


def more_needed(lacking: int, training_share: float) -> int:
    """Return how many new images let a class meet its minima in splits of ours, whatever their hashes (but 1 in 1,000).

    `lacking` is what the splits together have too little of. At least as many new images have to fall to training by
    the shares: those that test and validation lack come out of them at worst, and no old image leaves training. It
    holds for single images; copies and groups count as one.
    """
    from scipy.stats import binom  # 0.5 s, for refusals alone

    return next(count for count in range(lacking, 10**6) if binom.sf(lacking - 1, count, training_share) >= CERTAINTY)


def _taken(
    units: Sequence[Unit], among: Sequence[int], below: float, least: int, others: tuple[int, ...]
) -> Iterator[int]:
    """Yield the units below a position that leave the `others` their minima, and those that a class needs.

    A class needs those before which it has fewer than `least` images. A unit meets one minimum at most, so what it
    leaves counts up to the largest.
    """

    def turn(index: int) -> tuple[bool, float]:
        position, images = units[index]
        return position >= below and max(images.values(), default=0) > least, position

    def of_use(index: int) -> Counter[str]:
        return Counter({label: min(count, max(others)) for label, count in units[index].images.items()})

    before, left = Counter[str](), Counter[str]()
    for index in among:
        left.update(of_use(index))
    for index in sorted(among, key=turn):
        position, images = units[index]
        spared = all(left[label] - count >= sum(others) for label, count in of_use(index).items())
        if (position < below and spared) or any(before[label] < least for label in images):
            left.subtract(of_use(index))
            yield index
        before.update(images)
