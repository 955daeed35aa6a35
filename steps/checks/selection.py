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
from steps.checks.rule import some
from steps.errors import RejectedError
from steps.images.manifest import TEST, TRAIN, UNLABELLED, VAL, in_use, independent, units_of
from steps.runtime.arrays import Bools, Floats, Ints

T = TypeVar("T")
ALPHA = 0.05  # of a whole family
PERMUTATIONS = 999
MOST = 5000  # images in which shortcuts are sought; more would only be slower
LEAST_UNITS = 4  # of each class: groups, or images without one; two to learn from and two to be asked
LEAST = 10  # images of a source; with fewer, a single class proves nothing
MEASURES = ("brightness", "contrast", "sharpness", "width", "height", "bytes")
NAMES = ("format", "mode", "source")


def untrainable(images: pd.DataFrame, remedy: str) -> RejectedError | None:
    """Return an error if some class has no training image of weight above 0, or if validation or test has none at all.

    No severity lets this pass: without them there is nothing to learn from, to choose by or to judge by.
    """
    heavy = in_use(images)
    labels = set(images["label"][images["split"] != UNLABELLED])
    lacking = [f"class {label!r}: no training image" for label in sorted(labels - set(in_use(images, TRAIN)["label"]))]
    for split, words in ((VAL, "validation"), (TEST, "test")):
        lacking += [] if (heavy["split"] == split).any() else [f"the {words} split: no image"]
    if not lacking:
        return None
    return RejectedError(
        "the data was rejected: something cannot be learnt, chosen or judged (images of weight 0 do not count)\n"
        f"      found   {some(lacking)}\n      limit   at least 1 image\n      remedy  {remedy}"
    )


def effective_number(counts: Sequence[int]) -> float:
    """Return the effective number of classes, exp of the entropy of their shares: equal classes count fully."""
    shares = np.array([count for count in counts if count], dtype=np.float64)
    shares /= shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def population_fit(
    counts: Mapping[str, Mapping[str, int]],
    prior: Mapping[str, float],
    units: Mapping[str, Mapping[str, int]] | None = None,
) -> tuple[PopulationFit, ...]:
    """Test each split's class counts against the stated shares; Cohen's w is the effect (0.1 small, 0.3 medium).

    p is that of `units`, the counts of one image per group, where images come in groups.
    """
    shares = np.array(list(prior.values())) / sum(prior.values())
    rows = []
    for split, of_class in counts.items():
        seen, alone = (
            np.array([some.get(label, 0) for label in prior], dtype=np.float64)
            for some in (of_class, (counts if units is None else units).get(split, {}))
        )
        if min(seen.sum(), alone.sum()) == 0:
            continue
        test, of_units = (chisquare(some, shares * some.sum()) for some in (seen, alone))
        effect = float(np.sqrt(test.statistic / seen.sum()))
        rows.append(partial(PopulationFit, split, effect=effect, p=float(of_units.pvalue)))
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
    """Count each source's images and classes; p is the probability that so many images share one class by chance.

    For p, here and in `coverage`, a group counts as one image: those of one patient are not independent.
    """
    units = independent(images)
    of_class, of_unit = units["label"].value_counts(), units["source"].value_counts()
    rows = []
    for source, of_source in images[images["source"] != ""].groupby("source"):
        label, count = of_source["label"].mode()[0], int(of_unit.get(source, 0))
        alone = bool(of_source["label"].nunique() == 1 and len(of_source) >= LEAST)
        p = hypergeom(len(units), int(of_class.get(label, 0)), count).pmf(count) if alone else 1.0
        only = str(label) if alone else ""
        rows.append(partial(Source, str(source), len(of_source), int(of_source["label"].nunique()), only, p=float(p)))
    return with_holm(rows)


def coverage(images: pd.DataFrame) -> tuple[Coverage, ...]:
    """Compare each source's and month's share in training with its share in validation and test.

    `effect` is the absolute difference of the shares, p is Fisher's exact test of the two by two table. Values of
    fewer than `LEAST` images are left out, and so is a column with one value, where nothing can be missing.
    """
    training = (images["split"] == TRAIN).to_numpy()
    unit = images.index.isin(independent(images).index)
    rows = []
    for name, column in (("source", images["source"]), ("month", images["taken"].str[:7])):
        often = column[column != ""].value_counts()
        for value in often[often >= LEAST].index if len(often) > 1 else []:
            here = (column == value).to_numpy()
            table = _crossed(here, training)
            if min(map(sum, table)) > 0:
                inside, outside = (row[0] / sum(row) for row in table)
                p = float(fisher_exact(_crossed(here[unit], training[unit])).pvalue)
                effect = round(abs(inside - outside), 4)
                rows.append(partial(Coverage, name, str(value), int(here.sum()), inside, outside, effect=effect, p=p))
    return with_holm(rows)


