"""Suspected label errors: which, by confident learning (Northcutt et al. 2021, arXiv 1911.00068), and how many.

Both use heads that have not seen the image. Confident learning ranks well, but its count grows with the head's own
errors: it suspects 4 % of clean photographs.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax
from scipy.stats import chi2

from steps.evaluation.intervals import design_effect
from steps.runtime.arrays import Bools, Floats, Ints
from steps.training.linear_probe import Labelled, held_out
from steps.training.transferability import folds_of

FOLDS = 5
MOST = 10_000  # images, evenly spaced, on which the number of errors is estimated
SHARP, RATES = (-3.0, 7.0), (-14.0, 3.0)  # logs of the sharpness, log-odds of the rate
C = 1e-3  # strong regularisation: otherwise a head memorises wrong labels, and no longer suspects them


def out_of_fold(data: Labelled, classes: int, seed: int, groups: Ints | None = None) -> tuple[Floats, Bools]:
    """Return probabilities [n, classes] of heads that have not seen the image, and which images they can judge, [n].

    Images of one of the `groups` [n] are held out together: siblings would vouch for each other's labels. A head that
    has seen no image of a label cannot judge it: the only image, or the only group, of a class. At least 2 images.
    """
    smallest = int(np.bincount(data.targets, minlength=classes).min())
    probabilities, judged = np.zeros((len(data.targets), classes)), np.zeros(len(data.targets), dtype=bool)
    alone = np.arange(len(data.targets)) if groups is None else groups
    for train, rest in folds_of(data.targets, alone, max(2, min(FOLDS, smallest)), seed):
        probabilities[rest] = held_out(data, train, rest, classes, [C])[0]
        judged[rest] = np.isin(data.targets[rest], data.targets[train])
    return probabilities, judged


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


def noise(targets: Ints, probabilities: Floats, groups: Ints | None = None) -> Noise:
    """Estimate by maximum likelihood how many labels are wrong, from out-of-fold probabilities [n, classes].

    A label follows the head's answer at a fitted sharpness or, at a fitted rate, falls on all classes uniformly. A weak
    head is not sharp and contradicts mildly; a wrong label is contradicted at any sharpness. p is from the likelihood
    ratio against a rate of 0, which lies on the boundary: half of a chi-square (Self and Liang 1987). The head has to
    know something: otherwise the sharpness is undetermined, too, and p is too small. A head errs on whole `groups` [n]:
    the ratio is divided by the design effect of its agreement (Rao and Scott 1984, Annals of Statistics 12:46).
    """
    step = 1 + len(targets) // MOST
    own, classes = np.asarray(targets[::step], dtype=np.int64), probabilities.shape[1]
    agrees = (probabilities[::step].argmax(axis=1) == own).astype(np.float64)
    design = 1.0 if groups is None else design_effect(agrees, groups[::step])
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
    gain = 2 * max(0.0, float(none.fun - best.fun)) / design
    return Noise(float(expit(best.x[1])) * (classes - 1) / classes, float(chi2.sf(gain, 1) / 2) if gain else 1.0)
