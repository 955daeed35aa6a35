"""Which images to label next: diverse images that the head is unsure of.

Margin and diversity are combined as in Zhdanov 2019 (arXiv 1901.05954): the least certain images are clustered by
k-means with their uncertainty as weight, and the image nearest to each centre is taken.
"""

from dataclasses import dataclass

import numpy as np

from steps.runtime.arrays import Floats

UNSURE = 10  # candidates per requested image: the least certain ones
MOST = 20_000  # candidates in all: clustering more would take minutes


@dataclass(frozen=True)
class Pick:
    """An image of the pool worth a label: its row, how unsure the answer is, and how many candidates it represents."""

    row: int
    margin: float  # probability of the likeliest class minus that of the next
    stands_for: int


def margins(probabilities: Floats) -> Floats:
    """Return the likeliest class's probability minus the next one's, [n], from probabilities [n, classes]."""
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    return np.asarray(first - second)


def next_labels(features: Floats, probabilities: Floats, count: int, seed: int) -> list[Pick]:
    """Return `count` rows of the pool (all if it holds fewer), sorted by the uncertainty they represent, descending.

    `features` [n, d] and `probabilities` [n, classes] are the pool's; only the directions of features count.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    margin = margins(probabilities)
    candidates = np.argsort(margin, kind="stable")[: min(MOST, UNSURE * count)]
    directions = normalize(features[candidates])
    groups = min(count, len(np.unique(directions, axis=0)))
    unsure = np.maximum(1 - margin[candidates], 1e-6)
    clustering = KMeans(groups, n_init=1, random_state=seed).fit(directions, sample_weight=unsure)
    distance = ((directions - clustering.cluster_centers_[clustering.labels_]) ** 2).sum(axis=1)
    weight = np.bincount(clustering.labels_, unsure, minlength=groups)
    picks = []
    for group in np.argsort(-weight, kind="stable"):
        members = np.flatnonzero(clustering.labels_ == group)
        nearest = candidates[members[distance[members].argmin()]]
        picks.append(Pick(int(nearest), float(margin[nearest]), len(members)))
    return picks
