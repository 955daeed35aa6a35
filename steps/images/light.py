"""Light: grey deeper than 8 bits scaled to 8 bits; brightness, contrast and sharpness of a picture.

The measures are computed on 8-bit luma in integers: sums of floats depend on the machine, and the manifest must not.
"""

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MATTE = 255  # what shows through transparent pixels


def brightness_and_contrast(histogram: Array) -> tuple[float, float]:
    """Return mean and standard deviation of luma, on the scale 0 to 1, from its counts [256] per grey level."""
    levels, counts = np.arange(256, dtype=np.int64), histogram.astype(np.int64)
    n, first, second = int(counts.sum()), int(counts @ levels), int(counts @ levels**2)
    return first / n / 255, math.sqrt(n * second - first**2) / n / 255


def sharpness(luma: Array) -> float:
    """Return the variance of the Laplacian (4 neighbours) of uint8 luma [h, w], on the scale 0 to 1 of luma.

    Pech-Pacheco et al. 2000. Flat and blurred pictures are near 0. Border pixels, which lack neighbours, are left out.
    """
    p = luma.astype(np.int64)
    edges = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * p[1:-1, 1:-1]
    n, first, second = edges.size, int(edges.sum()), int((edges**2).sum())
    return (n * second - first**2) / n**2 / 255**2


def declared_scale(values: Array, is_float: bool, declared: tuple[float, float]) -> tuple[float, float] | None:
    """Return the smallest and largest value that a grey file declares if all its values lie between them; else None.

    NaN stands for a value that is not declared. Largest *integers* count only as full depths (1023, 4095...): some
    writers put the brightest pixel there, and pictures of one camera would then differ in scale. Non-finite values of
    the picture are ignored.
    """
    low, high = declared
    if not (is_float or _is_depth(high)):
        return None
    least, most = extremes(values)
    low = 0.0 if math.isnan(low) else low
    return (low, high) if low < high < math.inf and low <= least and most <= high else None


def usual_scale(values: Array, is_float: bool, bits: float) -> tuple[float, float]:
    """Return the values that are black and white in a grey picture deeper than 8 bits that declares only its depth.

    In order: the declared depth, up to 16 bits; for float the range 0 to 1; for 32-bit integers, which usually hold
    16-bit data, 0 to 65535; else the picture's own range with 0. Non-finite values are ignored.
    """
    least, most = extremes(values)
    usual = 1.0 if is_float else 2.0 ** min(bits, 16) - 1
    return (0.0, usual) if least >= 0 and most <= usual else (min(least, 0.0), max(most, 0.0))


def _is_depth(largest: float) -> bool:
    return largest >= 255 and math.log2(largest + 1).is_integer()


def extremes(values: Array) -> tuple[float, float]:
    """Return the smallest and largest finite value of [h, w], (0, 0) if there is none."""
    finite = (band[np.isfinite(band)] for band in _bands(values))
    pairs = [(float(band.min()), float(band.max())) for band in finite if band.size]
    return min((low for low, _ in pairs), default=0.0), max((high for _, high in pairs), default=0.0)


def to_bytes(values: Array, black: float, white: float) -> Array:
    """Scale [h, w] linearly to uint8, `black` becoming 0 and `white` 255; non-finite values become 0.

    It works on a band of rows at a time: a copy of a large picture in float64 would take a gigabyte.
    """
    scaled = np.zeros(values.shape, np.uint8)
    factor = 255 / (white - black) if white != black else 0.0
    for band, out in zip(_bands(values), _bands(scaled), strict=True):
        with np.errstate(invalid="ignore"):  # a signalling NaN warns when it is cast
            wide = np.nan_to_num((band.astype(np.float64) - black) * factor, nan=0.0, posinf=0.0, neginf=0.0)
        out[:] = np.rint(wide.clip(0, 255))
    return scaled


def _bands(values: Array) -> list[Array]:
    height = max(1, 2**20 // max(1, values.shape[1]))
    return [values[start : start + height] for start in range(0, len(values), height)]
