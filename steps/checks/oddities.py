"""Odd images: dark, bright, flat or blurred by the manifest's measures, or unlike all others by features."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Gt

from steps.checks.reports import Listed, Oddity
from steps.runtime.arrays import Floats
from steps.runtime.binding import Because, Share

NEIGHBOURS = 5


@dataclass(frozen=True)
class OddityLimits:
    """Limits beyond which a picture is odd; `blurred` is relative to the median of the set, `unlike` to its spread."""

    dark: Share
    bright: Share
    flat: Share
    blurred: Share
    unlike: Annotated[float, Gt(0), Because("interquartile ranges")]


def odd(images: pd.DataFrame, features: Floats, limits: OddityLimits) -> tuple[Oddity, ...]:
    """List odd images with their reasons in words, the most unlike first.

    `images` has the manifest's columns; `features` [n, d] has a row for each of them.
    """
    unlike = distance_to_others(features)
    far = fence(unlike, limits.unlike)
    reasons = {
        f"dark: mean luma under {limits.dark:g}": images["brightness"] < limits.dark,
        f"bright: mean luma over {limits.bright:g}": images["brightness"] > limits.bright,
        f"flat: contrast under {limits.flat:g}": images["contrast"] < limits.flat,
        f"blurred: sharpness under {limits.blurred:g} of the median": images["sharpness"]
        < limits.blurred * images["sharpness"].median(),
        f"unlike the others: over {far:.2f} times the usual distance": unlike > far,
    }
    holds = pd.DataFrame(reasons, index=images.index)
    listed = (Listed(*row) for row in images[["id", "path", "split", "label"]].itertuples(index=False, name=None))
    oddities = [
        Oddity(**vars(image), distance=round(float(distance), 4), reasons=tuple(holds.columns[of_image]))
        for image, distance, of_image in zip(listed, unlike, holds.to_numpy(), strict=True)
        if of_image.any()
    ]
    return tuple(sorted(oddities, key=lambda row: (-row.distance, row.path)))


def distance_to_others(features: Floats) -> npt.NDArray[np.float64]:
    """Return the mean distance [n] to the nearest neighbours, between directions, in units of its median.

    Kuan & Mueller 2022 (arXiv 2207.03061) find it as good a mark of outliers as any on a trained network's features.
    """
    from sklearn.neighbors import NearestNeighbors

    nearest = min(NEIGHBOURS, len(features) - 1)
    if nearest < 1:
        return np.ones(len(features))
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    index = NearestNeighbors().fit(features / np.maximum(norms, np.finfo(np.float32).tiny))
    distances = index.kneighbors(n_neighbors=nearest)[0].mean(axis=1)
    return np.asarray(distances / max(float(np.median(distances)), np.finfo(np.float32).tiny), dtype=np.float64)


def fence(distances: npt.NDArray[np.float64], ranges: float) -> float:
    """Return the distance beyond which an image is an outlier: `ranges` interquartile ranges over the upper quartile.

    Tukey 1977; a fixed multiple of the median flagged 4 % of clean digits, whose distances spread more than those of
    photographs. Computed in logs, because distances are ratios with a long upper tail.
    """
    lower, upper = np.quantile(np.log(np.maximum(distances, np.finfo(np.float32).tiny)), [0.25, 0.75])
    return float(np.exp(upper + ranges * (upper - lower)))
