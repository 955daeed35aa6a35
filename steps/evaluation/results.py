"""The results of the evaluation, as in evaluation.json: dataclasses only, so that readers load no statistics."""

from dataclasses import dataclass, field

from steps.runtime.artefacts import OPTIONAL
from steps.runtime.figure import Figure
from steps.training.histories import Scores

HELPS, HURTS = "helps", "hurts"  # verdicts on transfer; the third is that there is no evidence


@dataclass(frozen=True)
class ClassJudgement:
    """Recall and precision of one class on `n` images."""

    label: str
    n: int
    recall: Figure
    precision: Figure


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The figures of one model on one split; rows of `confusion` are the true classes, columns the predicted ones."""

    n: int
    accuracy: Figure
    balanced_accuracy: Figure
    macro_f1: Figure
    # one of the next four, if there are four classes or more
    top_2_accuracy: Figure | None = field(default=None, metadata=OPTIONAL)
    top_3_accuracy: Figure | None = field(default=None, metadata=OPTIONAL)
    top_4_accuracy: Figure | None = field(default=None, metadata=OPTIONAL)
    top_5_accuracy: Figure | None = field(default=None, metadata=OPTIONAL)
    auroc: Figure
    log_loss: Figure
    brier: Figure
    calibration_error: Figure
    classwise_error: Figure | None = field(default=None, metadata=OPTIONAL)
    per_class: tuple[ClassJudgement, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def figures(self) -> dict[str, Figure]:
        """Every figure of the whole split by its name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Figure)}


@dataclass(frozen=True)
class ReliabilityBin:
    """`n` images of similar confidence: its mean, and their accuracy."""

    confidence: float
    accuracy: Figure
    n: int


@dataclass(frozen=True)
class CoverageRisk:
    """The share of wrong answers if only the share `coverage` is answered, down to the probability `threshold`."""

    coverage: float
    threshold: float
    risk: Figure


@dataclass(frozen=True)
class Calibration:
    """How well probabilities agree with outcomes."""

    log_loss: Figure
    calibration_error: Figure
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class CalibrationChange:
    """The paired change from before calibration to after; below 0 is better."""

    log_loss: Figure
    calibration_error: Figure


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """One model's temperature and threshold, both from validation images, and their effect on the test images.

    Probabilities are softmax((logits + `prior_shift`) / `temperature`); the answer is the class with the largest
    product of probability and `answer_weights`. Older releases had neither: zeros and ones, one per class.
    """

    temperature: float
    prior_shift: tuple[float, ...] | None = field(default=None, metadata=OPTIONAL)
    answer_weights: tuple[float, ...] | None = field(default=None, metadata=OPTIONAL)
    abstain_below: float
    target_reached: bool
    coverage: Figure
    accuracy_answered: Figure
    before: Calibration
    after: Calibration
    change: CalibrationChange
    curve: tuple[CoverageRisk, ...]


@dataclass(frozen=True, kw_only=True)
class Unfamiliar:
    """The distance beyond which a picture is unfamiliar, from validation images, and the share of test images beyond.

    The distance is to the nearest of the `known` training images that the version keeps, by the model's own features.
    """

    known: int
    threshold: float
    test: Figure


@dataclass(frozen=True, kw_only=True)
class SliceJudgement:
    """The accuracy on one slice; `p_adjusted` is Holm's p that it is worse than on the other images."""

    column: str
    value: str
    n: int
    accuracy: Figure
    limit: float | None
    breached: bool
    p_adjusted: float


@dataclass(frozen=True)
class UnjudgedSlice:
    """A slice with too few images."""

    column: str
    value: str
    n: int
    limit: float | None


@dataclass(frozen=True, kw_only=True)
class AnswerComparison:
    """Model a minus model b by correctness: `difference` to `method` is that of the accuracies."""

    n: int
    confidence: float
    difference: float
    low: float
    high: float
    method: str
    only_a: int
    only_b: int
    mcnemar_p: float
    verdict: str
    needed_n: int | None
    sentence: str
    balanced_accuracy: Figure


@dataclass(frozen=True, kw_only=True)
class _Pair:
    a: str
    b: str


@dataclass(frozen=True, kw_only=True)
class Comparison(AnswerComparison, _Pair):  # in this order the names come first in JSON
    """Model a minus model b on the same images, by their probabilities."""

    log_loss: Figure


@dataclass(frozen=True)
class ClassComparison:
    """Two models on the images of one class."""

    label: str
    n: int
    recall_a: float
    recall_b: float
    only_a: int
    only_b: int
    mcnemar_p: float


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The decisive comparison of a challenger (a) with its opponent (b): the difference of the balanced accuracies.

    `only_a` and `only_b` count the images that only one gets right; `low` and `high` are None without an interval. `p`
    is one-sided: the probability of such a difference if the true one is at most the limit of `test`.
    """

    n: int
    only_a: int
    only_b: int
    p: float
    test: str
    confidence: float
    difference: float
    low: float | None
    high: float | None

    @property
    def level(self) -> float:
        """Return the limit of `p`: the share that the two-sided interval of this confidence leaves on one side."""
        return (1 - self.confidence) / 2


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """The model minus one baseline, whose accuracy is the mean over its draws."""

    against: str
    draws: int
    accuracy: float
    difference: float
    low: float
    high: float
    method: str
    mcnemar_p: float
    verdict: str
    needed_n: int | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class TransferVerdict:
    """Whether transfer helps, by the comparison with the baseline `against`; None if no baseline was trained."""

    verdict: str | None
    sentence: str
    against: str | None
    baselines: tuple[BaselineComparison, ...]


@dataclass(frozen=True, kw_only=True)
class Transfer(TransferVerdict):
    """The verdict, and the model that was compared: it learned from `labels` of the `labels_of` training images."""

    model: str
    accuracy: float
    labels: int
    labels_of: int


@dataclass(frozen=True)
class SplitGap:
    """The chosen model's accuracy on validation images that it has not seen and on test images; their difference."""

    validation: Figure
    test: Figure
    difference: Figure


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """evaluation.json, mappings keyed by model (head, fine_tuned); `weights` also names the head of `same_labels`."""

    chosen: str
    reason: str
    classes: tuple[str, ...]
    backbone: str
    confidence: float
    validation: dict[str, Scores]
    weights: dict[str, str]  # digests
    test: dict[str, Judgement]
    calibration: dict[str, CalibrationReport]
    slices: dict[str, tuple[SliceJudgement, ...]]
    unjudged: tuple[UnjudgedSlice, ...]
    comparisons: tuple[Comparison, ...]
    transfer: Transfer
    split_gap: SplitGap | None = field(default=None, metadata=OPTIONAL)  # absent in older files
    unfamiliar: dict[str, Unfamiliar] | None = field(default=None, metadata=OPTIONAL)  # absent in older files

    @property
    def judgement(self) -> Judgement:
        """The chosen model's figures on the test split."""
        return self.test[self.chosen]


@dataclass(frozen=True)
class CorruptedAccuracy:
    """Accuracy, and agreement with the answers to the unchanged pictures, under one kind and strength of corruption."""

    kind: str
    strength: str
    agreement: float
    accuracy: Figure


@dataclass(frozen=True)
class Robustness:
    """The accuracy on `images` pictures, unchanged (the first row) and corrupted, and the row of lowest accuracy."""

    images: int
    rows: tuple[CorruptedAccuracy, ...]
    worst: CorruptedAccuracy
