"""How the images were selected: skew against a stated population, sources of one class, shortcuts to the label.

Each family of tests is corrected by Holm's method, and each verdict needs an effect besides a small p: with many
images everything is significant.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import chisquare, fisher_exact, hypergeom

from steps.checks.reports import Coverage, Groups, Nothing, PopulationFit, Shortcut, Source
from steps.images.manifest import TRAIN
from steps.runtime.arrays import Bools, Ints

T = TypeVar("T")
ALPHA = 0.05  # of a whole family
PERMUTATIONS = 999
MOST = 5000  # images in which shortcuts are sought; more would only be slower
LEAST = 10  # images of a source; with fewer, a single class proves nothing
MEASURES = ("brightness", "contrast", "sharpness", "width", "height", "bytes")
NAMES = ("format", "mode", "source")


def effective_number(counts: Sequence[int]) -> float:
    """Return the effective number of classes, exp of the entropy of their shares: equal classes count fully."""
    shares = np.array([count for count in counts if count], dtype=np.float64)
    shares /= shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def population_fit(counts: Mapping[str, Mapping[str, int]], prior: Mapping[str, float]) -> tuple[PopulationFit, ...]:
    """Test each split's class counts against the stated shares; Cohen's w is the effect (0.1 small, 0.3 medium)."""
    total = sum(prior.values())
    rows = []
    for split, of_class in counts.items():
        seen = np.array([of_class.get(label, 0) for label in prior], dtype=np.float64)
        if seen.sum() == 0:
            continue
        wanted = np.array(list(prior.values())) / total * seen.sum()
        test = chisquare(seen, wanted)
        effect = float(np.sqrt(test.statistic / seen.sum()))
        rows.append(partial(PopulationFit, split, effect=effect, p=float(test.pvalue)))
    return with_holm(rows)


def with_holm(rows: Sequence[partial[T]]) -> tuple[T, ...]:
    """Complete rows with `adjusted`, their `p` corrected over all rows by Holm's method, and with `significant`."""
    from statsmodels.stats.multitest import multipletests

    if not rows:
        return ()
    reject, adjusted, _, _ = multipletests([row.keywords["p"] for row in rows], alpha=ALPHA, method="holm")
    return tuple(
        row(adjusted=float(p), significant=bool(rejected))
        for row, p, rejected in zip(rows, adjusted, reject, strict=True)
    )


def representation(images: pd.DataFrame) -> tuple[Source, ...]:
    """Count each source's images and classes; p is the probability that so many images share one class by chance."""
    of_class = images["label"].value_counts()
    rows = []
    for source, of_source in images[images["source"] != ""].groupby("source"):
        label = of_source["label"].mode()[0]
        alone = bool(of_source["label"].nunique() == 1 and len(of_source) >= LEAST)
        p = hypergeom(len(images), int(of_class[label]), len(of_source)).pmf(len(of_source)) if alone else 1.0
        only = str(label) if alone else ""
        rows.append(partial(Source, str(source), len(of_source), int(of_source["label"].nunique()), only, p=float(p)))
    return with_holm(rows)


def coverage(images: pd.DataFrame) -> tuple[Coverage, ...]:
    """Compare each source's and month's share in training with its share in validation and test.

    `effect` is the absolute difference of the shares, p is Fisher's exact test of the two by two table. Values of
    fewer than `LEAST` images are left out, and so is a column with one value, where nothing can be missing.
    """
    training = (images["split"] == TRAIN).to_numpy()
    rows = []
    for name, column in (("source", images["source"]), ("month", images["taken"].str[:7])):
        often = column[column != ""].value_counts()
        for value in often[often >= LEAST].index if len(often) > 1 else []:
            here = (column == value).to_numpy()
            table = [[int((here & side).sum()), int((~here & side).sum())] for side in (training, ~training)]
            if min(map(sum, table)) > 0:
                inside, outside = (row[0] / sum(row) for row in table)
                effect, p = round(abs(inside - outside), 4), float(fisher_exact(table).pvalue)
                rows.append(partial(Coverage, name, str(value), int(here.sum()), inside, outside, effect=effect, p=p))
    return with_holm(rows)


def groups(images: pd.DataFrame) -> Groups | Nothing:
    """Return how many groups (patients, cameras ...) the training images come from, and how evenly.

    A group never straddles splits, so training cannot lack a part of one; it can consist of few. `effective` is
    exp of the entropy of their shares. `Nothing` if no image has a group.
    """
    counts = images["group"][(images["split"] == TRAIN) & (images["group"] != "")].value_counts()
    if counts.empty:
        return Nothing()
    largest = float(counts.iloc[0] / counts.sum())
    return Groups(len(counts), effective_number(counts.tolist()), str(counts.index[0]), largest)


def shortcuts(images: pd.DataFrame, generator: np.random.Generator) -> tuple[Shortcut, ...]:
    """Test whether each measure alone predicts the label, on a held-out half, against permuted labels.

    `effect` is the position of balanced accuracy between chance (0) and certainty (1). Permuting only the held-out
    half keeps the test exact.
    """
    if images["label"].value_counts().min() < 4 or images["label"].nunique() < 2:
        return ()
    images = images.sort_values("id").iloc[generator.permutation(len(images))[:MOST]]
    targets = np.unique(images["label"].astype(str), return_inverse=True)[1]
    half = _half(targets, generator)
    rows = []
    for name in (*MEASURES, *NAMES):
        values = _column(images[name])
        if len(np.unique(values)) > 1:
            rows.append(_predicts(name, values, targets, half, generator))
    return with_holm(rows)


def _half(targets: Ints, generator: np.random.Generator) -> Bools:
    """Mark every second image of each class, in random order."""
    order = np.argsort(targets + generator.random(len(targets)))
    half: Bools = np.zeros(len(targets), dtype=bool)
    half[order[::2]] = True
    return half


def _column(values: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    if pd.api.types.is_numeric_dtype(values):
        return np.asarray(values, dtype=np.float64)[:, None]
    return np.asarray(pd.get_dummies(values), dtype=np.float64)


def _predicts(
    name: str, values: npt.NDArray[np.float64], targets: Ints, half: Bools, generator: np.random.Generator
) -> partial[Shortcut]:
    from sklearn.tree import DecisionTreeClassifier

    leaf = max(2, int(half.sum()) // 50)
    tree = DecisionTreeClassifier(max_depth=4, min_samples_leaf=leaf, class_weight="balanced", random_state=0)
    answers = tree.fit(values[half], targets[half]).predict(values[~half])
    truth, classes = targets[~half], int(targets.max()) + 1
    hits = np.bincount(truth, minlength=classes)
    permuted = generator.permuted(np.tile(truth, (PERMUTATIONS, 1)), axis=1)
    right = (permuted == answers) / hits[permuted] / (hits > 0).sum()
    reached = _balanced_accuracy(truth, answers, hits)
    p = (1 + int((right.sum(axis=1) >= reached - 1e-12).sum())) / (1 + PERMUTATIONS)
    chance = 1 / classes
    return partial(Shortcut, name, reached, effect=max(0.0, (reached - chance) / (1 - chance)), p=p)


def _balanced_accuracy(truth: Ints, answers: Any, hits: Any) -> float:
    """Return the mean recall over the classes that occur; `hits` counts the images of each class in `truth`."""
    right = np.bincount(truth[truth == answers], minlength=len(hits))
    return float((right[hits > 0] / hits[hits > 0]).mean())
