"""The forecast of the next doubling: exact where the law holds, and unsure where there is little to go by."""

import numpy as np
import pytest

from steps.evaluation.intervals import sampled
from steps.evaluation.learning_curve import next_doubling


def answers(errors: list[list[float]], n: int, classes: int = 2) -> tuple[list["np.ndarray"], "np.ndarray"]:
    """Return correctness [draws, n * classes] with exactly these error rates in each class, and the targets."""
    found = [
        np.stack([np.tile(np.arange(n) >= round(error * n), classes).astype(np.float64) for error in of_share])
        for of_share in errors
    ]
    return found, np.repeat(np.arange(classes), n)


def forecast(errors: list[list[float]], n: int) -> dict[str, float]:
    correct, targets = answers(errors, n)
    return next_doubling(correct, targets, sampled(targets), 0.95, 2000, np.random.default_rng(0))


def drawn(*errors: float) -> list[list[float]]:
    """Return errors of four quarters, two halves and the whole, every draw of a share alike."""
    return [[error] * count for error, count in zip(errors, (4, 2, 1), strict=True)]


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.0])
def test_errors_that_shrink_by_a_factor_shrink_by_it_once_more(factor: float) -> None:
    found = forecast(drawn(0.4, 0.4 * factor, 0.4 * factor**2), 1000)
    assert found.value == pytest.approx(0.4 * factor**2 * (1 - factor), abs=1e-3)
    assert found.low <= found.value <= found.high


def test_errors_that_grow_forecast_a_loss_and_not_a_hope() -> None:
    assert forecast(drawn(0.1, 0.2, 0.3), 1000).high < 0


def test_fewer_images_make_a_wider_interval() -> None:
    few, many = forecast(drawn(0.4, 0.3, 0.2), 20), forecast(drawn(0.4, 0.3, 0.2), 2000)
    assert few.high - few.low > 3 * (many.high - many.low)


def test_labels_that_matter_by_which_they_are_make_a_wider_interval() -> None:
    alike = forecast(drawn(0.4, 0.3, 0.22), 1000)
    unlike = forecast([[0.3, 0.35, 0.45, 0.5], [0.25, 0.35], [0.22]], 1000)
    assert unlike.value == pytest.approx(alike.value)
    assert unlike.high - unlike.low > 1.5 * (alike.high - alike.low)


def test_a_curve_that_bends_makes_a_wider_interval_than_a_straight_one() -> None:
    straight, bent = forecast(drawn(0.4, 0.28, 0.2), 2000), forecast(drawn(0.4, 0.21, 0.2), 2000)
    assert bent.value == pytest.approx(straight.value, abs=1e-3)
    assert bent.high - bent.low > 1.5 * (straight.high - straight.low)


def test_no_error_at_all_leaves_next_to_nothing_to_gain() -> None:
    found = forecast(drawn(0.2, 0.0, 0.0), 100)
    assert 0 <= found.value <= 0.01


def test_one_image_of_a_class_has_no_interval() -> None:
    correct, targets = [np.array([[0.0, 1.0]]), np.array([[1.0, 1.0]])], np.array([0, 1])
    found = next_doubling(correct, targets, sampled(targets), 0.95, 100, np.random.default_rng(0))
    assert found.low is None and found.high is None
