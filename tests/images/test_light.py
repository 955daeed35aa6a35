"""Brightness, contrast and sharpness are what the formulas say, to the last digit on every machine."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import laplace

from steps.images.light import brightness_and_contrast, declared_scale, extremes, sharpness, to_bytes, usual_scale

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


deep = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]),
)
NOTHING = (math.nan, math.nan)


@given(deep, st.floats(-1e5, 1e5), st.floats(1e-3, 1e5))
def test_deep_values_are_scaled_linearly_and_what_is_beyond_is_cut(values: Pixels, black: float, width: float) -> None:
    found = to_bytes(values, black, black + width)
    assert found.dtype == np.uint8
    finite = np.isfinite(values)
    wanted = ((values[finite].astype(float) - black) / width * 255).clip(0, 255)
    assert np.abs(found[finite] - wanted).max(initial=0) <= 0.5 + 1e-6
    assert not found[~finite].any()
    inverted = to_bytes(values, black + width, black)
    assert np.abs(found[finite].astype(int) + inverted[finite] - 255).max(initial=0) <= 1


@given(deep)
def test_the_extremes_are_those_of_the_finite_values(values: Pixels) -> None:
    finite = values[np.isfinite(values)].astype(float)
    assert extremes(values) == ((finite.min(), finite.max()) if finite.size else (0.0, 0.0))


def test_bands_change_nothing_in_a_picture_larger_than_one() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (1500, 1500)).astype(np.uint16)
    assert extremes(values) == (values.min(), values.max())
    assert np.array_equal(to_bytes(values, 0, 65535), np.rint(values * (255 / 65535)).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "is_float", "bits", "declared", "wanted"),
    [
        ([0, 9], False, 16, NOTHING, (0, 65535)),
        ([0, 9], False, 12, NOTHING, (0, 4095)),
        ([0, 4095], False, 16, (math.nan, 4095), (0, 4095)),
        ([0, 9], False, 16, (math.nan, 5000), (0, 65535)),
        ([0, 4096], False, 16, (math.nan, 4095), (0, 65535)),
        ([0, 70000], False, 32, NOTHING, (0, 70000)),
        ([-5, 9], False, 32, NOTHING, (-5, 9)),
        ([0, 9], False, 32, NOTHING, (0, 65535)),
        ([0, 0.5], True, 32, NOTHING, (0, 1)),
        ([0.5, 2], True, 32, NOTHING, (0, 2)),
        ([-1, 1], True, 32, (-1, 1), (-1, 1)),
        ([-1, 1.5], True, 32, (-1, 1), (-1, 1.5)),
        ([0, 0.5], True, 32, (0, math.inf), (0, 1)),
        ([0, 0.5], True, 32, (1, 0), (0, 1)),
        ([np.nan, np.inf], True, 32, NOTHING, (0, 1)),
    ],
)
def test_black_and_white_follow_the_declaration_then_the_depth_then_the_picture(
    values: list[float], is_float: bool, bits: float, declared: tuple[float, float], wanted: tuple[float, float]
) -> None:
    pixels = np.array([values], dtype=float)
    assert (declared_scale(pixels, is_float, declared) or usual_scale(pixels, is_float, bits)) == wanted
