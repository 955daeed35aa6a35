"""Worlds of many small classes, and of groups whose images err alike: do the intervals hold the truth there, too?

A part of `python -m tests.studies.coverage`: its third table.
"""

import gc
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import f1_score, roc_auc_score

from steps.evaluation import calibration, intervals
from steps.evaluation.slices import judge_slices
from steps.runtime.figure import Figure

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CONFIDENCE, DRAWS = 0.95, 400
LARGE = 400_000  # images from which the truth is read off


@dataclass(frozen=True)
class Crowd:
    """Pictures of classes alike in size, in groups that have a share of their noise in common; `mixed`: of any class.

    The model's scores are one for the true class and normal noise of variance 1, times a sharpness: their softmax
    states the chances of an image as it is drawn from all groups.
    """

    classes: int
    each: int  # images of a class
    size: int = 1  # of a group
    alike: float = 0.0
    mixed: bool = False

    @property
    def words(self) -> str:
        """Say it in words."""
        told = f"{self.classes} classes of {self.each}"
        if self.size == 1:
            return told
        groups = self.classes * self.each // self.size
        return f"{told}, {groups} groups of {self.size}, each {'of all classes' if self.mixed else 'of one class'}"

    def draw(self, sharpness: float, times: int, rng: np.random.Generator) -> tuple[Ints, Ints, Floats]:
        """Return classes [n], groups [n] and probabilities [n, classes] of a set `times` as large as the test set."""
        n = self.classes * self.each * times
        targets = np.repeat(np.arange(self.classes), self.each * times)
        groups = np.arange(n) % (n // self.size) if self.mixed else np.arange(n) // self.size
        shared = rng.normal(size=(n // self.size, self.classes))[groups]
        noise = self.alike**0.5 * shared + (1 - self.alike) ** 0.5 * rng.normal(size=(n, self.classes))
        return targets, groups, calibration.tempered(sharpness * (sharpness * np.eye(self.classes)[targets] + noise), 1)

    @cache  # noqa: B019 - a handful of worlds
    def sharpness(self, p: float) -> float:
        """Return the sharpness at which the model is right with probability `p`."""
        places = np.linspace(-12, 24, 6001)

        def right(sharpness: float) -> float:
            chances = norm.pdf(places - sharpness) * norm.cdf(places) ** (self.classes - 1)
            return float(chances.sum() * (places[1] - places[0]))

        return float(brentq(lambda s: right(s) - p, 0, 10))


CROWDS = (
    Crowd(20, 5),
    Crowd(2, 200, 10, 0.5),
    Crowd(4, 100, 10, 0.5),
    Crowd(4, 100, 10, 0.5, mixed=True),
    Crowd(2, 100, 50, 0.5),
    Crowd(2, 100, 100, 0.5),
)
CROWDED = (
    "accuracy",
    "balanced accuracy",
    "macro-F1",
    "AUROC",
    "log-loss",
    "Brier score",
    "share answered",
    "accuracy of those",
)
SURE = 0.7  # probability from which an image counts as answered
SLICES = 4  # columns with two values each, which mean nothing


def covers(figure: Figure, truth: float, tolerance: float = 0.0) -> bool:
    """Return whether the interval contains the truth; an unknown end excludes nothing."""
    return not (figure.above(truth + tolerance) or figure.below(truth - tolerance))


def crowded(crowd: Crowd, p: float, sets: int) -> dict[str, float]:
    """Return how often each interval held the truth, and in how many sets a slice that means nothing was accused."""
    rng, sharpness = np.random.default_rng(3), crowd.sharpness(p)
    targets, _, answers = crowd.draw(sharpness, LARGE // (crowd.classes * crowd.each), rng)
    truths, held = _true(targets, answers), dict.fromkeys((*CROWDED, "slices"), 0)
    for _ in range(sets):
        targets, groups, answers = crowd.draw(sharpness, 1, rng)
        for name, figure in _figures(targets, groups, answers, rng).items():
            held[name] += covers(figure, truths[name])
        held["slices"] += _accused(targets, groups, answers, rng)
    return {name: count / sets for name, count in held.items()}


def _true(targets: Ints, answers: Floats) -> dict[str, float]:
    predicted, classes = answers.argmax(axis=1), np.unique(targets)
    right, sure = predicted == targets, answers.max(axis=1) >= SURE
    nats, brier = calibration.losses(answers, targets).mean(axis=0)
    areas = [roc_auc_score(targets == label, answers[:, label]) for label in classes]
    return {
        "accuracy": float(right.mean()),
        "balanced accuracy": float(right.mean()),
        "macro-F1": float(f1_score(targets, predicted, average="macro")),
        "AUROC": float(np.mean(areas)),
        "log-loss": float(nats),
        "Brier score": float(brier),
        "share answered": float(sure.mean()),
        "accuracy of those": float(right[sure].mean()),
    }


def _figures(targets: Ints, groups: Ints, answers: Floats, rng: np.random.Generator) -> dict[str, Figure]:
    predicted, sample = answers.argmax(axis=1), intervals.sampled(targets, groups)
    right, sure, cluster = predicted == targets, answers.max(axis=1) >= SURE, sample.cluster
    nats, brier = calibration.scored(answers, targets, sample, CONFIDENCE)
    return {
        "accuracy": intervals.share(right, cluster, CONFIDENCE),
        "balanced accuracy": intervals.mean_of_shares(right, targets, cluster, CONFIDENCE),
        "macro-F1": intervals.macro_f1(targets, predicted, answers.shape[1], cluster, CONFIDENCE, DRAWS, rng),
        "AUROC": intervals.area(targets, answers, cluster, CONFIDENCE),
        "log-loss": nats,
        "Brier score": brier,
        "share answered": intervals.share(sure, cluster, CONFIDENCE),
        "accuracy of those": intervals.share(right[sure], cluster[sure], CONFIDENCE),
    }


def _accused(targets: Ints, groups: Ints, answers: Floats, rng: np.random.Generator) -> bool:
    """Say whether a slice is called worse; every column is the groups' own and means nothing."""
    columns = [f"column {i}" for i in range(SLICES)]
    table = pd.DataFrame({name: rng.choice(["a", "b"], groups.max() + 1)[groups] for name in columns})
    table = table.assign(width=1, height=1)
    right = answers.argmax(axis=1) == targets
    rows = judge_slices(table, right, groups, columns, 10, {}, CONFIDENCE)
    return any(row.p_adjusted < 1 - CONFIDENCE for row in rows)


def crowds(sets: int) -> None:
    """Print how often the intervals of one model hold the truth with many small classes, and with groups."""
    typer.echo("\n| simulated data | p | " + " | ".join(CROWDED) + " | a slice is flagged |")
    typer.echo("|---|---|" + "---|" * (len(CROWDED) + 1))
    gc.freeze()  # statsmodels collects garbage at each correction: 70 ms of a set's 100
    for crowd in CROWDS:
        for p in (0.8, 0.98):
            held = crowded(crowd, p, sets)
            typer.echo(f"| {crowd.words} | {p} | " + " | ".join(f"{share:.3f}" for share in held.values()) + " |")
