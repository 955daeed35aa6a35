"""What more labels would bring: a power law through the learning curve, as sure as its held-out images are many.

Errors of classifiers fall about as a power of the number of labels (Hestness et al. 2017, arXiv 1712.00409), which is
a straight line between logarithms. Viering and Loog (2023, IEEE TPAMI 45:7799) list where such a law fails, so this is
a forecast over one doubling and no further.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
METHOD = "power law, bootstrap"


def next_doubling(
    correct: Floats, targets: Ints, confidence: float, draws: int, generator: np.random.Generator
) -> dict[str, Any]:
    """Return by how much balanced accuracy would rise with twice the labels, with a percentile bootstrap interval.

    `correct` [shares, n] says how right each image [n] was answered from each share of the labels, every share twice
    the one before. Images are resampled within each class; the interval is None where a class has one image alone.
    """
    by_class = [correct[:, targets == label] for label in np.unique(targets)]
    value = float(_gain(np.mean([rows.mean(axis=1) for rows in by_class], axis=0), correct.shape[1]))
    if min(rows.shape[1] for rows in by_class) == 1:
        return {"value": value, "low": None, "high": None, "method": METHOD}
    drawn = np.mean([_resampled(rows, draws, generator) for rows in by_class], axis=0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(_gain(drawn, correct.shape[1]), [tail, 1 - tail])
    return {"value": value, "low": float(low), "high": float(high), "method": METHOD}


def _resampled(rows: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Return the means of resampled images, [draws, shares], of one class's `rows` [shares, n]."""
    n = rows.shape[1]
    return np.asarray(generator.multinomial(n, np.full(n, 1 / n), draws) @ rows.T / n)


def _gain(accuracy: Floats, n: int) -> Floats:
    """Return what the next doubling adds to the accuracies [..., shares]: the error shrinks by the usual factor."""
    error = np.maximum(1 - accuracy, 0.5 / n)  # none of n wrong is not never wrong, and has no logarithm
    doublings = np.arange(error.shape[-1]) - (error.shape[-1] - 1) / 2
    slope = np.log2(error) @ doublings / (doublings @ doublings)  # least squares, in doublings of error per doubling
    return np.asarray(error[..., -1] * (1 - 2**slope))
