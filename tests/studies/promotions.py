"""How often the gate's test promotes a model that is no better, and one that is: `python -m tests.studies.promotions`.

Two models answer the same images of two classes. Each image (or group) has a difficulty that both share, so their
answers agree on most images. `false`: the true difference in balanced accuracy is exactly the limit of the test.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, ttest_1samp

from steps.evaluation.superiority import balanced
from steps.runtime.arrays import Floats, Ints

CONFIDENCE = 0.95
LEVEL = (1 - CONFIDENCE) / 2  # one-sided
SHARED = 0.7  # of the variance of difficulty, between the two models
ALIKE = 0.5  # of it, between the images of a group


@dataclass(frozen=True)
class Bout:
    """Images of two classes in groups of one size; true recalls of challenger and champion; the limit of the test."""

    name: str
    groups: tuple[int, int]  # of each class
    size: int  # images per group
    challenger: tuple[float, float]
    champion: tuple[float, float]
    least: float = 0.0

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Ints, Ints]:
        """Return the gain, class and group of each image [n]."""
        count = sum(self.groups)
        cluster = np.repeat(np.arange(count), self.size)
        targets = np.repeat([0, 1], self.groups)[cluster]

        def part() -> Floats:
            alike = ALIKE if self.size > 1 else 0.0
            each = rng.normal(size=len(cluster))
            return np.sqrt(alike) * rng.normal(size=count)[cluster] + np.sqrt(1 - alike) * each

        shared = part()
        right = [
            np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * part() < norm.ppf(np.array(recalls)[targets])
            for recalls in (self.challenger, self.champion)
        ]
        return right[0].astype(float) - right[1], targets, cluster


LEVELS = (
    Bout("equal, 1:1", (150, 150), 1, (0.8, 0.8), (0.8, 0.8)),
    Bout("equal, 9:1", (450, 50), 1, (0.8, 0.8), (0.8, 0.8)),
    Bout("equal, 9:1, few", (90, 10), 1, (0.8, 0.7), (0.8, 0.7)),
    Bout("one class for the other, 9:1", (450, 50), 1, (0.75, 0.75), (0.85, 0.65)),
    Bout("40 groups of 10", (20, 20), 10, (0.8, 0.8), (0.8, 0.8)),
    Bout("20 groups of 10", (10, 10), 10, (0.8, 0.8), (0.8, 0.8)),
    Bout("36 and 4 groups of 10", (36, 4), 10, (0.8, 0.8), (0.8, 0.8)),
    Bout("worse by the margin, 1:1", (150, 150), 1, (0.8, 0.8), (0.85, 0.85), -0.05),
    Bout("worse by the margin, 9:1", (450, 50), 1, (0.8, 0.8), (0.85, 0.85), -0.05),
    Bout("better by the margin, 9:1", (450, 50), 1, (0.85, 0.85), (0.8, 0.8), 0.05),
)
GAINS = (
    Bout("+10 points, 1:1", (75, 75), 1, (0.9, 0.9), (0.8, 0.8)),
    Bout("+10 points, 9:1", (270, 30), 1, (0.9, 0.9), (0.8, 0.8)),
    Bout("+10 points, 40 groups of 10", (20, 20), 10, (0.9, 0.9), (0.8, 0.8)),
    Bout("+10 points, 20 groups of 10", (10, 10), 10, (0.9, 0.9), (0.8, 0.8)),
)


def promoted(bout: Bout, sets: int) -> tuple[float, float]:
    """Return the shares of sets that the gate's test and a t test over groups promote."""
    gate, student = 0, 0
    for seed in range(sets):
        gain, targets, cluster = bout.draw(np.random.default_rng([seed, sets]))
        gate += balanced(gain, targets, cluster, bout.least).p < LEVEL
        sums = np.bincount(cluster, gain / (2 * np.bincount(targets)[targets]))
        tested = ttest_1samp(sums * len(sums), bout.least, alternative="greater") if np.ptp(sums) else None
        student += tested is not None and tested.pvalue < LEVEL
    return gate / sets, student / sets


def table(sets: int) -> Iterator[str]:
    """Yield the rows of the table in docs/promotion.md."""
    yield "| models | promoted by the gate | by a t test over images or groups |\n|---|---|---|"
    for bout in (*LEVELS, *GAINS):
        gate, student = promoted(bout, sets)
        yield f"| {bout.name} | {100 * gate:.1f} % | {100 * student:.1f} % |"


if __name__ == "__main__":
    for row in table(int(sys.argv[1]) if sys.argv[1:] else 2000):
        sys.stdout.write(row + "\n")
        sys.stdout.flush()
