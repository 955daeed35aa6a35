"""How often do our intervals hold the truth, and how often do our tests cry wolf? `python -m tests.studies.coverage`.

Test sets are drawn from worlds in which the truth is known: n images of two classes whose chances are known, a model
that states them (calibrated) or exaggerates them (sure of itself), and a second model that errs on other images.
`crowds` has the worlds of many small classes and of groups.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from scipy.special import expit
from scipy.stats import binom
from sklearn.metrics import f1_score, roc_auc_score

from steps.evaluation import calibration, comparison, intervals
from steps.runtime.figure import Figure
from steps.training.metrics import proportion
from tests.studies.crowds import covers, crowds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
N, CONFIDENCE, DRAWS, BINS = 153, 0.95, 400, 10
LARGE = 400_000  # images from which the truth is read off
EXAGGERATED = 0.5  # temperature of the model that is sure of itself
RULES = comparison.VerdictRules(CONFIDENCE, 0.8, DRAWS)


@dataclass(frozen=True)
class World:
    """Pictures whose log-odds are normal with spread `sharpness`; each model sees them with `noise` of its own."""

    sharpness: float
    noise: float = 0.0
    other: float = 0.0  # the second model's noise

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ints, Floats, Floats, Floats]:
        """Return classes [n], the true log-odds of class 1 [n], and both models' log-odds [n]."""
        odds = self.sharpness * rng.normal(size=n)
        noisy = [odds + self.sharpness * noise * rng.normal(size=n) for noise in (self.noise, self.other)]
        return (rng.random(n) < expit(odds)).astype(np.int64), odds, noisy[0], noisy[1]


@cache
def calibrated(p: float) -> World:
    """Return the world in which the model that states the chances is right with probability `p`."""
    odds = np.random.default_rng(0).normal(size=LARGE)
    low, high = 0.01, 1000.0
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        sure = expit(np.abs(middle * odds)).mean()
        low, high = (middle, high) if sure < p else (low, middle)
    return World(middle)


def answers(odds: Floats, temperature: float = 1.0) -> Floats:
    """Return probabilities [n, 2]."""
    return calibration.tempered(np.stack([-odds / 2, odds / 2], axis=1), temperature)


@dataclass(frozen=True)
class Set:
    """One drawn test set and what is known of it."""

    targets: Ints
    chance: Floats
    one: Floats  # probabilities of the model [n, 2]
    plain: Floats  # and before it exaggerated
    rng: np.random.Generator

    @property
    def sample(self) -> intervals.Sample:
        """Return how it is resampled."""
        return intervals.sampled(self.targets)

    @cached_property
    def losses(self) -> tuple[Figure, Figure]:
        """Return log-loss and Brier score."""
        return calibration.scored(self.one, self.targets, self.sample, CONFIDENCE)


Figures = Callable[[Set], Figure]


def _right(s: Set) -> npt.NDArray[np.bool_]:
    return np.asarray(s.one.argmax(axis=1) == s.targets)


@cache
def _wilson(successes: int, n: int) -> Figure:
    return proportion(successes, n, CONFIDENCE)


FIGURES: dict[str, tuple[Figures, Callable[[Set], float]]] = {
    "accuracy": (lambda s: _wilson(int(_right(s).sum()), N), lambda s: float(_right(s).mean())),
    "balanced accuracy": (
        lambda s: intervals.mean_of_shares(_right(s), s.targets, np.arange(N), CONFIDENCE),
        lambda s: float(np.mean([_right(s)[s.targets == k].mean() for k in (0, 1)])),
    ),
    "macro-F1": (
        lambda s: intervals.macro_f1(s.targets, s.one.argmax(axis=1), 2, s.sample.cluster, CONFIDENCE, DRAWS, s.rng),
        lambda s: float(f1_score(s.targets, s.one.argmax(axis=1), average="macro")),
    ),
    "AUROC": (
        lambda s: intervals.area(s.targets, s.one, s.sample.cluster, CONFIDENCE),
        lambda s: float(roc_auc_score(s.targets, s.one[:, 1])),
    ),
    "log-loss": (lambda s: s.losses[0], lambda s: float(calibration.losses(s.one, s.targets)[:, 0].mean())),
    "Brier score": (lambda s: s.losses[1], lambda s: float(calibration.losses(s.one, s.targets)[:, 1].mean())),
}


def _gaps(s: Set, shown: Floats) -> float:
    """Return the true calibration error of these answers in the bins of the set: chances instead of outcomes."""
    parts = calibration.binned(s.one.max(axis=1), BINS)
    of_answer = np.where(s.one.argmax(axis=1) == 1, s.chance, 1 - s.chance)
    return float(np.abs(np.bincount(parts.index, of_answer - shown.max(axis=1))).sum() / len(s.targets))


# Truths that belong to the set itself: its bins are drawn with it.
OF_SET: dict[str, tuple[Figures, Callable[[Set], float]]] = {
    "calibration error": (
        lambda s: calibration.calibration_error(s.one, s.targets, BINS, s.sample, CONFIDENCE),
        lambda s: _gaps(s, s.one),
    ),
    "its change": (
        lambda s: calibration.change_of_error(s.one, s.plain, s.targets, BINS, s.sample, CONFIDENCE),
        lambda s: _gaps(s, s.plain) - _gaps(s, s.one),
    ),
}


