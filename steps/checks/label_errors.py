"""Suspected label errors: which, by confident learning (Northcutt et al. 2021, arXiv 1911.00068), and how many.

Both use heads that have not seen the image. Confident learning ranks well, but its count grows with the head's own
errors: it suspects 4 % of clean photographs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax
from scipy.stats import chi2
from sklearn.model_selection import StratifiedKFold

from steps.runtime.arrays import Ints
from steps.training.linear_probe import Labelled, fit

Floats = npt.NDArray[np.float64]
FOLDS = 5
MOST = 10_000  # images, evenly spaced, on which the number of errors is estimated
SHARP, RATES = (-3.0, 7.0), (-14.0, 3.0)  # logs of the sharpness, log-odds of the rate
C = 1e-3  # strong regularisation: otherwise a head memorises wrong labels, and no longer suspects them


def out_of_fold(data: Labelled, classes: int, seed: int) -> Floats:
    """Return probabilities [n, classes] of heads that have not seen the image; every class needs 2 images or more."""
    smallest = int(np.bincount(data.targets, minlength=classes).min())
    probabilities = np.zeros((len(data.targets), classes))
    folds = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    for train, rest in folds.split(data.features, data.targets):
        training = Labelled(data.features[train], data.targets[train], data.weights[train])
        probabilities[rest] = fit(training, classes, C).probabilities(data.features[rest])
    return probabilities


def suspects(targets: Ints, probabilities: Floats) -> Ints:
    """Return the indices of probable label errors, the least credible label first."""
    from cleanlab.filter import find_label_issues

    indices = find_label_issues(
        np.asarray(targets, dtype=np.int64),
        probabilities,
        filter_by="prune_by_noise_rate",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return np.asarray(indices, dtype=np.int64)


@dataclass(frozen=True)
class Noise:
    """The estimated share of wrong labels, and the probability of such an estimate if all were right."""

    share: float
    p: float


def noise(targets: Ints, probabilities: Floats) -> Noise:
    """Estimate by maximum likelihood how many labels are wrong, from out-of-fold probabilities [n, classes].

    A label follows the head's answer at a fitted sharpness or, at a fitted rate, falls on all classes uniformly. A weak
    head is not sharp and contradicts mildly; a wrong label is contradicted at any sharpness. p is from the likelihood
    ratio against a rate of 0, which lies on the boundary: half of a chi-square (Self and Liang 1987). The head has to
    know something: otherwise the sharpness is undetermined, too, and p is too small.
    """
    step = 1 + len(targets) // MOST
    own, classes = np.asarray(targets[::step], dtype=np.int64), probabilities.shape[1]
    logs = np.log(np.clip(probabilities[::step], 1e-12, 1))

    def loss(at: Floats) -> float:
        """Return the negative log-likelihood; `at` is the log of the sharpness and the log-odds of the rate."""
        log_likelihoods = log_softmax(logs * np.exp(at[0]), axis=1)[np.arange(len(own)), own]
        return -float(np.logaddexp(log_expit(-at[1]) + log_likelihoods, log_expit(at[1]) - np.log(classes)).sum())

    none = minimize_scalar(lambda sharpness: loss(np.array([sharpness, RATES[0]])), bounds=SHARP, method="bounded")
    optima = [
        minimize(loss, (min(none.x + more, SHARP[1]), odds), method="Nelder-Mead", bounds=(SHARP, RATES))
        for more, odds in ((0.0, -4.0), (0.5, -2.5))
    ]
    best = min(optima, key=lambda optimum: float(optimum.fun))
    gain = 2 * max(0.0, float(none.fun - best.fun))
    return Noise(float(expit(best.x[1])) * (classes - 1) / classes, float(chi2.sf(gain, 1) / 2) if gain else 1.0)
