"""Comparison of two models on the same images: the difference, its certainty, and the images needed to decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Interval
from scipy.stats import binomtest, norm

from steps.evaluation.calibration import losses, stated
from steps.evaluation.intervals import Sample, design_effect, smoothed
from steps.evaluation.results import (
    HELPS,
    HURTS,
    AnswerComparison,
    BaselineComparison,
    ClassComparison,
    Comparison,
    TransferVerdict,
)
from steps.evaluation.superiority import sign_flips
from steps.runtime.arrays import Bools, Floats, Ints
from steps.runtime.figure import Figure

Confidence = Annotated[float, Interval(ge=0.5, le=0.999)]
ROUNDING = 1e-9  # weights of images that cancel leave less
BETTER, WORSE, NO_EVIDENCE = "better", "worse", "no evidence"


@dataclass(frozen=True)
class VerdictRules:
    """How sure a verdict has to be: confidence of intervals, power to detect a difference, bootstrap draws."""

    confidence: Confidence
    power: Annotated[float, Interval(ge=0.5, le=0.999)]
    bootstrap_draws: Annotated[int, Interval(ge=100, le=1_000_000)]


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: images that one model alone got right (McNemar 1947)."""
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def sign_test(gain: Floats, weights: Floats) -> float:
    """Return the two-sided p-value of a weighted sum of the images' gains [n] (-1, 0, 1): each sign is a fair coin.

    McNemar's exact test if all weights [n] are alike; otherwise its exact form for unequal steps (`sign_flips`).
    """
    if np.ptp(weights) == 0:
        return mcnemar(int((gain > 0).sum()), int((gain < 0).sum()))
    return min(1.0, 2 * min(sign_flips(gain * weights), sign_flips(-gain * weights)))


def _design(gain: Floats, weights: Floats, sample: Sample) -> float:
    """Return the factor by which clusters and unequal weights of images [n] inflate the variance of a mean gain."""
    total = float((weights * np.abs(gain)).sum())
    unequal = float((weights**2 * np.abs(gain)).sum()) / total if total else 1.0
    return unequal * design_effect(gain * weights, sample.cluster)


def needed(only_a: float, only_b: float, n: int, rules: VerdictRules, design: float = 1.0) -> int | None:
    """Return how many images would show this difference with the rules' power; None if there is no difference.

    Connor 1987, Biometrics 43:207: from the shares of images on which the two models differ, times the design effect
    of groups, because more images will come in groups like these.
    """
    differing, difference = (only_a + only_b) / n, abs(only_a - only_b) / n
    if difference < ROUNDING:
        return None
    sure, seen = norm.ppf(0.5 + rules.confidence / 2), norm.ppf(rules.power)
    z = sure * np.sqrt(differing) + seen * np.sqrt(differing - difference**2)
    return int(np.ceil(design * (z / difference) ** 2))


def compare(
    names: tuple[str, str],
    targets: Ints,
    a: Floats,
    b: Floats,
    sample: Sample,
    rules: VerdictRules,
    generator: np.random.Generator,
    answered: tuple[Ints, Ints] | None = None,
) -> Comparison:
    """Compare model a with model b by their probabilities [n, classes] on the same images.

    `answered` holds the answers [n] of each; the likeliest classes if it is not given.
    """
    right_a, right_b = (
        stated(p, targets, of_model)[1] for p, of_model in zip((a, b), answered or (None, None), strict=True)
    )
    change = losses(a, targets)[:, 0] - losses(b, targets)[:, 0]
    unit = float(np.abs(change).mean())
    return Comparison(
        a=names[0],
        b=names[1],
        **vars(compare_answers(targets, right_a, right_b, sample, rules, generator)),
        log_loss=smoothed(change, sample, rules.confidence, rules.bootstrap_draws, generator, unit),
    )


def compare_answers(
    targets: Ints, a: Bools, b: Bools, sample: Sample, rules: VerdictRules, generator: np.random.Generator
) -> AnswerComparison:
    """Compare two models by their correctness on each image [n]; differences are a minus b.

    *Better* requires both: an interval of the difference in accuracy above zero, and McNemar's exact test. The
    interval accounts for groups of images, the test does not, so neither is enough alone.
    """
    only_a, only_b, gain = int((a & ~b).sum()), int((b & ~a).sum()), a.astype(float) - b
    difference = _difference(gain, sample, rules, generator)
    p = mcnemar(only_a, only_b)
    wanted = needed(only_a, only_b, len(a), rules, design_effect(gain, sample.cluster))
    verdict, (low, high) = verdict_of(difference, p, rules.confidence), difference.ends
    return AnswerComparison(
        n=len(targets),
        confidence=rules.confidence,
        difference=difference.known,
        low=low,
        high=high,
        method=difference.method,
        only_a=only_a,
        only_b=only_b,
        mcnemar_p=p,
        verdict=verdict,
        needed_n=wanted if verdict == NO_EVIDENCE else None,
        sentence=sentence(verdict, difference, wanted, len(a)),
        balanced_accuracy=balanced_difference(
            gain, targets, sample, rules.confidence, rules.bootstrap_draws, generator
        ),
    )


def balanced_difference(
    gain: Floats, targets: Ints, sample: Sample, confidence: float, draws: int, rng: np.random.Generator
) -> Figure:
    """Return the mean over the classes of the images' gains in correctness [n], with its interval."""
    weights = _per_class(targets)
    return _bounded(smoothed(gain * weights, sample, confidence, draws, rng, float(weights.max())))


