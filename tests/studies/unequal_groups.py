"""Coverage of intervals, and power of the paired interval, when images come in groups of equal and unequal size.

`python -m tests.studies.unequal_groups` prints both tables; 1,000 sets per row take some minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
from scipy.stats import norm, ttest_1samp

from steps.evaluation.comparison import balanced_difference
from steps.evaluation.intervals import Sample, macro_f1, mean_of_shares, sampled, share
from steps.runtime.figure import Figure

CONFIDENCE, ALIKE, SHARED = 0.95, 0.5, 0.7  # of the noise: the group's own part; the part that two models share
Bools, Ints = np.ndarray, np.ndarray

LOG_NORMAL = np.maximum(1, np.round(np.exp(np.random.default_rng(5).normal(1.5, 1.2, 40)))).astype(int)
SIZES = {
    "40 groups of 10": np.full(40, 10),
    "one of 100 and 40 of 5": np.array([100, *[5] * 40]),
    "two of 50 and 100 single images": np.array([50, 50, *[1] * 100]),
    "4 of 30 and 40 of 3": np.array([*[30] * 4, *[3] * 40]),
    "40, log-normal sizes": LOG_NORMAL,
}
MEASURES: dict[str, Callable[[Bools, Ints, Ints], Figure]] = {
    "accuracy": lambda right, _, cluster: share(right, cluster, CONFIDENCE),
    "balanced accuracy": lambda right, targets, cluster: mean_of_shares(right, targets, cluster, CONFIDENCE),
    "macro-F1": lambda right, targets, cluster: macro_f1(
        targets, np.where(right, targets, 1 - targets), 2, cluster, CONFIDENCE, 300, np.random.default_rng(0)
    ),
}


@dataclass(frozen=True)
class Groups:
    """Images of two classes in groups, each of one class; half of an image's noise is its group's."""

    sizes: Ints

    @property
    def groups(self) -> Ints:
        """Return the group of each image, [n]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def targets(self) -> Ints:
        """Return the class of each image, [n]: groups alternate."""
        return self.groups % 2

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        """Return a standard normal for each image, [n]."""
        own = rng.normal(size=len(self.sizes))[self.groups]
        return np.asarray(np.sqrt(ALIKE) * own + np.sqrt(1 - ALIKE) * rng.normal(size=len(self.groups)))

    def right(self, p: float, rng: np.random.Generator) -> Bools:
        """Draw which images are answered correctly, [n], each with probability p."""
        return np.asarray(self.noise(rng) < norm.ppf(p))


def coverage(sizes: Ints, p: float, sets: int) -> dict[str, float]:
    """Return how often the interval of each figure held the truth, which is p for each of them."""
    world = Groups(sizes)
    sample = sampled(world.targets, world.groups)
    held = dict.fromkeys(MEASURES, 0)
    for seed in range(sets):
        right = world.right(p, np.random.default_rng(seed))
        for name, measure in MEASURES.items():
            low, high = measure(right, world.targets, sample.cluster).ends
            held[name] += low - 1e-12 <= p <= high + 1e-12
    return {name: count / sets for name, count in held.items()}


def power(sizes: Ints, a: float, b: float, sets: int) -> tuple[float, float]:
    """Return how often the paired interval was above zero, and the t test over the groups' mean gains, one-sided."""
    world, seen = Groups(sizes), np.zeros(2)
    sample = sampled(world.targets, world.groups)
    for seed in range(sets):
        gain = _gain(world, a, b, np.random.default_rng(seed))
        seen += _above(gain, world, sample), _by_groups(gain, world)
    return float(seen[0] / sets), float(seen[1] / sets)


def _gain(world: Groups, a: float, b: float, rng: np.random.Generator) -> np.ndarray:
    common = world.noise(rng)
    first, second = (np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * world.noise(rng) < norm.ppf(p) for p in (a, b))
    return np.asarray(first.astype(float) - second)


def _above(gain: np.ndarray, world: Groups, sample: Sample) -> bool:
    return balanced_difference(gain, world.targets, sample, CONFIDENCE, 300, np.random.default_rng(0)).above(0)


def _by_groups(gain: np.ndarray, world: Groups) -> bool:
    means = np.bincount(world.groups, gain) / world.sizes
    if not np.ptp(means):
        return False
    test = ttest_1samp(means, 0)
    return bool(test.pvalue < 1 - CONFIDENCE and test.statistic > 0)


def main(sets: Annotated[int, typer.Option(help="simulated test sets per row")] = 1000) -> None:
    """Print the two tables."""
    typer.echo("| groups | p | " + " | ".join(MEASURES) + " |\n|---|---|" + "---|" * len(MEASURES))
    for words, sizes in SIZES.items():
        for p in (0.8, 0.95):
            held = coverage(sizes, p, sets)
            typer.echo(f"| {words} | {p} | " + " | ".join(f"{100 * share:.1f} %" for share in held.values()) + " |")
    typer.echo("\n| groups | true gain | interval above zero | t test over groups |\n|---|---|---|---|")
    for words, sizes in {**SIZES, "20 groups of 10": np.full(20, 10)}.items():
        for a in (0.9, 0.8):
            ours, theirs = power(sizes, a, 0.8, sets)
            typer.echo(f"| {words} | {100 * (a - 0.8):.0f} points | {100 * ours:.1f} % | {100 * theirs:.1f} % |")


if __name__ == "__main__":
    typer.run(main)
