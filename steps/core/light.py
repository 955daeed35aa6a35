"""How bright, how contrasted and how sharp a picture is: plain measures over 8-bit luma, in whole numbers to the end.

Whole numbers, because sums of floats depend on the machine and the manifest must not.
"""

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def brightness_and_contrast(histogram: Array) -> tuple[float, float]:
    """Return mean and standard deviation of luma, on the scale 0 to 1, from its counts [256] per grey level."""
    levels, counts = np.arange(256, dtype=np.int64), histogram.astype(np.int64)
    n, first, second = int(counts.sum()), int(counts @ levels), int(counts @ levels**2)
    return first / n / 255, math.sqrt(n * second - first**2) / n / 255


def sharpness(luma: Array) -> float:
    """Return the variance of the Laplacian (4 neighbours) of uint8 luma [h, w], on the scale 0 to 1 of luma.

    Pech-Pacheco et al. 2000. Flat and blurred pictures are near 0. The border, which has no neighbours, is left out.
    """
    p = luma.astype(np.int64)
    edges = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * p[1:-1, 1:-1]
    n, first, second = edges.size, int(edges.sum()), int((edges**2).sum())
    return (n * second - first**2) / n**2 / 255**2
