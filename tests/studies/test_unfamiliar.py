"""The study's comparison on made-up features: what lies in another direction is seen, and the rate is kept."""

import numpy as np
import pytest

from tests.studies.unfamiliar import Score, judged, mahalanobis, neighbour


@pytest.mark.parametrize("score", [neighbour(1), neighbour(5), mahalanobis(relative=False)])
def test_features_in_another_direction_are_seen_at_the_rate(score: Score) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 100)
    familiar = rng.normal(size=(200, 16)) * 0.2 + np.eye(16)[np.where(labels == "a", 0, 1)]
    others = rng.normal(size=(100, 16)) * 0.2 + np.eye(16)[5]
    auroc, alarms, seen = judged(score, (familiar, labels), others, (0.05,))
    assert auroc > 0.95 and seen > 0.7
    assert alarms <= 0.2
