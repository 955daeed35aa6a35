"""The forecast of the next doubling: exact where the law holds, and unsure where there is little to go by."""

import numpy as np
import pytest

from steps.core.learning_curve import next_doubling


def answers(errors: list[float], n: int, classes: int = 2) -> tuple["np.ndarray", "np.ndarray"]:
    """Return correctness [shares, n * classes] with exactly these error rates in each class, and the targets."""
    of_class = np.stack([np.arange(n) >= round(error * n) for error in errors]).astype(np.float64)
    return np.concatenate([of_class] * classes, axis=1), np.repeat(np.arange(classes), n)


def forecast(errors: list[float], n: int) -> dict[str, float]:
    return next_doubling(*answers(errors, n), 0.95, 400, np.random.default_rng(0))


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.0])
def test_errors_that_shrink_by_a_factor_shrink_by_it_once_more(factor: float) -> None:
    found = forecast([0.4, 0.4 * factor, 0.4 * factor**2], 1000)
    assert found["value"] == pytest.approx(0.4 * factor**2 * (1 - factor), abs=1e-3)
    assert found["low"] <= found["value"] <= found["high"]


def test_errors_that_grow_forecast_a_loss_and_not_a_hope() -> None:
    assert forecast([0.1, 0.2, 0.3], 1000)["high"] < 0


def test_fewer_images_make_a_wider_interval() -> None:
    few, many = forecast([0.4, 0.3, 0.2], 20), forecast([0.4, 0.3, 0.2], 2000)
    assert few["high"] - few["low"] > 5 * (many["high"] - many["low"])


def test_no_error_at_all_leaves_next_to_nothing_to_gain() -> None:
    found = forecast([0.2, 0.0, 0.0], 100)
    assert 0 <= found["value"] <= 0.01


def test_one_image_of_a_class_has_no_interval() -> None:
    found = next_doubling(np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([0, 1]), 0.95, 100, np.random.default_rng(0))
    assert found["low"] is None and found["high"] is None
