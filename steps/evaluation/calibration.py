"""Calibration: class shares and one temperature for the probabilities, and a threshold of abstention."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binom, norm

from steps.evaluation.intervals import Sample, mean_of_losses, share, share_of, smoothed
from steps.evaluation.results import Calibration, CalibrationChange, CalibrationReport, CoverageRisk, ReliabilityBin
from steps.runtime.arrays import Bools, Floats, Ints
from steps.runtime.figure import Figure

TRIANGLE = "triangle bound"
MOST = (-float(np.log(np.finfo(np.float64).tiny)), 2.0)  # the largest log-loss and Brier score of an image
POINTS = 20  # of the coverage-risk curve, at most


def tempered(logits: Floats, temperature: float, shift: Floats | float = 0.0) -> npt.NDArray[np.float64]:
    """Map logits [n, classes] to probabilities: softmax((logits + shift) / temperature)."""
    return np.asarray(softmax((logits.astype(np.float64) + shift) / temperature, axis=1))


def prior_shift(targets: Ints, weights: Floats, classes: int) -> Floats:
    """Return log(share seen / share fitted for) of each class, [classes]: added to logits, it restores the prior.

    `targets` [n] with sample weights [n] are the images seen; a loss with balanced weights was fitted for equal shares.
    A temperature multiplies log-odds and cannot move an intercept (King and Zeng 2001, Political Analysis 9:137;
    Alexandari et al. 2020, arXiv 1901.06852). A class of less than half an image counts as half.
    """
    seen = np.maximum(np.bincount(targets, weights, minlength=classes), 0.5)
    return np.asarray(np.log(classes * seen / seen.sum()))


@dataclass(frozen=True)
class Scale:
    """From logits to answers: softmax((logits + shift) / temperature); the answer is the class of largest p x weight.

    `shift` (of the tempered logits, times the temperature) and `weights` have one value per class. Weights that are one
    over the shares of the classes answer as for equal shares; weights of 1 answer the most probable class.
    """

    temperature: float
    shift: Floats
    weights: Floats

    def probabilities(self, logits: Floats) -> Floats:
        """Map logits [n, classes] to calibrated probabilities."""
        return tempered(logits, self.temperature, self.shift)

    def answered(self, logits: Floats) -> Ints:
        """Map logits [n, classes] to the classes that are answered, [n]."""
        return np.asarray((self.probabilities(logits) * self.weights).argmax(axis=1))


def fit_scale(logits: Floats, targets: Ints, shift: Floats, prior: Floats, spread: float, balanced: bool) -> Scale:
    """Return the scale with the best temperature (`fit_temperature`), from validation images.

    `shift` [classes] restores the shares of the classes where the loss was fitted for equal ones; `prior` [classes] are
    the logarithms of those shares, which `balanced` answers leave out. The temperature divides the logits alone
    (Alexandari et al. 2020): a network that is too certain by a factor is too certain about the evidence, not about the
    shares, which it has never seen.
    """
    temperature = fit_temperature(logits, targets, spread, shift)
    return Scale(temperature, temperature * shift, np.exp(-prior) if balanced else np.ones(len(prior)))


def fit_temperature(logits: Floats, targets: Ints, spread: float, shift: Floats | float = 0.0) -> float:
    """Return the temperature with the least log-loss on images that the model was not trained on (validation).

    `shift` is added to the tempered logits.

    Guo et al. 2017 (arXiv 1706.04599). A log-normal prior around 1 with `spread` keeps a few dozen images, all
    answered correctly, from driving the temperature to zero and the probabilities to certainty.
    """

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_temperature) + shift, axis=1)
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


def calibration_error(
    probabilities: Floats, targets: Ints, bins: int, sample: Sample, confidence: float, predicted: Ints | None = None
) -> Figure:
    """Return the expected calibration error over bins of equal number, with an interval that covers the truth.

    The plain estimate is above zero even for perfect probabilities, and a bootstrap of it is worse; but it is never
    further from the truth than the sum of the bins' own errors (triangle inequality). The quantile of that sum under
    the normal distribution gives a conservative interval. Bins: Nixon et al. 2019 (arXiv 1904.01685).
    """
    value, reach = _error(*stated(probabilities, targets, predicted), bins, sample, confidence)
    return Figure(value, max(0.0, value - reach), min(1.0, value + reach), TRIANGLE)


def classwise_error(probabilities: Floats, targets: Ints, bins: int, sample: Sample, confidence: float) -> Figure:
    """Return half the sum over the classes of the error of each class's own probability, with its interval.

    The error of the answers' confidence cannot see wrong class shares: errors of either side cancel within a bin. The
    static calibration error (Nixon et al. 2019, arXiv 1904.01685, section 3) looks at every class. Their mean over
    the classes shrinks with the number of classes; half the sum is on the scale of `calibration_error`, and equals
    their mean for two classes.
    """
    errors = [
        _error(probabilities[:, k], targets == k, bins, sample, confidence) for k in range(probabilities.shape[1])
    ]
    value, reach = (float(ends) for ends in np.sum(errors, axis=0) / 2)
    return Figure(value, max(0.0, value - reach), min(1.0, value + reach), TRIANGLE)


def stated(probabilities: Floats, targets: Ints, predicted: Ints | None) -> tuple[Floats, Bools]:
    """Return the probability of each answer [n], and whether it is right; no `predicted`: the likeliest class."""
    answer = probabilities.argmax(axis=1) if predicted is None else predicted
    return np.asarray(probabilities[np.arange(len(targets)), answer]), np.asarray(answer == targets)


def _error(chance: Floats, happened: Bools, bins: int, sample: Sample, confidence: float) -> tuple[float, float]:
    """Return the mean gap between chances [n] and what happened [n] over bins of equal number, and its reach."""
    gaps, spread = _gaps(chance, happened, binned(chance, bins), sample)
    reach = np.sqrt(2 / np.pi) * spread.sum() + norm.ppf(confidence) * np.sqrt((1 - 2 / np.pi) * (spread**2).sum())
    return float(np.abs(gaps).sum() / len(chance)), float(reach) / len(chance)


def _gaps(chance: Floats, happened: Bools, parts: Bins, sample: Sample) -> tuple[Floats, Floats]:
    """Return for each bin the sum of (happened - chance) over its images, and that sum's standard error.

    The standard error is the larger of the observed one and the one that the probabilities imply: a bin without a
    mistake shows no spread, but is not certain.
    """
    gap = happened - chance
    sizes = np.bincount(parts.index, minlength=parts.count)
    sums: Floats = np.bincount(parts.index, gap, minlength=parts.count).astype(np.float64)
    claimed = np.bincount(parts.index, chance * (1 - chance), minlength=parts.count)
    seen = np.zeros((sample.clusters, parts.count))
    np.add.at(seen, (sample.cluster, parts.index), gap - (sums / sizes)[parts.index])
    return sums, np.asarray(np.sqrt(np.maximum(claimed, (seen**2).sum(axis=0))))


def change_of_error(
    before: Floats,
    after: Floats,
    targets: Ints,
    bins: int,
    sample: Sample,
    confidence: float,
    predicted: Ints | None = None,
) -> Figure:
    """Return the change of the calibration error on the same images (below 0: better), with its interval.

    Both errors use the bins of the answers before. There the change depends on one unknown, the bin's true gap, and
    is monotonic in it: its extremes over all gaps that the images allow (jointly: Sidak 1967) end the interval.
    """
    predicted = after.argmax(axis=1) if predicted is None else predicted
    (of_before, right), (of_after, _) = (stated(answers, targets, predicted) for answers in (before, after))
    parts = binned(of_before, bins)
    gaps, spread = _gaps(of_before, right, parts, sample)
    widest = np.maximum(spread, _gaps(of_after, right, parts, sample)[1])
    moved = np.bincount(parts.index, of_before - of_after, minlength=parts.count)
    reach = norm.ppf(0.5 + 0.5 * confidence ** (1 / parts.count)) * widest
    at = {end: np.abs(gaps + end * reach + moved) - np.abs(gaps + end * reach) for end in (-1, 0, 1)}
    low, value, high = (
        float(sums.sum() / len(targets)) for sums in (np.minimum(at[-1], at[1]), at[0], np.maximum(at[-1], at[1]))
    )
    return Figure(value, low, high, "box bound")


def reliability(
    probabilities: Floats, targets: Ints, bins: int, cluster: Ints, confidence: float, predicted: Ints | None = None
) -> tuple[ReliabilityBin, ...]:
    """Return the bins of a reliability diagram: mean confidence, accuracy with its interval, and n."""
    top, correct = stated(probabilities, targets, predicted)
    parts = binned(top, bins)
    members = [parts.index == number for number in range(parts.count)]
    return tuple(
        ReliabilityBin(float(top[of].mean()), share(correct[of], cluster[of], confidence), int(of.sum()))
        for of in members
    )


@dataclass(frozen=True)
class Abstention:
    """Abstain at probabilities under `below`; `reached`: whether validation shows that the answers meet the target."""

    below: float
    reached: bool


def abstention(
    probabilities: Floats, targets: Ints, target: float, confidence: float, predicted: Ints | None = None
) -> Abstention:
    """Return the lowest threshold above which the answers reach the target accuracy, beyond doubt.

    Thresholds are tested from the highest down, each by the exact binomial test at 1 - `confidence`, up to the first
    that fails: the threshold so found misses the target in at most that share of validation sets, however many were
    tested (fixed sequence testing: Angelopoulos et al. 2022, arXiv 2110.01052, section 2.2). The first is the highest
    at which answers that are all right would pass. Images count as independent.

    If none passes, `reached` is False, and the threshold is the lowest whose answers reach the target on validation;
    if there is none either, the one with the highest accuracy, and of equal ones the one that answers most.
    """
    top, correct = stated(probabilities, targets, predicted)
    order = np.argsort(-top, kind="stable")
    last = np.append(np.diff(top[order]) != 0, True)  # images of one probability are answered all or none
    right, answered = np.cumsum(correct[order])[last], np.flatnonzero(last) + 1
    accuracy, thresholds = right / answered, np.append(top[order][last][:-1], 0.0)  # the lowest answers every image
    shown = _first_in_sequence(right, answered, target, 1 - confidence)
    if len(shown):
        return Abstention(float(thresholds[shown[-1]]), True)
    enough = np.flatnonzero(accuracy >= target)
    index = enough[-1] if len(enough) else np.flatnonzero(accuracy == accuracy.max())[-1]
    return Abstention(float(thresholds[index]) if len(enough) else float(top[order][last][index]), False)


def _first_in_sequence(right: Ints, answered: Ints, target: float, level: float) -> Ints:
    """Return the indices of the thresholds, from the highest down, that pass before the first that fails."""
    able = np.flatnonzero(target**answered <= level)
    fails = binom.sf(right[able] - 1, answered[able], target) > level
    return able[: int(fails.argmax())] if fails.any() else able


def coverage_risk(
    probabilities: Floats, targets: Ints, cluster: Ints, confidence: float, predicted: Ints | None = None
) -> tuple[CoverageRisk, ...]:
    """Return the error rate if only the most confident share of the images is answered, for several shares.

    El-Yaniv and Wiener 2010, JMLR 11:1605.
    """
    top, right = stated(probabilities, targets, predicted)
    wrong = ~right
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
    scale: Scale,
    threshold: Abstention,
    bins: int,
    sample: Sample,
    confidence: float,
    draws: int,
    generator: np.random.Generator,
) -> CalibrationReport:
    """Verify a scale and a threshold on test logits [n, classes]: figures before, after, and paired."""
    before, after, predicted = tempered(logits, 1.0), scale.probabilities(logits), scale.answered(logits)
    top, right = stated(after, targets, predicted)
    answered = top >= threshold.below
    change = (losses(after, targets) - losses(before, targets))[:, 0]

    def calibrated(probabilities: Floats) -> Calibration:
        return Calibration(
            log_loss=scored(probabilities, targets, sample, confidence)[0],
            calibration_error=calibration_error(probabilities, targets, bins, sample, confidence, predicted),
            reliability=reliability(probabilities, targets, bins, sample.cluster, confidence, predicted),
        )

    return CalibrationReport(
        temperature=scale.temperature,
        prior_shift=tuple(map(float, scale.shift)),
        answer_weights=tuple(map(float, scale.weights)),
        abstain_below=threshold.below,
        target_reached=threshold.reached,
        coverage=share(answered, sample.cluster, confidence),
        accuracy_answered=share_of(right, answered, sample.cluster, confidence),
        before=calibrated(before),
        after=calibrated(after),
        change=CalibrationChange(
            log_loss=smoothed(change, sample, confidence, draws, generator, unit=float(np.abs(change).mean())),
            calibration_error=change_of_error(before, after, targets, bins, sample, confidence, predicted),
        ),
        curve=coverage_risk(after, targets, sample.cluster, confidence, predicted),
    )