def _crossed(here: Bools, training: Bools) -> list[list[int]]:
    """Count the images [n] that are `here` and that are not, in training and elsewhere."""
    return [[int((here & side).sum()), int((~here & side).sum())] for side in (training, ~training)]


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
    half keeps the test exact. Whole groups are held out and permuted: what is constant within a patient predicts the
    label of that patient's other images, and of nobody else's.
    """
    units_with = images.assign(unit=units_of(images)).groupby("label")["unit"].nunique()
    if units_with.min() < LEAST_UNITS or len(units_with) < 2:
        return ()
    images = images.sort_values("id").iloc[generator.permutation(len(images))[:MOST]]
    targets = np.unique(images["label"].astype(str), return_inverse=True)[1]
    unit = np.unique(units_of(images).to_numpy(str), return_inverse=True)[1]
    learnt = _half(targets, unit, generator)
    rows = []
    for name in (*MEASURES, *NAMES):
        values = _column(images[name])
        if len(np.unique(values)) > 1:
            rows.append(_predicts(name, values, targets, unit, learnt, generator))
    return with_holm(rows)


def _half(targets: Ints, unit: Ints, generator: np.random.Generator) -> Bools:
    """Mark the images of every second unit of each class, in random order; a unit's class is its first image's."""
    first = np.sort(np.unique(unit, return_index=True)[1])
    order = np.argsort(targets[first] + generator.random(len(first)))
    return np.isin(unit, unit[first[order[::2]]])


def _column(values: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    if pd.api.types.is_numeric_dtype(values):
        return np.asarray(values, dtype=np.float64)[:, None]
    return np.asarray(pd.get_dummies(values), dtype=np.float64)


def _predicts(
    name: str, values: npt.NDArray[np.float64], targets: Ints, unit: Ints, half: Bools, generator: np.random.Generator
) -> partial[Shortcut]:
    from sklearn.tree import DecisionTreeClassifier

    leaf = max(2, int(half.sum()) // 50)
    tree = DecisionTreeClassifier(max_depth=4, min_samples_leaf=leaf, class_weight="balanced", random_state=0)
    answers = tree.fit(values[half], targets[half]).predict(values[~half])
    truth, classes = targets[~half], int(targets.max()) + 1
    reached = _balanced_accuracy(truth[None], answers, classes)[0]
    by_chance = _balanced_accuracy(_permuted(truth, unit[~half], generator), answers, classes)
    p = (1 + int((by_chance >= reached - 1e-12).sum())) / (1 + PERMUTATIONS)
    chance = 1 / classes
    return partial(Shortcut, name, float(reached), effect=max(0.0, float(reached - chance) / (1 - chance)), p=p)


def _permuted(truth: Ints, unit: Ints, generator: np.random.Generator) -> Ints:
    """Return permutations [PERMUTATIONS, n] of labels that are as likely as `truth` [n] if a measure says nothing.

    Units of one class exchange their labels as wholes; a unit of several classes exchanges those of its images.
    """
    _, first, inverse = np.unique(unit, return_index=True, return_inverse=True)
    pure = np.bincount(inverse, truth != truth[first][inverse]) == 0
    wholes = np.sort(first[pure])
    labels = np.tile(truth, (PERMUTATIONS, 1))
    labels[:, wholes] = generator.permuted(labels[:, wholes], axis=1)
    labels = np.where(pure[inverse], labels[:, first[inverse]], labels)
    for mixed in np.flatnonzero(~pure):
        members = inverse == mixed
        labels[:, members] = generator.permuted(labels[:, members], axis=1)
    return labels


def _balanced_accuracy(truth: Ints, answers: Ints, classes: int) -> Floats:
    """Return the mean recall over the classes that occur in each row of `truth` [m, n], [m]."""
    rows, total = np.arange(len(truth))[:, None] * classes, len(truth) * classes
    hits = np.bincount((rows + truth).ravel(), minlength=total).reshape(-1, classes)
    right = np.bincount((rows + truth)[truth == answers], minlength=total).reshape(-1, classes)
    return np.asarray((right / np.maximum(hits, 1)).sum(axis=1) / (hits > 0).sum(axis=1))
