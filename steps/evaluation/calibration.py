"""Calibration: one temperature for the probabilities, and a threshold below which the model abstains."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from steps.evaluation.intervals import Sample, mean_of_losses, share, share_of, smoothed
from steps.evaluation.results import Calibration, CalibrationChange, CalibrationReport, CoverageRisk, ReliabilityBin
from steps.runtime.arrays import Floats, Ints
from steps.runtime.figure import Figure

TRIANGLE = "triangle bound"
MOST = (-float(np.log(np.finfo(np.float64).tiny)), 2.0)  # the largest log-loss and Brier score of an image
POINTS = 20  # of the coverage-risk curve, at most


def tempered(logits: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Map logits [n, classes] to probabilities: softmax(logits / temperature)."""
    return np.asarray(softmax(logits.astype(np.float64) / temperature, axis=1))


def fit_temperature(logits: Floats, targets: Ints, spread: float) -> float:
    """Return the temperature with the least log-loss on images that the model was not trained on (validation).

    Guo et al. 2017 (arXiv 1706.04599). A log-normal prior around 1 with `spread` keeps a few dozen images, all
    answered correctly, from driving the temperature to zero and the probabilities to certainty.
    """

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        nats = -scaled[np.arange(len(targets)), targets].sum()
        return float(nats + 0.5 * (log_temperature / spread) ** 2)

    optimum = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(optimum.x))


@dataclass(frozen=True)
class Bins:
    """Images sorted into bins of equal number by their confidence: `index` [n] is the bin of each."""

    index: Ints
    count: int


