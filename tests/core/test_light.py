"""Brightness, contrast and sharpness are what the formulas say, to the last digit on every machine."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import laplace

from steps.core.light import brightness_and_contrast, sharpness

Pixels = np.ndarray[Any, Any]
lumas = arrays.arrays(np.uint8, st.tuples(st.integers(3, 12), st.integers(3, 12)))


@given(lumas)
def test_brightness_and_contrast_are_mean_and_standard_deviation(luma: Pixels) -> None:
    brightness, contrast = brightness_and_contrast(np.bincount(luma.ravel(), minlength=256))
    assert brightness == pytest.approx(luma.mean() / 255, abs=1e-12)
    assert contrast == pytest.approx(luma.std() / 255, abs=1e-9)
    assert 0 <= brightness <= 1
    assert 0 <= contrast <= 0.5


@given(lumas)
def test_sharpness_is_the_variance_of_the_laplacian_inside_the_border(luma: Pixels) -> None:
    wanted = laplace(luma.astype(float))[1:-1, 1:-1].var() / 255**2
    assert sharpness(luma) == pytest.approx(wanted, abs=1e-12)


def test_the_sums_are_exact_where_floats_would_round() -> None:
    counts = np.zeros(256, np.int64)
    counts[[0, 1, 255]] = 99_999_998, 1, 1  # a hundred million pixels: the largest picture
    brightness, contrast = brightness_and_contrast(counts)
    mean = Fraction(256, 10**8)
    assert brightness == float(mean) / 255
    assert contrast == pytest.approx(float(Fraction(255**2 + 1, 10**8) - mean**2) ** 0.5 / 255, rel=1e-15)


def test_flat_and_blurred_are_less_sharp_than_an_edge() -> None:
    edge = np.repeat([[0] * 8 + [255] * 8], 16, axis=0).astype(np.uint8)
    ramp = np.repeat([np.linspace(0, 255, 16)], 16, axis=0).astype(np.uint8)
    assert sharpness(np.full((16, 16), 90, np.uint8)) == 0
    assert sharpness(ramp) < 0.001 < sharpness(edge)
