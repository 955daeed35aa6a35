"""Suspected label errors: confident learning (Northcutt et al. 2021, arXiv 1911.00068) on out-of-fold answers."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from steps.core.linear_probe import Labelled, fit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
FOLDS = 5
C = 1e-3  # a stiff head: a loose one learns wrong labels by heart, and what it learnt it no longer suspects


def out_of_fold(data: Labelled, classes: int, seed: int) -> Floats:
    """Return probabilities [n, classes] of heads that have not seen the image; every class needs 2 images or more."""
    smallest = int(np.bincount(data.targets, minlength=classes).min())
    found = np.zeros((len(data.targets), classes))
    folds = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    for train, rest in folds.split(data.features, data.targets):
        part = Labelled(data.features[train], data.targets[train], data.weights[train])
        found[rest] = fit(part, classes, C).probabilities(data.features[rest])
    return found


def suspects(targets: Ints, probabilities: Floats) -> Ints:
    """Return the indices of probable label errors, the least credible label first."""
    from cleanlab.filter import find_label_issues

    found = find_label_issues(
        np.asarray(targets, dtype=np.int64), probabilities, filter_by="prune_by_noise_rate",
        return_indices_ranked_by="self_confidence", n_jobs=1,
    )  # fmt: skip
    return np.asarray(found, dtype=np.int64)
