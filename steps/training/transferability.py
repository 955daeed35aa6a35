"""How well frozen features suit a task: two scores without training, and a cross-validated probe with its training.

The scores rank; they do not measure accuracy. Over eight sets their rank correlation with fine-tuned accuracy was
about 0.66 (Transfer-Learning-Library's table), so the probe decides and the scores stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from steps.images.manifest import in_hash_order, units_of
from steps.runtime.arrays import Floats, Ints
from steps.runtime.seeding import derive
from steps.training.histories import Scores
from steps.training.linear_probe import Labelled, held_out
from steps.training.metrics import scores

Folds = Sequence[tuple[Ints, Ints]]
TOLERANCE = 1e-3  # of the probes: exact to the third decimal of log-loss, in a third of the time
LOGME_STEPS = 100  # of the fixed point; it takes about ten, and must not loop for ever


def logme(features: Floats, targets: Ints) -> float:
    """Return the mean over classes of the log maximum evidence per image (nats), for features [n, d].

    You et al. 2021 (arXiv 2102.11005): each class's 0/1 column is a linear function of the features with a Gaussian
    prior of precision alpha and noise of precision beta; both maximise the evidence of the column.
    """
    left, singular, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    kept = singular > singular[0] * max(features.shape) * np.finfo(np.float64).eps
    left, squared = left[:, kept], singular[kept] ** 2
    columns = (targets[:, None] == np.unique(targets)).astype(np.float64)
    return float(
        np.mean([_evidence(left.T @ column, float(column @ column), squared, len(column)) for column in columns.T])
    )


def _evidence(projected: Floats, norm: float, squared: Floats, n: int) -> float:
    """Maximise the evidence of one column by MacKay's fixed point, in the eigenbasis of the features."""
    outside = max(norm - float(projected @ projected), 0.0)  # what no linear function of the features can reach
    alpha = beta = 1.0
    for _ in range(LOGME_STEPS):
        shrunk = alpha / (alpha + beta * squared)
        weights = float(((1 - shrunk) ** 2 * projected**2 / squared).sum())
        residual = float(((shrunk * projected) ** 2).sum()) + outside
        effective = float((1 - shrunk).sum())
        before, alpha, beta = alpha / beta, effective / max(weights, 1e-12), (n - effective) / max(residual, 1e-12)
        if abs(alpha / beta - before) < 1e-6 * before:
            break
    precision = alpha + beta * squared
    fit_term = beta * (((alpha / precision * projected) ** 2).sum() + outside)
    prior_term = alpha * ((beta * projected / precision) ** 2 * squared).sum()
    log_det = np.log(precision / alpha).sum()
    return float(0.5 * (n * np.log(beta / (2 * np.pi)) - log_det - fit_term - prior_term) / n)


def h_score(features: Floats, targets: Ints) -> float:
    """Return tr(cov(f)^-1 cov(E[f | y])): the share of the variance, over all directions, that lies between classes.

    Bao et al. 2019 (ICIP, DOI 10.1109/ICIP.2019.8803726), with both covariances shrunk as Ibrahim et al. 2021
    (arXiv 2110.06893) do by Ledoit and Wolf: with fewer images than features the plain score is classes - 1,
    whatever the features are.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    centred = centred[:, centred.std(axis=0) > 1e-8]
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    labels, index = np.unique(targets, return_inverse=True)
    means = np.stack([centred[targets == label].mean(axis=0) for label in labels])
    between = means[index]
    return float((1 - shrinkage) * np.einsum("nd,nd->", np.linalg.solve(covariance, between.T).T, between) / len(index))


def hash_bits(hashes: Sequence[str]) -> Floats:
    """Return 64-bit perceptual hashes (16 hexadecimal digits) as rows of 0 and 1, float32 [n, 64].

    A bit is 1 if a low frequency lies above their median: the coarse pattern of light and dark, without colour.
    """
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), -1)
    return np.unpackbits(packed, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Held:
    """Out-of-fold answers: probabilities [n, classes] for every image, from heads that had not seen it."""

    probabilities: Floats
    targets: Ints
    c: float

    @property
    def correct(self) -> Floats:
        """Return 1.0 where the answer is right, 0.0 elsewhere; [n]."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.targets, dtype=np.float64)

    @property
    def loss(self) -> Floats:
        """Return the log-loss of each image in nats; [n]."""
        chosen = self.probabilities[np.arange(len(self.targets)), self.targets]
        return np.asarray(-np.log(np.clip(chosen, np.finfo(np.float64).tiny, 1)))

    def scores(self) -> Scores:
        """Return accuracy, balanced accuracy, log-loss and n."""
        return scores(self.targets, self.probabilities)


