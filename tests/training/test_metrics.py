"""Figures and their intervals, against formulas written out by hand and against simulation."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2, norm
from sklearn.metrics import balanced_accuracy_score

from steps.runtime.figure import Figure
from steps.training.histories import Scores
from steps.training.metrics import balanced_accuracy, proportion, scores

Floats = np.ndarray[Any, np.dtype[np.float64]]


def wilson_by_hand(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Solve the score equation: Wilson 1927, JASA 22:209."""
    z, p = norm.ppf(0.5 + confidence / 2), successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


def corrected_by_hand(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Let Poisson's one-sided limit replace the near end of Wilson's where one to three of many differ."""
    low, high = wilson_by_hand(successes, n, confidence)
    if 1 <= successes <= min(3, n / 10):
        low = min(low, chi2.ppf(1 - confidence, 2 * successes) / 2 / n)
    if 1 <= n - successes <= min(3, n / 10):
        high = max(high, 1 - chi2.ppf(1 - confidence, 2 * (n - successes)) / 2 / n)
    return low, high


@given(st.integers(1, 2000), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_a_share_is_wilsons_with_poissons_ends(n: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, n))
    found = proportion(successes, n, confidence)
    low, high = corrected_by_hand(successes, n, confidence)
    assert found.value == successes / n
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)
    assert -1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12


def test_a_known_share_has_its_known_interval() -> None:
    found = proportion(142, 153, 0.95)  # fine-tuning in PyTorch's own tutorial on ants and bees
    assert (round(found.low, 3), round(found.high, 3)) == (0.876, 0.959)


def test_a_share_of_nothing_is_nothing_rather_than_zero() -> None:
    assert proportion(0, 0, 0.95) == Figure(None, None, None, "Wilson")


@cache
def interval(successes: int, n: int) -> tuple[float, float]:
    found = proportion(successes, n, 0.95)
    return found.low, found.high


@pytest.mark.parametrize("n", [50, 97, 153])
def test_the_interval_covers_also_where_nearly_all_are_right(n: int) -> None:
    """In closed form, for every p from 0.9 on; Wilson's alone falls to 84 %."""
    low, high = np.transpose([interval(k, n) for k in range(n + 1)])
    shares = np.linspace(0.9, 0.9999, 1000)[:, None]
    held = (binom.pmf(np.arange(n + 1), n, shares) * ((low <= shares) & (shares <= high))).sum(axis=1)
    assert held.min() >= 0.925 and (held >= 0.93).mean() > 0.97


def test_the_interval_covers_as_often_as_it_claims_where_a_bootstrap_would_not() -> None:
    p, n = 0.98, 153
    drawn = np.random.default_rng(0).binomial(n, p, size=2000)
    covered = np.mean([interval(int(k), n)[0] <= p <= interval(int(k), n)[1] for k in drawn])
    assert covered >= 0.93

    # In closed form; the percentile bootstrap of a share is the binomial's own quantiles around what was seen.
    chance = binom.pmf(np.arange(n + 1), n, p)
    exact = sum(chance[k] for k in range(n + 1) if interval(k, n)[0] <= p <= interval(k, n)[1])
    low, high = binom.ppf([[0.025], [0.975]], n, np.arange(n + 1) / n) / n
    of_bootstrap = chance[(low <= p) & (p <= high)].sum()
    assert exact == pytest.approx(0.965, abs=0.001)
    assert of_bootstrap == pytest.approx(0.81, abs=0.005)  # what the docstring says


labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@settings(deadline=None)
@given(labels)
def test_balanced_accuracy_is_the_mean_recall_over_the_classes_that_occur(pairs: list[tuple[int, int]]) -> None:
    targets, predicted = np.array(pairs).T
    recalls = [np.mean(predicted[targets == label] == label) for label in np.unique(targets)]
    assert balanced_accuracy(targets, predicted) == pytest.approx(np.mean(recalls))


def test_balanced_accuracy_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        targets, predicted = rng.integers(0, 5, (2, 80))
        assert balanced_accuracy(targets, predicted) == pytest.approx(balanced_accuracy_score(targets, predicted))


def random_predictions(n: int, seed: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Floats]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[targets]
    probabilities = np.exp(logits)
    return targets, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_scores_are_what_their_names_say() -> None:
    targets, probabilities = random_predictions(50, 0)
    found = scores(targets, probabilities)
    predicted = [max(range(3), key=lambda k: row[k]) for row in probabilities]
    assert found.accuracy == pytest.approx(np.mean(np.array(predicted) == targets))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(targets, predicted))
    assert found.log_loss == pytest.approx(-np.mean([math.log(probabilities[i, t]) for i, t in enumerate(targets)]))
    assert found.n == 50


def test_scores_stand_where_a_class_does_not_occur() -> None:
    found = scores(np.array([0, 0]), np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))
    assert found == Scores(0.5, 0.5, pytest.approx((math.log(2) + math.log(4)) / 2), 2)
