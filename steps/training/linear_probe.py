"""The linear probe: multinomial logistic regression on frozen features, to convergence.

Kumar et al. 2022 (arXiv 2202.10054) fit the head first and fine-tune afterwards; a converged head is what keeps
the first fine-tuning gradients from distorting the features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, MinLen
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from steps.runtime.arrays import Floats, Ints
from steps.training.histories import LinearTrial, Scores, Trial
from steps.training.metrics import scores

Head = TypeVar("Head")
Strengths = Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)]  # to try


@dataclass(frozen=True)
class Labelled:
    """Features [n, d], class indices [n] and sample weights [n] of one split."""

    features: Floats
    targets: Ints
    weights: Floats


@dataclass(frozen=True)
class Linear:
    """A fitted head: logits = features @ weight.T + bias, on features as the backbone gives them."""

    weight: npt.NDArray[np.float32]  # [classes, d]
    bias: npt.NDArray[np.float32]  # [classes]
    converged: bool = True

    def probabilities(self, features: Floats) -> npt.NDArray[np.float64]:
        """Map features [n, d] to probabilities [n, classes]."""
        logits = features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        return np.asarray(softmax(logits, axis=1))


@dataclass(frozen=True)
class Fitted(Generic[Head]):
    """A search's outcome: the head fitted on train alone, the one refitted on train + val, the strengths tried."""

    train_only: Head
    refitted: Head
    chosen_c: float
    path: tuple[LinearTrial | Trial, ...]
    validation: Scores


def search(
    fit_each: Callable[[Labelled, Sequence[float]], Sequence[Head]],
    answers: Callable[[Head, Labelled], Floats],
    train: Labelled,
    val: Labelled,
    path: Sequence[float],
) -> Fitted[Head]:
    """Fit one head per strength of the path, choose by validation log-loss, refit the choice on train + val.

    `answers` gives a head's probabilities [n, classes]. Log-loss decides rather than accuracy: on a few dozen
    validation images accuracy ties over most of the path.
    """
    heads = fit_each(train, path)
    validation = [scores(val.targets, answers(head, val)) for head in heads]
    trials = [
        _trial(float(c), head, of_val, scores(train.targets, answers(head, train)))
        for c, head, of_val in zip(path, heads, validation, strict=True)
    ]
    best = min(range(len(path)), key=lambda i: validation[i].log_loss)
    names = ("features", "targets", "weights")
    both = Labelled(*(np.concatenate([getattr(data, name) for data in (train, val)]) for name in names))
    (refitted,) = fit_each(both, path[best : best + 1])
    return Fitted(heads[best], refitted, float(path[best]), tuple(trials), validation[best])


def _trial(c: float, head: object, val: Scores, train: Scores) -> LinearTrial | Trial:
    figures = {
        f"{split}_{name}": value
        for split, of_split in (("val", val), ("train", train))
        for name, value in vars(of_split).items()
        if name != "n"
    }
    return LinearTrial(c=c, converged=head.converged, **figures) if isinstance(head, Linear) else Trial(c=c, **figures)


def fit_probe(train: Labelled, val: Labelled, classes: int, inverse_regularisation: Sequence[float]) -> Fitted[Linear]:
    """Search for a linear head along scikit-learn's inverse L2 strengths."""
    return search(
        lambda data, path: fit_path(data, classes, path),
        lambda head, data: head.probabilities(data.features),
        train,
        val,
        inverse_regularisation,
    )


def fit(data: Labelled, classes: int, c: float) -> Linear:
    """Fit one head; see `fit_path`."""
    return fit_path(data, classes, [c])[0]


def fit_path(data: Labelled, classes: int, path: Sequence[float], tolerance: float = 1e-6) -> list[Linear]:
    """Fit class-weighted heads by L-BFGS on standardised features, one per strength; the scaling is folded into them.

    `path` holds scikit-learn's inverse L2 strengths. Every class must occur in `data`. Weights count like copies, in
    the scaling and in the balance of classes too: weight 0 means an absent image, weight 2 one that counts twice.
    """
    mean = np.average(data.features, axis=0, weights=data.weights)
    scale = np.sqrt(np.average((data.features - mean) ** 2, axis=0, weights=data.weights))
    scale[scale < 1e-8] = 1.0  # a dead feature carries nothing; do not amplify its rounding
    standardised = (data.features - mean) / scale
    balance = compute_class_weight("balanced", classes=np.arange(classes), y=data.targets, sample_weight=data.weights)
    heads = []
    for c in path:  # each from zero: starting from its neighbour saved 15 % and made a head depend on the whole path
        model = LogisticRegression(C=c, max_iter=2000, tol=tolerance)
        model.fit(standardised, data.targets, sample_weight=data.weights * balance[data.targets])
        heads.append(_folded(model, mean, scale))
    return heads


def held_out(
    data: Labelled, train: Ints, held: Ints, classes: int, path: Sequence[float], tolerance: float = 1e-6
) -> list[Floats]:
    """Return probabilities [held, classes] for the rows `held` by heads of the rows `train`, one per strength.

    A class that the rows `train` lack gets probability 0: a group can take a class with it.
    """
    present, targets = np.unique(data.targets[train], return_inverse=True)
    if len(present) == 1:
        return [np.eye(classes)[np.repeat(present, len(held))]] * len(path)
    answers: list[Floats] = [np.zeros((len(held), classes)) for _ in path]
    part = Labelled(data.features[train], targets, data.weights[train])
    for of_strength, head in zip(answers, fit_path(part, len(present), path, tolerance), strict=True):
        of_strength[:, present] = head.probabilities(data.features[held])
    return answers


def _folded(model: LogisticRegression, mean: Floats, scale: Floats) -> Linear:
    weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if len(weight) == 1:  # two classes: scikit-learn keeps one row, the log-odds of the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    converged = int(model.n_iter_.max()) < model.max_iter
    return Linear(weight.astype(np.float32), (bias - weight @ mean).astype(np.float32), converged)