def folds_of(targets: Ints, groups: Ints, count: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Return (training rows, held-out rows) of `count` folds, stratified; images of one group stay together.

    There are at most as many folds as groups. Images that are all of one group are divided one by one.
    """
    indices, many = np.arange(len(targets)), len(np.unique(groups))
    if many == 1:
        groups, many = indices, len(indices)
    count = min(count, many)
    stratified = np.bincount(targets).max() >= count  # otherwise nothing to stratify: a label or two in all
    if many == len(indices):  # the grouped search takes seconds even if there is nothing to group
        split = (StratifiedKFold if stratified else KFold)(count, shuffle=True, random_state=seed)
        return list(split.split(indices, targets))
    split = (StratifiedGroupKFold if stratified else GroupKFold)(count, shuffle=True, random_state=seed)
    folds = split.split(indices, targets, groups)
    return [(train, held) for train, held in folds if len(train) and len(held)]  # a few large groups leave some empty


@dataclass(frozen=True)
class Divided:
    """Images in an arbitrary order, their class indices and groups [n], and the folds that divide them."""

    table: pd.DataFrame
    targets: Ints
    groups: Ints
    classes: int
    folds: Folds


def divided(table: pd.DataFrame, most: int, count: int, seed: int) -> Divided:
    """Order images by the hash of their content, keep about `most`, and divide them into `count` folds.

    `table` has id, label and group; every class keeps its share; if a class has fewer images, there are fewer folds.
    """
    table = in_hash_order(table)
    classes, targets = np.unique(table["label"].to_numpy(str), return_inverse=True)
    kept = np.sort(first_share(targets, np.arange(len(table)), most / len(table)))
    table, targets = table.iloc[kept], targets[kept]
    groups = np.unique(units_of(table).to_numpy(str), return_inverse=True)[1]
    count = max(2, min(count, int(np.bincount(targets).min())))
    folds = folds_of(targets, groups, count, derive(seed, "folds") % 2**32)
    return Divided(table, targets, groups, len(classes), folds)


def probe(data: Labelled, classes: int, folds: Folds, path: Sequence[float], share: float = 1.0, draw: int = 0) -> Held:
    """Fit a linear head in every fold; return its answers for the held-out images.

    `share` of each class's training images is used: their order must be arbitrary. `draw` counts the parts of that
    size, so that draws 0 and 1 of a half have no image in common if a class has two or more. The regularisation in
    `path` with the least log-loss is used: a choice among few, the same for everything that is compared.
    """
    probabilities = np.zeros((len(path), len(data.targets), classes))
    for train, held in folds:
        used = first_share(data.targets, train, share, draw)
        probabilities[:, held] = held_out(data, used, held, classes, path, TOLERANCE)
    candidates = [Held(answers, data.targets, c) for answers, c in zip(probabilities, path, strict=True)]
    return min(candidates, key=lambda held: float(held.loss.mean()))


def first_share(targets: Ints, rows: Ints, share: float, draw: int = 0) -> Ints:
    """Return the first `share` of each class's `rows`, at least one of each; or the second if `draw` is 1, ..."""
    parts = [rows[targets[rows] == label] for label in np.unique(targets[rows])]
    sizes = [min(len(part), max(1, int(share * len(part)))) for part in parts]
    return np.concatenate(
        [
            part.take(np.arange(draw * size, (draw + 1) * size), mode="wrap")
            for part, size in zip(parts, sizes, strict=True)
        ]
    )
