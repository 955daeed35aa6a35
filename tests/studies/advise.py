"""`python -m tests.studies.advise`: does it help to label what the advice picks, and does the forecast hold?

On the embedded digits, from cached features: a head learns from a few labels a class, then from twenty more that were
picked by the advice, or at random; and the gain of twice the labels is forecast, then measured on all other digits.
Prints two tables.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from steps.backbones import models
from steps.commands import origins
from steps.embedded.digits import pixels
from steps.evaluation.advice import next_labels
from steps.evaluation.intervals import sampled
from steps.evaluation.learning_curve import next_doubling
from steps.images.preprocessing import preprocess
from steps.runtime.arrays import Floats, Ints
from steps.runtime.figure import Figure
from steps.runtime.seeding import numpy_generator
from steps.training.linear_probe import Labelled, fit
from steps.training.metrics import balanced_accuracy
from steps.training.transferability import folds_of, probe
from tests.studies.crowds import covers

MORE, TEST = 20, 600  # labels that are bought; images that judge
C, PATH = 1e-2, (1e-3, 1e-2, 0.1)
SHARES = (0.25, 0.5, 1.0)
CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """All digits as the embedded backbone sees them: features [1797, 512] and labels [1797]."""

    features: Floats
    labels: Ints

    def reached(self, rows: Ints, test: Ints) -> float:
        """Return the balanced accuracy on `test` of a head that learned from `rows`."""
        answers = self.head(rows).probabilities(self.features[test]).argmax(axis=1)
        return balanced_accuracy(self.labels[test], answers)

    def head(self, rows: Ints) -> Any:
        """Return a linear head that learned from `rows`."""
        return fit(self.of(rows), CLASSES, C)

    def of(self, rows: Ints) -> Labelled:
        """Return these rows as training data, all of the same weight."""
        return Labelled(self.features[rows], self.labels[rows], np.ones(len(rows)))

    def first(self, rows: Ints, count: int) -> Ints:
        """Return the first `count` of each class's rows, in the order given."""
        return np.concatenate([rows[self.labels[rows] == label][:count] for label in range(CLASSES)])


def load() -> Digits:
    """Compute the features of all digits, in a second or two."""
    card, state = origins.embedded()
    network, _ = models.assemble(card, state)
    images, labels = pixels()
    batch = torch.stack([preprocess(Image.fromarray(image).convert("RGB"), card.preprocessing) for image in images])
    with torch.inference_mode():
        return Digits(network(batch).flatten(1).numpy(), labels)


def advice_against_luck(digits: Digits, start: int, seed: int) -> tuple[float, float, float]:
    """Return the balanced accuracy before, with the advised labels, and with as many random ones (mean of three)."""
    rng = numpy_generator(seed, "advise", start)
    order = rng.permutation(len(digits.labels))
    test, known = order[:TEST], digits.first(order[TEST:], start)
    pool = np.setdiff1d(order[TEST:], known)
    chances = digits.head(known).probabilities(digits.features[pool])
    picked = pool[[pick.row for pick in next_labels(digits.features[pool], chances, MORE, seed)]]
    drawn = [digits.reached(np.append(known, rng.choice(pool, MORE, replace=False)), test) for _ in range(3)]
    return digits.reached(known, test), digits.reached(np.append(known, picked), test), float(np.mean(drawn))


def forecast_against_truth(digits: Digits, labels: int, seed: int) -> tuple[Figure, float]:
    """Return the gain forecast from `labels` a class, and the gain that twice as many brought on all other images."""
    rng = numpy_generator(seed, "forecast", labels)
    order = rng.permutation(len(digits.labels))
    twice = digits.first(order, 2 * labels)
    test, rows = np.setdiff1d(order, twice), rng.permutation(digits.first(twice, labels))
    data, targets = digits.of(rows), digits.labels[rows]
    folds = folds_of(targets, np.arange(len(rows)), 5, seed)
    correct = [
        np.stack([probe(data, CLASSES, folds, PATH, share, draw).correct for draw in range(round(1 / share))])
        for share in SHARES
    ]
    forecast = next_doubling(correct, targets, sampled(targets), 0.95, 1000, rng)
    return forecast, digits.reached(twice, test) - digits.reached(rows, test)


def interval(differences: Sequence[float]) -> str:
    """Format the mean in points, with twice its standard error on either side."""
    mean, error = np.mean(differences), np.std(differences, ddof=1) / len(differences) ** 0.5
    return f"{100 * mean:+.1f} ({100 * (mean - 2 * error):+.1f} to {100 * (mean + 2 * error):+.1f})"


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    digits, console = load(), Console()

    picks = Table("labels a class", "before", f"{MORE} advised", f"{MORE} random", "advised less random, points")
    for start in (2, 5, 10):
        found = np.array([advice_against_luck(digits, start, seed) for seed in range(draws)])
        means = [f"{100 * mean:.1f} %" for mean in found.mean(axis=0)]
        picks.add_row(str(start), *means, interval((found[:, 1] - found[:, 2]).tolist()))
    console.print(picks)

    gains = Table("labels a class", "forecast of twice as many, points", "measured", "inside the 95 % interval")
    for labels in (5, 10, 20):
        rows = [forecast_against_truth(digits, labels, seed) for seed in range(draws)]
        inside = sum(covers(forecast, truth) for forecast, truth in rows)
        told, truth = (100 * float(np.mean(of)) for of in ([f.known for f, _ in rows], [gain for _, gain in rows]))
        gains.add_row(str(labels), f"{told:+.1f}", f"{truth:+.1f}", f"{inside} of {draws}")
    console.print(gains)


if __name__ == "__main__":
    main()
