"""The judgement of one model on one split: its figures with their intervals."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix

from steps.evaluation.calibration import calibration_error, classwise_error, scored
from steps.evaluation.intervals import area, macro_f1, mean_of_shares, sampled, share, share_of
from steps.evaluation.results import ClassJudgement, Judgement
from steps.runtime.arrays import Floats, Ints
from steps.runtime.figure import Figure

BINS = 10  # of the calibration error, at most
TOP = 5  # k of top-k accuracy; at most half of the classes


def judge(
    targets: Ints,
    probabilities: Floats,
    classes: list[str],
    confidence: float,
    draws: int,
    generator: np.random.Generator,
    groups: npt.NDArray[Any] | None = None,
    predicted: Ints | None = None,
) -> Judgement:
    """Judge one model on one split: figures with intervals, per class, and the confusion matrix (rows = truth).

    `groups` [n] names the group of each image (one patient, one film), which is drawn and counted as one.
    `predicted` [n] are the answers; the likeliest classes if it is not given.
    """
    predicted = probabilities.argmax(axis=1) if predicted is None else predicted
    matrix = confusion_matrix(targets, predicted, labels=np.arange(len(classes)))
    sample, right = sampled(targets, groups), predicted == targets
    per_class = [
        ClassJudgement(
            label,
            n=int(matrix[i].sum()),
            recall=share_of(right, targets == i, sample.cluster, confidence),
            precision=share_of(right, predicted == i, sample.cluster, confidence),
        )
        for i, label in enumerate(classes)
    ]
    nats, brier = scored(probabilities, targets, sample, confidence)
    return Judgement(
        n=len(targets),
        accuracy=share(right, sample.cluster, confidence),
        balanced_accuracy=mean_of_shares(right, targets, sample.cluster, confidence),
        macro_f1=macro_f1(targets, predicted, len(classes), sample.cluster, confidence, draws, generator),
        **_top(targets, probabilities, predicted, sample.cluster, confidence),
        auroc=area(targets, probabilities, sample.cluster, confidence),
        log_loss=nats,
        brier=brier,
        calibration_error=calibration_error(probabilities, targets, BINS, sample, confidence, predicted),
        classwise_error=classwise_error(probabilities, targets, BINS, sample, confidence),
        per_class=tuple(per_class),
        confusion=tuple(map(tuple, matrix.tolist())),
    )


def _top(targets: Ints, probabilities: Floats, predicted: Ints, cluster: Ints, confidence: float) -> dict[str, Figure]:
    """Return the share of images whose class is among the likeliest answers, if there are enough classes."""
    k = min(TOP, probabilities.shape[1] // 2)
    if k < 2:
        return {}
    rows = np.arange(len(targets))
    ranked = probabilities.copy()
    ranked[rows, predicted] = np.inf  # the answer comes first, though it need not be the likeliest class
    ahead = (ranked > ranked[rows, targets][:, None]).sum(axis=1)
    return {f"top_{k}_accuracy": share(ahead < k, cluster, confidence)}
