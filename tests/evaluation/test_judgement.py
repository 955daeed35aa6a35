"""The figures of a judgement agree with one another and with scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, top_k_accuracy_score

from steps.evaluation.judgement import judge
from steps.training.metrics import proportion

CLASSES = ["ant", "bee", "wasp"]


def random_predictions(n: int, seed: int, classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    probabilities = np.exp(rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[targets])
    return targets, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_the_figures_of_a_judgement_agree_with_one_another() -> None:
    targets, probabilities = random_predictions(120, 2)
    found = judge(targets, probabilities, CLASSES, 0.95, 300, np.random.default_rng(0))
    matrix = np.array(found.confusion)
    wanted = np.zeros((3, 3), int)
    np.add.at(wanted, (targets, probabilities.argmax(axis=1)), 1)
    assert matrix.tolist() == wanted.tolist()
    assert found.n == matrix.sum() == 120
    assert found.accuracy == proportion(int(matrix.trace()), 120, 0.95)
    recalls = [row.recall.value for row in found.per_class]
    assert recalls == pytest.approx((matrix.diagonal() / matrix.sum(axis=1)).tolist())
    assert [row.precision.value for row in found.per_class] == pytest.approx(
        (matrix.diagonal() / matrix.sum(axis=0)).tolist()
    )
    assert found.balanced_accuracy.value == pytest.approx(np.mean(recalls))
    assert found.log_loss.value == pytest.approx(log_loss(targets, probabilities))
    assert [(row.label, row.n) for row in found.per_class] == list(
        zip(CLASSES, matrix.sum(axis=1).tolist(), strict=True)
    )


def test_a_class_never_predicted_has_no_precision_and_one_never_seen_no_recall() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.6, 0.4, 0.0]])
    found = judge(np.array([0, 0, 1, 1]), probabilities, CLASSES, 0.95, 200, np.random.default_rng(0))
    wasp = found.per_class[2]
    assert (wasp.n, wasp.recall.value, wasp.precision.value) == (0, None, None)
    assert found.balanced_accuracy.value == pytest.approx(0.75)


def test_a_certain_error_costs_a_finite_loss() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = judge(np.array([0, 1, 1, 0]), certain, ["a", "b"], 0.95, 200, np.random.default_rng(0))
    assert 100 < found.log_loss.value < math.inf
    assert found.log_loss.high is None, "four images do not show the worst"


def test_the_figures_are_scikit_learns_and_lie_inside_their_intervals() -> None:
    targets, probabilities = random_predictions(300, 3, classes=6)
    found = judge(targets, probabilities, list("abcdef"), 0.95, 500, np.random.default_rng(0))
    assert found.balanced_accuracy.value == pytest.approx(
        balanced_accuracy_score(targets, probabilities.argmax(axis=1))
    )
    assert found.brier.value == pytest.approx(brier_score_loss(targets, probabilities, scale_by_half=False))
    assert found.top_3_accuracy.value == pytest.approx(top_k_accuracy_score(targets, probabilities, k=3))
    for name, row in found.figures.items():
        assert row.low <= row.value <= row.high, name


def test_copies_in_groups_widen_every_interval_that_they_would_narrow() -> None:
    targets, probabilities = random_predictions(80, 4)
    many, answers, groups = np.repeat(targets, 6), np.repeat(probabilities, 6, axis=0), np.repeat(np.arange(80), 6)
    blind = judge(many, answers, CLASSES, 0.95, 500, np.random.default_rng(0))
    told = judge(many, answers, CLASSES, 0.95, 500, np.random.default_rng(0), groups)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss", "brier"):
        widths = [row.figures[name].high - row.figures[name].low for row in (blind, told)]
        assert widths[1] > 1.8 * widths[0], name
