"""Intervals: how far a figure on this many images may be from the truth. `steps.embedded.coverage` puts them to test.

Which method for which figure is decided by coverage at p = 0.98 and n = 153, where the usual percentile bootstrap of
a share covers 81 % and of a log-loss 85 % when 95 % is claimed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

from steps.core.metrics import proportion

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Figure = dict[str, Any]  # value, low, high, method; an end that is not known is None

WILSON, MOVER, STUDENTISED, SMOOTHED = "Wilson", "MOVER", "bootstrap-t", "smoothed bootstrap"
CELLS = 20_000_000  # of a matrix of draws in memory at a time
LEAST_TOLD, TINY = 0.5, np.finfo(np.float64).tiny  # images that a class counts for at least, however few it has


def figure(value: float | None, low: float | None, high: float | None, method: str) -> Figure:
    """Put a figure into the form that evaluation.json has."""
    return {"value": value, "low": low, "high": high, "method": method}


def share(right: Bools, cluster: Ints, confidence: float) -> Figure:
    """Return the share of images [n] that are right; where clusters err together, as if there were fewer of them.

    Wilson's interval at the effective number of images (Korn and Graubard 1998, Survey Methodology 24:193).
    """
    from statsmodels.stats.proportion import proportion_confint

    n, value = len(right), float(right.mean())
    effective = effective_images(right, cluster, confidence)
    if effective == n:
        return proportion(int(right.sum()), n, confidence)
    low, high = proportion_confint(value * effective, effective, 1 - confidence, "wilson")
    return figure(value, float(low), float(high), f"{WILSON}, as of {effective:.0f} images")


def effective_images(right: Bools, cluster: Ints, confidence: float) -> float:
    """Return how many independent images tell as much as these: their number over the design effect of clusters."""
    n, clusters, value = len(right), len(np.unique(cluster)), float(right.mean())
    if n == clusters:
        return n
    if clusters == 1:
        return 1.0  # one patient, however often photographed
    plain = value * (1 - value) / n
    if not plain:
        return float(clusters)
    return _told(right, cluster, clustered_variance((right - value) / n, cluster) / plain, confidence)


def _told(right: Bools, cluster: Ints, design: float, confidence: float) -> float:
    """Return the images over their design effect, and fewer where few clusters showed it.

    The quotient of t quantiles is Korn and Graubard's price for a spread that is unsure. Their degrees of freedom
    are the clusters; where one answer in fifty is wrong, no more is known than the clusters with a wrong answer tell.
    At worst a cluster tells as much as one image.
    """
    rarer = ~right if right.mean() > 0.5 else right
    known, told = len(np.unique(cluster[rarer])), len(right) / max(1.0, design)
    return max(min(told, len(np.unique(cluster))), told / _unsure(len(right), known, confidence))


def clustered_variance(influence: Floats, cluster: Ints) -> float:
    """Return the variance of a sum of influences [n], 0 in all, where clusters are drawn as one."""
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], influence)
    return float((sums**2).sum()) * len(sums) / max(len(sums) - 1, 1)


def _unsure(n: int, clusters: int, confidence: float) -> float:
    """Return by how much a variance counts for more because so few clusters showed it, and not n images."""
    at = 0.5 + confidence / 2
    return float((t.ppf(at, max(clusters - 1, 1)) / t.ppf(at, max(n - 1, 1))) ** 2)


def design_effect(values: Floats, cluster: Ints) -> float:
    """Return by how much clusters stretch the variance of the mean of values [n]; at least 1 (Kish 1965)."""
    influence = (values - values.mean()) / len(values)
    plain = clustered_variance(influence, np.arange(len(values)))
    return max(1.0, clustered_variance(influence, cluster) / plain) if plain else 1.0


def _within(values: Floats, targets: Ints) -> Floats:
    """Return values [n] less the mean of their class."""
    counts = np.maximum(np.bincount(targets), 1)
    return np.asarray(values - (np.bincount(targets, values) / counts)[targets])


def mean_of_shares(right: Bools, targets: Ints, cluster: Ints, confidence: float) -> Figure:
    """Return the mean over the classes of the share of their images that are right: balanced accuracy.

    MOVER: each share's distance to its limit, added in squares (Zou and Donner 2008, Stat. Med. 27:1693), with the
    limits of Clopper and Pearson, because Wilson's fall to 92 % here (p = 0.98, 76 images a class). MOVER takes the
    classes for independent; clusters that hold several of them stretch the distances by what they share.
    """
    from statsmodels.stats.proportion import proportion_confint

    rows = []
    for label in np.unique(targets):
        mine = targets == label
        value, n = float(right[mine].mean()), effective_images(right[mine], cluster[mine], confidence)
        low, high = proportion_confint(value * n, n, 1 - confidence, "beta")
        rows.append((value, value - float(low), float(high) - value))
    mean, down, up = np.mean([row[0] for row in rows]), *(np.hypot.reduce([row[i] for row in rows]) for i in (1, 2))
    stretch = _shared(right, targets, cluster) ** 0.5 / len(rows)
    low, high = float(mean - down * stretch), float(mean + up * stretch)
    return figure(float(mean), max(0.0, low), min(1.0, high), MOVER)


def _shared(right: Bools, targets: Ints, cluster: Ints) -> float:
    """Return the variance of balanced accuracy over what it would be if no cluster held two classes; at least 1."""
    influence = _within(right.astype(np.float64), targets) / np.bincount(targets)[targets]
    alone = sum(
        clustered_variance(influence[targets == label], cluster[targets == label]) for label in np.unique(targets)
    )
    return max(1.0, clustered_variance(influence, cluster) / alone) if alone else 1.0


@dataclass(frozen=True)
class Sample:
    """How images hang together: `cluster` [n] is drawn as one; each of `strata` holds clusters and keeps its size."""

    cluster: Ints
    strata: tuple[Ints, ...]

    @property
    def clusters(self) -> int:
        """Return how many clusters there are."""
        return int(self.cluster.max()) + 1


def sampled(targets: Ints, groups: Ints | None = None) -> Sample:
    """Return how to resample images of these classes [n] and groups [n]: within classes wherever that can be.

    Images of one group are drawn together, because they err together. A group of several classes, or a class of one
    cluster, leaves a single stratum.
    """
    cluster = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    pairs = np.unique(np.stack([cluster, targets]), axis=1)
    classes, sizes = np.unique(pairs[1], return_counts=True)
    pure = pairs.shape[1] == cluster.max() + 1
    if not pure or sizes.min() < 2:
        return Sample(cluster, (np.unique(cluster),))
    return Sample(cluster, tuple(pairs[0, pairs[1] == label] for label in classes))


def studentised(
    values: Floats, sample: Sample, confidence: float, draws: int, generator: np.random.Generator
) -> list[Figure]:
    """Return the mean of each column of per-image losses [n, m] (0 or more) with its bootstrap-t interval.

    Each draw is measured in its own standard error, which lets the interval reach further where the tail is long
    (Efron and Tibshirani 1993, ch. 12.5; with clusters, linearised: Davison and Hinkley 1997, ch. 3.8). Losses that
    are all alike, or a single cluster, give no interval.
    """
    means = values.mean(axis=0)
    parts = _summed((values - means) / len(values), sample)
    centred = [parts[stratum] - parts[stratum].mean(axis=0) for stratum in sample.strata]
    grown = [len(part) / max(len(part) - 1, 1) for part in centred]
    error = np.sqrt(sum(g * (part**2).sum(axis=0) for g, part in zip(grown, centred, strict=True)))

    shift, variance = np.zeros((draws, values.shape[1])), np.zeros((draws, values.shape[1]))
    for part, grow in zip(centred, grown, strict=True):
        for rows, weights in _drawn(len(part), draws, generator):
            moved = weights @ part
            shift[rows] += moved
            variance[rows] += grow * (weights @ part**2 - moved**2 / len(part))
    found = []
    for i, value in enumerate(means):
        if np.ptp(values[:, i]) == 0 or sample.clusters < 2:
            found.append(figure(float(value), None, None, STUDENTISED))
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            measured = shift[:, i] / np.sqrt(np.maximum(variance[:, i], 0))
        measured[np.isnan(measured)] = 0.0
        low, high = np.quantile(measured, [0.5 + confidence / 2, 0.5 - confidence / 2], method="nearest")
        ends = [float(end) if np.isfinite(end) else None for end in (value - low * error[i], value - high * error[i])]
        found.append(figure(float(value), None if ends[0] is None else max(0.0, ends[0]), ends[1], STUDENTISED))
    return found


def smoothed(
    differences: Floats, sample: Sample, confidence: float, draws: int, generator: np.random.Generator, unit: float = 1
) -> Figure:
    """Return the mean of per-image differences [n] with its percentile bootstrap interval, two pseudo-images added.

    One of +`unit`, one of -`unit`: without them, four images that all speak for one side reject at 5 % what McNemar's
    test gives p = 0.125. The bootstrap's form of Bonett and Price 2012, J. Educ. Behav. Stat. 37:479.
    """
    shift = resampled_sums(differences[:, None] / len(differences), sample, draws, generator)[:, 0]
    shift += unit / sample.clusters * (generator.poisson(1, draws) - generator.poisson(1, draws))
    low, high = np.quantile(shift, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return figure(float(differences.mean()), float(low), float(high), SMOOTHED)


def resampled_sums(values: Floats, sample: Sample, draws: int, generator: np.random.Generator) -> Floats:
    """Return the sums of per-image values [n, m] in each of the draws, [draws, m]."""
    parts, total = _summed(values, sample), np.zeros((draws, values.shape[1]))
    for stratum in sample.strata:
        for rows, weights in _drawn(len(stratum), draws, generator):
            total[rows] += weights @ parts[stratum]
    return total


def _summed(values: Floats, sample: Sample) -> Floats:
    """Sum rows [n, m] over clusters."""
    if sample.clusters == len(values):
        return values[np.argsort(sample.cluster)]
    total = np.zeros((sample.clusters, values.shape[1]))
    np.add.at(total, sample.cluster, values)
    return total


def _drawn(size: int, draws: int, generator: np.random.Generator) -> Iterator[tuple[slice, Floats]]:
    """Yield how often each of `size` things was drawn, [some draws, size], for all draws in turn."""
    step = max(1, CELLS // size)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picked = generator.integers(0, size, (rows, size)) + np.arange(rows)[:, None] * size
        counts = np.bincount(picked.ravel(), minlength=rows * size).reshape(rows, size)
        yield slice(start, start + rows), counts.astype(np.float64)


def area(targets: Ints, probabilities: Floats, cluster: Ints, confidence: float) -> Figure:
    """Return the macro one-against-rest area under the ROC curve of [n, classes], with its interval.

    DeLong's placement values, summed per image over the classes that occur, give one standard error for their mean;
    the interval is made on the log-odds scale, so that it stays inside of 0 and 1 (DeLong et al. 1988, Biometrics
    44:837; Qin and Hotilovac 2008, Stat. Methods Med. Res. 17:207). Images of one cluster are summed first (Obuchowski
    1997, Biometrics 53:567). None where only one class occurs.
    """
    n, present = len(targets), np.unique(targets)
    if len(present) < 2:
        return figure(None, None, None, "DeLong")
    influence = np.zeros(n)
    areas = []
    for label in present:
        mine = targets == label
        placed = _placements(probabilities[:, label], mine)
        areas.append(float(placed[mine].mean()))
        influence += np.where(mine, placed / mine.sum(), placed / (~mine).sum()) / len(present)
    value, variance = float(np.mean(areas)), _variance(influence, targets, cluster, confidence)
    least = min(len(np.unique(cluster[targets == label])) for label in present)
    if value >= 1 or variance <= 0:  # nothing to measure a spread by: as if the smallest class had been all of it
        return {**proportion(round(value * least), least, confidence), "value": value}
    odds, half = np.log(value / (1 - value)), norm.ppf(0.5 + confidence / 2) * np.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + np.exp(-end)) for end in (odds - half, odds + half))
    return figure(value, float(low), float(high), "DeLong")


def _variance(influence: Floats, targets: Ints, cluster: Ints, confidence: float) -> float:
    """Return the variance of a sum of influences [n] whose classes keep their sizes."""
    n, clusters = len(targets), len(np.unique(cluster))
    if clusters < n:
        return clustered_variance(_within(influence, targets), cluster) * _unsure(n, clusters, confidence)
    parts = [influence[targets == label] for label in np.unique(targets)]
    return sum(len(part) * float(part.var(ddof=1)) if len(part) > 1 else float(part[0] ** 2) for part in parts)


def _placements(score: Floats, mine: Bools) -> Floats:
    """Return for each image which share of the other side it is on the right side of; ties count a half."""
    from scipy.stats import rankdata

    overall, placed = rankdata(score), np.empty(len(score))
    placed[mine] = (overall[mine] - rankdata(score[mine])) / (~mine).sum()
    placed[~mine] = 1 - (overall[~mine] - rankdata(score[~mine])) / mine.sum()
    return placed


def macro_f1(
    targets: Ints,
    predicted: Ints,
    classes: int,
    cluster: Ints,
    confidence: float,
    draws: int,
    luck: np.random.Generator,
) -> Figure:
    """Return the mean F1 over the classes that occur, with its interval.

    The shares of each row of the confusion matrix are drawn from their posterior, the class sizes kept; the prior is
    one wrong answer in all, spread over the matrix, which for two classes is Jeffreys' (Goutte and Gaussier 2005, ECIR,
    "A probabilistic interpretation of precision, recall and F-score"). A posterior of n images has the variance of
    n + 1, where an unbiased one has that of n - 1: with five images a class it would cover 88 %. So each row counts two
    images less, and where clusters err together, as many less again as the design effect of F1 says. F1 bends: what was
    seen lies about as far below the truth as the draws lie below what was seen, so the interval moves up by twice that.
    """
    matrix = np.bincount(classes * targets + predicted, minlength=classes**2).reshape(classes, classes)
    sizes, present = matrix.sum(axis=1), matrix.sum(axis=1) > 0
    value = float(_f1(matrix[None].astype(np.float64), present)[0])
    told = sizes * _told_by_f1(targets, predicted, matrix, cluster, confidence)
    weight = np.maximum(told - 2, LEAST_TOLD) / np.maximum(sizes, 1)
    shape = ((matrix + 1 / (classes * max(classes - 1, 1))) * weight[:, None])[present]
    found = []
    step = max(1, CELLS // classes**2)
    for start in range(0, draws, step):
        drawn = luck.standard_gamma(np.broadcast_to(shape, (min(step, draws - start), *shape.shape)))
        whole = np.zeros((len(drawn), classes, classes))
        whole[:, present] = drawn / np.maximum(drawn.sum(axis=2, keepdims=True), TINY) * sizes[present][:, None]
        found.append(_f1(whole, present))
    expected = np.zeros((1, classes, classes))
    expected[0, present] = shape / shape.sum(axis=1, keepdims=True) * sizes[present][:, None]
    shown = np.concatenate(found)
    bent = float(shown.mean() - _f1(expected, present)[0])
    low, high = np.quantile(shown, [0.5 - confidence / 2, 0.5 + confidence / 2]) - 2 * bent
    return figure(value, max(0.0, min(value, float(low))), min(1.0, max(value, float(high))), "posterior")


def _told_by_f1(targets: Ints, predicted: Ints, matrix: Ints, cluster: Ints, confidence: float) -> float:
    """Return which share of the images tells as much of macro-F1, to first order, as all of them do in clusters."""
    n, clusters = len(targets), len(np.unique(cluster))
    if clusters == n:
        return 1.0
    both = np.maximum(matrix.sum(axis=0) + matrix.sum(axis=1), 1)
    f1 = 2 * np.diagonal(matrix) / both
    influence = _within(2 * (targets == predicted) / both[targets] - (f1 / both)[predicted], targets)
    plain = clustered_variance(influence, np.arange(n))
    design = clustered_variance(influence, cluster) / plain if plain else n / clusters
    return _told(targets == predicted, cluster, design, confidence) / n


def _f1(matrices: Floats, present: Bools) -> Floats:
    """Return the mean F1 of [draws, classes, classes] over the classes that are present."""
    right = np.diagonal(matrices, axis1=1, axis2=2)
    f1 = 2 * right / np.maximum(matrices.sum(axis=1) + matrices.sum(axis=2), 1e-12)
    return np.asarray(f1[:, present].mean(axis=1))
