"""The unsupervised look: clusters that are there are found, none is seen in noise, and neighbours are the nearest."""

import numpy as np

from steps.evaluation.feature_map import lay_out, nearest


def blobs(apart: float) -> tuple["np.ndarray", "np.ndarray"]:
    targets = np.repeat(np.arange(3), 30)
    return apart * np.eye(3, 16)[targets] + np.random.default_rng(0).normal(size=(90, 16)), targets


def test_clusters_agree_with_classes_that_lie_apart_and_not_with_labels_that_mean_nothing() -> None:
    features, targets = blobs(12.0)
    found = lay_out(features, targets, perplexity=10, seed=0)
    assert found.agreement > 0.99 and found.explained > 0.5
    assert found.pca.shape == found.tsne.shape == (90, 2)
    spread = [found.tsne[targets == c].std(axis=0).mean() for c in range(3)]
    centres = np.stack([found.tsne[targets == c].mean(axis=0) for c in range(3)])
    assert min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 2 * max(spread)
    assert abs(lay_out(*blobs(0.0), perplexity=10, seed=0).agreement) < 0.1


def test_the_same_seed_draws_the_same_map() -> None:
    one, other = (lay_out(*blobs(2.0), perplexity=10, seed=5) for _ in range(2))
    assert one.tsne.tobytes() == other.tsne.tobytes() and one.pca.tobytes() == other.pca.tobytes()


def test_neighbours_are_those_of_the_least_angle_from_the_mean() -> None:
    known, asked = np.random.default_rng(1).normal(3.0, 1.0, (50, 6)), np.random.default_rng(2).normal(3.0, 1.0, (4, 6))
    order, cosines = nearest(known, asked, 3)
    centred = known - known.mean(axis=0)
    for i, row in enumerate(asked - known.mean(axis=0)):
        alike = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in centred]
        assert order[i].tolist() == sorted(range(50), key=lambda j: -alike[j])[:3]
        assert np.allclose(cosines[i], sorted(alike, reverse=True)[:3])
