"""Domain shift: two sets of images that a classifier can separate do not come from the same distribution.

The classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv 1610.06545) on frozen features, and a simple
test of each measure of the manifest, corrected by Holm's method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logit
from scipy.stats import PermutationMethod, chi2_contingency, ks_2samp, mannwhitneyu
from scipy.stats.contingency import association
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from steps.checks.label_errors import C, out_of_fold
from steps.checks.reports import Covariate, SplitShift
from steps.checks.selection import PERMUTATIONS, with_holm
from steps.images.manifest import TEST, TRAIN, VAL, independent
from steps.runtime.arrays import Bools, Floats, Ints
from steps.runtime.figure import Figure
from steps.training.linear_probe import Labelled, held_out
from steps.training.transferability import folds_of

Scores = npt.NDArray[np.float64]
CONFIDENCE = 0.95
DIRECTIONS = 64  # principal components; with all of them, a classifier would need many more images to learn as much
LEAST = 10  # images per side
MEASURES = ("width", "height", "brightness", "contrast", "sharpness")
NAMES = ("format", "source")
TAKEN, LABEL = "taken", "label"
MOST = 5000  # images per split: more would give the same result in more time
KINDS = {  # measure -> what a shift of it usually is
    LABEL: "another mix of classes",
    "brightness": "another exposure",
    "contrast": "another kind of picture",
    "sharpness": "another kind of picture",
    "width": "another size of file",
    "height": "another size of file",
    "format": "another file format",
    "source": "another source",
    TAKEN: "another time",
}
NO_MEASURE = "another look, which no simple measure shows"


@dataclass(frozen=True)
class TwoSample:
    """How separable the sides are: AUC with its interval, the p-value of no difference, and each image's score.

    `odds` [n + m] are log-odds of belonging to the second side, by a classifier that has not seen the image.
    """

    auc: Figure
    p: float
    odds: Scores


def two_sample(first: Floats, second: Floats, seed: int, groups: Ints | None = None) -> TwoSample:
    """Separate features [n, d] from features [m, d] by a classifier; each side needs `LEAST` rows.

    AUC and odds are cross-validated. p is that of one classifier, fitted on one half and applied to the other: scores
    of unseen images can be permuted exactly, which is the Mann-Whitney test. Images of one of the `groups` [n] of the
    first side are held out together, and the first of each stands for it in AUC and p: siblings show nothing new.
    """
    own = np.arange(len(first)) if groups is None else np.unique(groups, return_inverse=True)[1]
    unit = np.concatenate([own, len(first) + np.arange(len(second))])
    both = np.concatenate([first, second])
    alone = np.isin(np.arange(len(unit)), np.unique(unit, return_index=True)[1])
    principal = _principal(both, alone)
    side = np.repeat([0, 1], [len(first), len(second)])
    data = Labelled(principal, side, np.ones(len(side)))
    odds = logit(np.clip(out_of_fold(data, 2, seed, unit)[0][:, 1], 1e-9, 1 - 1e-9))
    return TwoSample(auc(odds[alone & (side == 0)], odds[side == 1]), _chance(data, unit, alone, seed), odds)


def _principal(both: Floats, alone: Bools) -> Floats:
    """Return the principal components of rows [n, d], found from the rows `alone`: siblings would choose them."""
    model = PCA(min(DIRECTIONS, int(alone.sum()), both.shape[1]), random_state=0)
    rows = np.empty((len(both), model.n_components), dtype=both.dtype)
    rows[alone] = model.fit_transform(both[alone])
    if not alone.all():
        rows[~alone] = model.transform(both[~alone])
    return rows


@dataclass(frozen=True)
class Importance:
    """Weights [n] of mean 1 that make one sample stand for another.

    `effective` is the effective size of the weighted sample; `covered` the share of the second sample that it covers.
    """

    weights: Scores
    effective: float
    covered: float


def importance(first: Scores, second: Scores, most: float) -> Importance:
    """Weight the first sample's images by how much more often their kind occurs in the second.

    `first` [n] and `second` [m] are scores of belonging to the second sample, by a classifier that has not seen the
    image. A logistic curve turns them into odds (Platt 1999: the classifier itself is shrunk on purpose), and odds
    times n / m estimate the ratio of the densities (Sugiyama et al. 2012, ch. 4). Ratios are clipped to
    1/most..most, which bounds the weight of a single image. `effective` is Kish's sample size,
    (sum w)^2 / sum w^2. The mean ratio is 1 if the first sample holds every kind that the second shows, and less
    otherwise: no weights make up for missing images.
    """
    scores = np.concatenate([first, second])
    scaled = ((scores - scores.mean()) / max(float(scores.std()), 1e-12))[:, None]
    side = np.repeat([0, 1], [len(first), len(second)])
    odds = LogisticRegression(C=1e3, max_iter=1000).fit(scaled, side).decision_function(scaled[: len(first)])
    ratios = np.exp(np.clip(odds + np.log(len(first) / len(second)), -np.log(most), np.log(most)))
    weights = ratios / ratios.mean()
    return Importance(weights, float(weights.sum() ** 2 / (weights**2).sum()), min(1.0, float(ratios.mean())))


def auc(first: Scores, second: Scores) -> Figure:
    """Return the probability that a score of the second side exceeds one of the first; DeLong's interval (1988).

    There is no interval if all scores of one side exceed the other's: the estimate of its width would be 0.
    """
    from statsmodels.stats.nonparametric import rank_compare_2indep

    with np.errstate(divide="ignore", invalid="ignore"):  # from its test, if nothing varies
        comparison = rank_compare_2indep(second, first, use_t=False)
    if not comparison.var_prob > 0:
        return Figure(float(comparison.prob1), None, None, "DeLong")
    low, high = comparison.conf_int(alpha=1 - CONFIDENCE)
    return Figure(float(comparison.prob1), max(0.0, float(low)), min(1.0, float(high)), "DeLong")


def _chance(data: Labelled, unit: Ints, alone: Bools, seed: int) -> float:
    """Return the p-value of the separation of a held-out half if there were no difference; 1 if a half lacks a side."""
    learnt, asked = folds_of(data.targets, unit, 2, seed)[0]
    asked = asked[alone[asked]]
    answers, side = held_out(data, learnt, asked, 2, [C])[0][:, 1], data.targets[asked]
    if min(len(set(data.targets[learnt])), len(set(side))) < 2:
        return 1.0
    return float(mannwhitneyu(answers[side == 1], answers[side == 0], alternative="greater").pvalue)


def between_splits(
    images: pd.DataFrame, features: Floats, max_auc: float, seed: int, generator: np.random.Generator
) -> tuple[SplitShift, ...]:
    """Compare validation and test images with training images; p is corrected over the two by Holm's method.

    `images` are rows of the manifest with their `features` [n, d]. One image per group is compared, because images of
    one group are alike whatever split they are in; a split with fewer than `LEAST` is left out.
    """
    compared = {split: independent(images[images["split"] == split]).head(MOST) for split in (TRAIN, VAL, TEST)}
    training, tests = compared.pop(TRAIN), []
    for split, of_split in compared.items():
        if min(len(training), len(of_split)) >= LEAST:
            first, second = (features[images.index.get_indexer(part.index)] for part in (training, of_split))
            test = two_sample(first, second, seed)
            tests.append(partial(SplitShift, split, len(of_split), test.auc, p=test.p, measures=(), kind=""))
    return tuple(
        _explained(row, covariates(training, compared[row.split], generator, (*NAMES, LABEL)))
        if row.significant and row.auc.known > max_auc
        else row
        for row in with_holm(tests)
    )


def _explained(row: SplitShift, measures: tuple[Covariate, ...]) -> SplitShift:
    moved = sorted((measure for measure in measures if measure.significant), key=lambda measure: -measure.effect)
    kinds = dict.fromkeys(KINDS[measure.measure] for measure in moved if measure.effect > moved[0].effect / 2)
    return replace(row, measures=measures, kind=" or ".join(kinds) or NO_MEASURE)


def covariates(
    first: pd.DataFrame, second: pd.DataFrame, generator: np.random.Generator, names: Sequence[str] = NAMES
) -> tuple[Covariate, ...]:
    """Test each measure (column of the manifest) that both tables give for at least `LEAST` images.

    Numbers and dates: the Kolmogorov-Smirnov test (effect: its D); names: chi-square against permutations (effect:
    Cramer's V).
    """
    rows = []
    for name in (*MEASURES, TAKEN, *names):
        first_values, second_values = (table[name][table[name] != ""] for table in (first, second))
        if min(len(first_values), len(second_values)) >= LEAST:
            rows.append(
                _names(name, first_values, second_values, generator)
                if name in names
                else _numbers(name, first_values, second_values)
            )
    return with_holm(rows)


def _numbers(name: str, first: "pd.Series[Any]", second: "pd.Series[Any]") -> partial[Covariate]:
    is_date, kind = name == TAKEN, "int64" if name == TAKEN else "float64"
    sides = (pd.to_datetime(side, format="ISO8601") if is_date else side for side in (first, second))
    test = ks_2samp(*(side.astype(kind) for side in sides))
    middle, other_middle = (sorted(side.tolist())[len(side) // 2] for side in (first, second))
    effect, p = float(test.statistic), float(test.pvalue)
    return partial(Covariate, name, "Kolmogorov-Smirnov", effect, p=p, first=middle, second=other_middle)


def _names(
    name: str, first: "pd.Series[Any]", second: "pd.Series[Any]", generator: np.random.Generator
) -> partial[Covariate]:
    both = pd.concat([first, second], ignore_index=True)
    table = pd.crosstab(np.repeat([0, 1], [len(first), len(second)]), both).to_numpy()
    effect, p = 0.0, 1.0
    if table.shape[1] > 1:
        method = PermutationMethod(n_resamples=PERMUTATIONS, rng=generator)  # expected counts of rare names are small
        p = float(chi2_contingency(table, correction=False, method=method).pvalue)
        effect = float(association(table, method="cramer"))
    commonest, other_commonest = (str(side.mode()[0]) for side in (first, second))
    return partial(Covariate, name, "chi-square", effect, p=p, first=commonest, second=other_commonest)