def coverage(p: float, temperature: float, sets: int, asked: str = "") -> Iterator[dict[str, Any]]:
    """Yield for each figure, or the one that is asked for, how often its interval held the truth over drawn sets."""
    world, rng = calibrated(p), np.random.default_rng(1)

    def drawn(n: int) -> Set:
        targets, true, odds, _ = world.draw(n, rng)
        return Set(targets, expit(true), answers(odds, temperature), answers(odds), rng)

    large = drawn(LARGE)
    all_of_them = {name: each for name, each in {**FIGURES, **OF_SET}.items() if asked in ("", name)}
    truths = {name: truth(large) for name, (_, truth) in FIGURES.items() if name in all_of_them}
    held, methods = dict.fromkeys(all_of_them, 0), {}
    for _ in range(sets):
        one = drawn(N)
        for name, (measure, truth) in all_of_them.items():
            figure = measure(one)
            held[name] += covers(figure, truths[name] if name in truths else truth(one), 1e-12)
            methods[name] = figure.method
    for name, count in held.items():
        yield {
            "p": p,
            "model": "calibrated" if temperature == 1 else "sure of itself",
            "figure": name,
            "method": methods[name],
            "coverage": count / sets,
        }


def paired(p: float, noise: float, other: float, sets: int) -> dict[str, Any]:
    """Return how often the paired interval held the true difference, and how often each test spoke."""
    rng = np.random.default_rng(2)
    world = World(calibrated(p).sharpness, noise, other)
    targets, _, a, b = world.draw(LARGE * 4, rng)
    truth = float(((a > 0) == targets).mean() - ((b > 0) == targets).mean()) if noise != other else 0.0
    told = {"interval": 0, "McNemar": 0, "verdict": 0, "transfer": 0}
    held = 0
    for _ in range(sets):
        targets, odds, a, b = world.draw(N, rng)
        sample = intervals.sampled(targets)
        found = comparison.compare(("a", "b"), targets, answers(a), answers(b), sample, RULES, rng)
        held += found.low <= truth <= found.high
        told["interval"] += found.low > 0 or found.high < 0
        told["McNemar"] += found.mcnemar_p < 1 - CONFIDENCE
        told["verdict"] += found.verdict != comparison.NO_EVIDENCE
        draws = [(odds + world.sharpness * other * rng.normal(size=N) > 0).astype(np.int64) for _ in range(3)]
        verdict = comparison.transfer(targets, answers(a), {"scratch": draws}, sample, RULES, rng).verdict
        told["transfer"] += verdict != comparison.NO_EVIDENCE
    return {"p": p, "difference": truth, "coverage": held / sets, **{name: n / sets for name, n in told.items()}}


def bootstrap_of_a_share(p: float, n: int) -> float:
    """Return in closed form how often the percentile bootstrap of a share, which is not used, would hold it."""
    seen = np.arange(n + 1)
    low, high = binom.ppf([[(1 - CONFIDENCE) / 2], [(1 + CONFIDENCE) / 2]], n, seen / n) / n
    return float(binom.pmf(seen, n, p)[(low <= p) & (p <= high)].sum())


def main(
    sets: Annotated[int, typer.Option(min=1, help="Drawn test sets for each row.")] = 10_000,
    only: Annotated[str, typer.Option(help="One table: two, pairs or crowds.")] = "",
    figure: Annotated[str, typer.Option(help="One figure of the first table, as it is called there.")] = "",
) -> None:
    """Print the tables, in Markdown."""
    if only in ("", "two"):
        two_classes(sets, figure)
    if only in ("", "pairs"):
        pairs(sets)
    if only in ("", "crowds"):
        crowds(sets)


def two_classes(sets: int, figure: str) -> None:
    """Print how often the intervals of one model hold the truth, two classes alike in size."""
    typer.echo(f"{sets:,} sets of {N} images, nominal {CONFIDENCE:.0%}\n")
    typer.echo("| p | model | figure | method | coverage |\n|---|---|---|---|---|")
    for p in (0.8, 0.98):
        for temperature in (1.0, EXAGGERATED):
            for row in coverage(p, temperature, sets, figure):
                told = " | ".join(row[name] for name in ("model", "figure", "method"))
                typer.echo(f"| {p} | {told} | {row['coverage']:.3f} |")
        typer.echo(f"| {p} | any | accuracy | percentile bootstrap, not used | {bootstrap_of_a_share(p, N):.3f} |")


def pairs(sets: int) -> None:
    """Print how often two models are told apart, rightly and wrongly."""
    typer.echo("\n| p | difference | coverage | interval alone | McNemar | verdict: both | transfer, 3 draws |")
    typer.echo("|---|---|---|---|---|---|---|")
    for p, noise, other in ((0.8, 0.3, 0.3), (0.98, 0.1, 0.1), (0.98, 0.0, 0.3), (0.8, 0.0, 1.0)):
        row = paired(p, noise, other, sets)
        shown = " | ".join(f"{row[name]:.3f}" for name in ("coverage", "interval", "McNemar", "verdict", "transfer"))
        typer.echo(f"| {p} | {row['difference']:.3f} | {shown} |")


if __name__ == "__main__":
    typer.run(main)