def binned(confidence: Floats, bins: int) -> Bins:
    """Sort images into at most `bins` bins of equal number by confidence; at least ten images per bin."""
    count = max(1, min(bins, len(confidence) // 10))
    index = np.empty(len(confidence), dtype=np.int64)
    for number, members in enumerate(np.array_split(np.argsort(confidence, kind="stable"), count)):
        index[members] = number
    return Bins(index, count)


def calibration_error(probabilities: Floats, targets: Ints, bins: int, sample: Sample, confidence: float) -> Figure:
    """Return the expected calibration error over bins of equal number, with an interval that covers the truth.

    The plain estimate is above zero even for perfect probabilities, and a bootstrap of it is worse; but it is never
    further from the truth than the sum of the bins' own errors (triangle inequality). The quantile of that sum under
    the normal distribution gives a conservative interval. Bins: Nixon et al. 2019 (arXiv 1904.01685).
    """
    parts = binned(probabilities.max(axis=1), bins)
    gaps, spread = _gaps(probabilities, targets, parts, sample)
    value = float(np.abs(gaps).sum() / len(targets))
    reach = np.sqrt(2 / np.pi) * spread.sum() + norm.ppf(confidence) * np.sqrt((1 - 2 / np.pi) * (spread**2).sum())
    low, high = value - float(reach) / len(targets), value + float(reach) / len(targets)
    return Figure(value, max(0.0, low), min(1.0, high), TRIANGLE)


def _gaps(probabilities: Floats, targets: Ints, parts: Bins, sample: Sample) -> tuple[Floats, Floats]:
    """Return for each bin the sum of (right - confidence) over its images, and that sum's standard error.

    The standard error is the larger of the observed one and the one that the probabilities imply: a bin without a
    mistake shows no spread, but is not certain.
    """
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    gap = correct - top
    sizes = np.bincount(parts.index, minlength=parts.count)
    sums: Floats = np.bincount(parts.index, gap, minlength=parts.count).astype(np.float64)
    claimed = np.bincount(parts.index, top * (1 - top), minlength=parts.count)
    seen = np.zeros((sample.clusters, parts.count))
    np.add.at(seen, (sample.cluster, parts.index), gap - (sums / sizes)[parts.index])
    return sums, np.asarray(np.sqrt(np.maximum(claimed, (seen**2).sum(axis=0))))


def change_of_error(
    before: Floats, after: Floats, targets: Ints, bins: int, sample: Sample, confidence: float
) -> Figure:
    """Return the change of the calibration error on the same images (below 0: better), with its interval.

    Both errors use the bins of the answers before. There the change depends on one unknown, the bin's true gap, and
    is monotonic in it: its extremes over all gaps that the images allow (jointly: Sidak 1967) end the interval.
    """
    parts = binned(before.max(axis=1), bins)
    gaps, spread = _gaps(before, targets, parts, sample)
    widest = np.maximum(spread, _gaps(after, targets, parts, sample)[1])
    moved = np.bincount(parts.index, before.max(axis=1) - after.max(axis=1), minlength=parts.count)
    reach = norm.ppf(0.5 + 0.5 * confidence ** (1 / parts.count)) * widest
    at = {end: np.abs(gaps + end * reach + moved) - np.abs(gaps + end * reach) for end in (-1, 0, 1)}
    low, value, high = (
        float(sums.sum() / len(targets)) for sums in (np.minimum(at[-1], at[1]), at[0], np.maximum(at[-1], at[1]))
    )
    return Figure(value, low, high, "box bound")


def reliability(
    probabilities: Floats, targets: Ints, bins: int, cluster: Ints, confidence: float
) -> tuple[ReliabilityBin, ...]:
    """Return the bins of a reliability diagram: mean confidence, accuracy with its interval, and n."""
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    parts = binned(top, bins)
    members = [parts.index == number for number in range(parts.count)]
    return tuple(
        ReliabilityBin(float(top[of].mean()), share(correct[of], cluster[of], confidence), int(of.sum()))
        for of in members
    )


@dataclass(frozen=True)
class Abstention:
    """Abstain at probabilities under `below`; `reached`: whether that met the target on validation."""

    below: float
    reached: bool


def abstention(probabilities: Floats, targets: Ints, target: float) -> Abstention:
    """Return the lowest threshold above which the answers to the validation images reach the target accuracy.

    If no threshold reaches it, return the one with the highest accuracy, and of equal ones the one that answers most.
    """
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    order = np.argsort(-top, kind="stable")
    last = np.append(np.diff(top[order]) != 0, True)  # images of one probability are answered all or none
    accuracy = (np.cumsum(correct[order]) / np.arange(1, len(top) + 1))[last]
    thresholds = top[order][last]
    if accuracy[-1] >= target:
        return Abstention(0.0, True)
    enough = np.flatnonzero(accuracy >= target)
    index = enough[-1] if len(enough) else np.flatnonzero(accuracy == accuracy.max())[-1]
    return Abstention(float(thresholds[index]), bool(len(enough)))


def coverage_risk(probabilities: Floats, targets: Ints, cluster: Ints, confidence: float) -> tuple[CoverageRisk, ...]:
    """Return the error rate if only the most confident share of the images is answered, for several shares.

    El-Yaniv and Wiener 2010, JMLR 11:1605.
    """
    top, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != targets
    order = np.argsort(-top, kind="stable")
    steps = np.unique(np.ceil(np.linspace(1 / POINTS, 1, POINTS) * len(top)).astype(int))
    return tuple(
        CoverageRisk(
            coverage=int(k) / len(top),
            threshold=float(top[order[k - 1]]),
            risk=share(wrong[order[:k]], cluster[order[:k]], confidence),
        )
        for k in steps
    )


def losses(probabilities: Floats, targets: Ints) -> Floats:
    """Return log-loss (nats) and Brier score (0 to 2) of each image, [n, 2]."""
    return np.asarray(_losses_by_class(probabilities)[np.arange(len(targets)), targets])


def _losses_by_class(probabilities: Floats) -> Floats:
    """Return log-loss and Brier score of each image for each possible true class, [n, classes, 2]."""
    nats = -np.log(np.clip(probabilities, np.finfo(np.float64).tiny, 1))
    return np.stack([nats, (probabilities**2).sum(axis=1, keepdims=True) - 2 * probabilities + 1], axis=2)


def scored(probabilities: Floats, targets: Ints, sample: Sample, confidence: float) -> tuple[Figure, Figure]:
    """Return log-loss and Brier score with their intervals.

    The cost of a wrong answer is the one that the probabilities [n, classes] themselves expect.
    """
    kinds, seen = _losses_by_class(probabilities), losses(probabilities, targets)
    runners_up = np.where(np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None], 0, probabilities)
    wrong = (runners_up[:, :, None] * kinds).sum(axis=(0, 1)) / max(float(runners_up.sum()), np.finfo(np.float64).tiny)
    nats, brier = (mean_of_losses(seen[:, i], float(wrong[i]), MOST[i], sample, confidence) for i in (0, 1))
    return nats, brier


def verified(
    logits: Floats,
    targets: Ints,
    temperature: float,
    threshold: Abstention,
    bins: int,
    sample: Sample,
    confidence: float,
    draws: int,
    generator: np.random.Generator,
) -> CalibrationReport:
    """Verify a temperature and a threshold on test logits [n, classes]: figures before, after, and paired."""
    before, after = tempered(logits, 1.0), tempered(logits, temperature)
    answered, right = after.max(axis=1) >= threshold.below, after.argmax(axis=1) == targets
    change = (losses(after, targets) - losses(before, targets))[:, 0]

    def calibrated(probabilities: Floats) -> Calibration:
        return Calibration(
            log_loss=scored(probabilities, targets, sample, confidence)[0],
            calibration_error=calibration_error(probabilities, targets, bins, sample, confidence),
            reliability=reliability(probabilities, targets, bins, sample.cluster, confidence),
        )

    return CalibrationReport(
        temperature=temperature,
        abstain_below=threshold.below,
        target_reached=threshold.reached,
        coverage=share(answered, sample.cluster, confidence),
        accuracy_answered=share_of(right, answered, sample.cluster, confidence),
        before=calibrated(before),
        after=calibrated(after),
        change=CalibrationChange(
            log_loss=smoothed(change, sample, confidence, draws, generator, unit=float(np.abs(change).mean())),
            calibration_error=change_of_error(before, after, targets, bins, sample, confidence),
        ),
        curve=coverage_risk(after, targets, sample.cluster, confidence),
    )
