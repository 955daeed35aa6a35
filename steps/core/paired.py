"""Two models on the same images, image by image: what one wins and the other loses, and how sure that is."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from steps.core.metrics import Floats, Ints, bootstrap

Bools = npt.NDArray[np.bool_]


def compare(
    targets: Ints, a: Bools, b: Bools, confidence: float, draws: int, generator: np.random.Generator
) -> dict[str, Any]:
    """Return by how much model a is better than model b in balanced accuracy, with its paired bootstrap interval.

    `targets` are class indices [n]; a and b [n] say image by image whether the model was right.
    """
    gain: Floats = a.astype(np.float64) - b
    figure = bootstrap(gain, targets, True, confidence, draws, generator)
    return {"n": len(targets), "balanced_accuracy": figure, "confidence": confidence, **mcnemar(a, b)}


def per_class(targets: Ints, a: Bools, b: Bools, classes: list[str]) -> list[dict[str, Any]]:
    """Return for each class that occurs how many images each model alone got right."""
    of_class = [(label, targets == i) for i, label in enumerate(classes)]
    return [
        {"label": label, "n": int(here.sum()), **mcnemar(a[here], b[here])} for label, here in of_class if here.any()
    ]


def mcnemar(a: Bools, b: Bools) -> dict[str, Any]:
    """Count the images that one alone has right; the two-sided exact test of McNemar (1947) says how sure that is."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "mcnemar_p": p}