def _difference(gain: Floats, sample: Sample, rules: VerdictRules, generator: np.random.Generator) -> Figure:
    return _bounded(smoothed(gain, sample, rules.confidence, rules.bootstrap_draws, generator))


def _bounded(difference: Figure) -> Figure:
    """Clip the interval of a difference of shares to -1 and 1."""
    low, high = difference.ends
    return replace(difference, low=max(-1.0, low), high=min(1.0, high))


def verdict_of(difference: Figure, p: float, confidence: float) -> str:
    """Return better, worse or no evidence: the interval and the exact test have to agree."""
    if p < 1 - confidence and difference.above(0):
        return BETTER
    return WORSE if p < 1 - confidence and difference.below(0) else NO_EVIDENCE


def sentence(
    verdict: str, difference: Figure, wanted: int | None, n: int, names: Sequence[str] = (), draws: int = 1
) -> str:
    """Return a verdict in words; `names` replace *better* and *worse*."""
    better, worse = names or (BETTER, WORSE)
    low, high = (100 * end for end in difference.ends)
    if verdict == BETTER:
        return f"{better} by {low:.1f} to {high:.1f} points"
    if verdict == WORSE:
        return f"{worse} by {-high:.1f} to {-low:.1f} points"
    if wanted is None:
        return f"no evidence yet (no difference was seen{' in one of the draws' if draws > 1 else ''})"
    if wanted <= n:
        return "no evidence yet (these images disagree too much among themselves)"
    return f"no evidence yet (needs about {wanted - n:,} more test images)"


def _per_class(targets: Ints) -> Floats:
    """Return the weight of each image that makes a mean over images a mean over classes."""
    counts = np.bincount(targets)
    return np.asarray(len(targets) / ((counts > 0).sum() * counts[targets]))


def transfer(
    targets: Ints,
    model: Floats,
    baselines: Mapping[str, Sequence[Ints]],
    sample: Sample,
    rules: VerdictRules,
    rng: np.random.Generator,
) -> TransferVerdict:
    """Return whether transfer helped: the model against each baseline, averaged over the baseline's draws.

    `baselines` maps majority, pixels, scratch to class indices [n], one array per draw. The verdict is on balanced
    accuracy, for which all of them are fitted, against scratch, or against the strongest of the others if scratch was
    left out. An image's difference is the mean over the draws; the test and the number of images still needed apply
    to one draw only, and take the least favourable one.
    """
    right = model.argmax(axis=1) == targets
    rows = tuple(
        _against(name, right, [answers == targets for answers in draws], targets, sample, rules, rng)
        for name, draws in baselines.items()
    )
    if not rows:
        nothing = "not asked: no baseline was trained"
        return TransferVerdict(verdict=None, sentence=nothing, against=None, baselines=())
    decisive = next((row for row in rows if row.against == "scratch"), max(rows, key=lambda row: -row.difference))
    words = {BETTER: HELPS, WORSE: HURTS, NO_EVIDENCE: NO_EVIDENCE}
    return TransferVerdict(
        verdict=words[decisive.verdict], sentence=decisive.sentence, against=decisive.against, baselines=rows
    )


def _against(
    name: str,
    right: Bools,
    draws: list[Bools],
    targets: Ints,
    sample: Sample,
    rules: VerdictRules,
    generator: np.random.Generator,
) -> BaselineComparison:
    mean, weights = np.mean(draws, axis=0), _per_class(targets)
    difference = balanced_difference(right - mean, targets, sample, rules.confidence, rules.bootstrap_draws, generator)
    tables = [(float(weights[right & ~baseline].sum()), float(weights[baseline & ~right].sum())) for baseline in draws]
    p = max(sign_test(right.astype(float) - baseline, weights) for baseline in draws)
    sign, design = np.sign(round(difference.known, 12)), _design(right - mean, weights, sample)
    asked = [needed(*table, len(right), rules, design) for table in tables if sign * (table[0] - table[1]) > ROUNDING]
    wanted = max(filter(None, asked)) if len(asked) == len(tables) else None  # a verdict needs every draw
    verdict, (low, high) = verdict_of(difference, p, rules.confidence), difference.ends
    return BaselineComparison(
        against=name,
        draws=len(draws),
        accuracy=float(mean.mean()),
        difference=difference.known,
        low=low,
        high=high,
        method=difference.method,
        mcnemar_p=p,
        verdict=verdict,
        needed_n=wanted if verdict == NO_EVIDENCE else None,
        sentence=sentence(verdict, difference, wanted, len(right), (HELPS, HURTS), len(draws)),
    )


def per_class(targets: Ints, a: Bools, b: Bools, classes: Sequence[str]) -> list[ClassComparison]:
    """Return for each class that occurs how many images each model alone got right, and McNemar's p (not adjusted)."""
    rows = []
    for i, label in enumerate(classes):
        mine = targets == i
        only_a, only_b = int((a & ~b & mine).sum()), int((b & ~a & mine).sum())
        if mine.any():
            rows.append(
                ClassComparison(
                    label,
                    n=int(mine.sum()),
                    recall_a=float(a[mine].mean()),
                    recall_b=float(b[mine].mean()),
                    only_a=only_a,
                    only_b=only_b,
                    mcnemar_p=mcnemar(only_a, only_b),
                )
            )
    return rows
