"""Odd images stand out of their own set, whatever its spread; an even set has none."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from steps.checks.oddities import OddityLimits, distance_to_others, fence, odd

LIMITS = OddityLimits(dark=0.05, bright=0.95, flat=0.02, blurred=0.05, unlike=2.2)
Floats = npt.NDArray[np.float64]


def table(n: int) -> pd.DataFrame:
    plain = {"split": "train", "label": "a", "brightness": 0.5, "contrast": 0.2, "sharpness": 0.1}
    names = [f"{i:04}" for i in range(n)]
    return pd.DataFrame({"id": names, "path": [f"{name}.png" for name in names], **plain})


def cloud(seed: int, n: int = 300, wide: float = 0.3) -> Floats:
    """Directions around a common one, as a trained network's features are."""
    generator = np.random.default_rng(seed)
    return np.asarray(1 + wide * generator.normal(size=(n, 32)))


@pytest.mark.parametrize("wide", [0.1, 0.3, 1.0])
def test_a_stranger_is_listed_first_whatever_the_spread_of_its_set(wide: float) -> None:
    features = cloud(0, wide=wide)
    features[7] = -features[7]
    found = odd(table(300), features, LIMITS)
    assert found[0].path == "0007.png" and "unlike the others" in found[0].reasons[0]


@pytest.mark.parametrize("wide", [0.1, 0.3, 1.0])
def test_a_set_without_strangers_is_hardly_accused(wide: float) -> None:
    listed = [len(odd(table(300), cloud(seed, wide=wide), LIMITS)) for seed in range(20)]
    assert np.mean(listed) / 300 < 0.005


def test_sets_of_uneven_density_are_judged_by_their_own_spread() -> None:
    """The distances of half the set are twice those of the other half: nobody is a stranger."""
    generator = np.random.default_rng(3)
    even, uneven = np.ones((400, 64)), np.repeat([0.2, 0.4], 200)[:, None]
    features = even + uneven * generator.normal(size=even.shape)
    assert (distance_to_others(features) > 1.2).mean() > 0.3, "far from the median they are"
    assert not odd(table(400), features, LIMITS)


def test_the_fence_is_tukeys_in_logs() -> None:
    distances = np.exp(np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    assert fence(distances, 1.5) == pytest.approx(np.exp(3 + 1.5 * 2))


def test_measures_of_light_are_told_in_words() -> None:
    images = table(3).assign(brightness=[0.01, 0.5, 0.99], contrast=[0.2, 0.001, 0.2], sharpness=[0.1, 0.1, 0.001])
    found = {row.path: list(row.reasons) for row in odd(images, np.eye(3), LIMITS)}
    assert found["0000.png"] == ["dark: mean luma under 0.05"]
    assert found["0001.png"] == ["flat: contrast under 0.02"]
    assert found["0002.png"] == ["bright: mean luma over 0.95", "blurred: sharpness under 0.05 of the median"]
