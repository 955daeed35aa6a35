"""Forecast of the gain from more labels: a power law through the learning curve, and its uncertainty.

Errors of classifiers fall about as a power of the number of labels (Hestness et al. 2017, arXiv 1712.00409), which is
a straight line on logarithmic axes. Viering and Loog (2023, IEEE TPAMI 45:7799) list where such a law fails, so the
forecast covers one doubling and no more.
"""

from collections.abc import Sequence

import numpy as np

from steps.evaluation.intervals import Sample, resampled_sums
from steps.runtime.arrays import Floats, Ints
from steps.runtime.figure import Figure

METHOD = "power law; images, labels and the curve's bend drawn anew"


def next_doubling(
    correct: Sequence[Floats], targets: Ints, sample: Sample, confidence: float, draws: int, rng: np.random.Generator
) -> Figure:
    """Return the gain in balanced accuracy from twice the labels, with its interval.

    `correct` holds for each share of the labels, each twice the one before, how correctly each image was answered,
    [draws of the labels, n]. The interval covers three sources of chance: which images were held out (bootstrap by
    `sample`), which labels were drawn (the spread between the draws, whose variance falls with their number), and
    which of the observed doublings the next one resembles. No interval if a class has a single image.
    """
    errors = np.array([np.mean([1 - _balanced(row, targets) for row in each]) for each in correct])
    floor = 0.5 / len(targets)  # no error among n is not an error of zero, and has no logarithm
    value = _gain(np.maximum(errors, floor))
    if np.bincount(targets)[np.unique(targets)].min() == 1:
        return Figure(value, None, None, METHOD)
    unseen = rng.gamma(0.5, 1 / sample.clusters, (draws, 1))  # Jeffreys' half an error, which no bootstrap draws
    seen = np.log2(np.maximum(1 - _resampled(correct, targets, sample, draws, rng), 0) + unseen)
    spread, freedom = _spread_of_labels(correct, targets, floor)
    scale = spread * np.sqrt(freedom / rng.chisquare(freedom, draws)) if freedom else np.zeros(draws)
    parts = np.array([2.0 ** (len(correct) - 1 - i) / len(each) for i, each in enumerate(correct)])
    curve = seen + scale[:, None] * np.sqrt(parts) * rng.standard_normal(seen.shape)
    slope = (np.diff(curve) * rng.dirichlet(np.ones(len(correct) - 1), draws)).sum(axis=1)
    reached = curve[:, -1] + slope + scale * np.sqrt(0.5) * rng.standard_normal(draws)
    tail = (1 - confidence) / 2
    low, high = np.quantile(2 ** seen[:, -1] - 2**reached, [tail, 1 - tail])
    return Figure(value, float(low), float(high), METHOD)


def _balanced(right: Floats, targets: Ints) -> float:
    return float(np.mean([right[targets == label].mean() for label in np.unique(targets)]))


def _gain(error: Floats) -> float:
    """Return the reduction of the last error by the next doubling, at the fitted rate."""
    doublings = np.arange(len(error)) - (len(error) - 1) / 2
    slope = np.log2(error) @ doublings / (doublings @ doublings)  # least squares, in doublings of error per doubling
    return float(error[-1] * (1 - 2**slope))


def _resampled(
    correct: Sequence[Floats], targets: Ints, sample: Sample, draws: int, rng: np.random.Generator
) -> Floats:
    """Return balanced accuracies of resampled images, [draws, shares]."""
    counts = np.bincount(targets)
    weights = 1 / ((counts > 0).sum() * counts[targets])
    values = np.stack([each.mean(axis=0) for each in correct], axis=1) * weights[:, None]
    return resampled_sums(values, sample, draws, rng)


def _spread_of_labels(correct: Sequence[Floats], targets: Ints, floor: float) -> tuple[float, int]:
    """Return the spread (in doublings) of the error from all labels under other labels, and its degrees of freedom.

    The smaller shares have several draws; the variance halves with every doubling of the labels.
    """
    total, freedom = 0.0, 0
    for i, each in enumerate(correct):
        logs = np.log2([max(1 - _balanced(row, targets), floor) for row in each])
        total += float(((logs - logs.mean()) ** 2).sum()) / 2 ** (len(correct) - 1 - i)
        freedom += len(each) - 1
    return float(np.sqrt(total / max(freedom, 1))), freedom
