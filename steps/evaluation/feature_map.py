"""Features without their labels: a flat map, clusters, and how well the clusters agree with the classes."""

from dataclasses import dataclass

import numpy as np

from steps.runtime.arrays import Floats, Ints

AXES = 50  # principal components that t-SNE starts from: more are mostly noise, and slower
STARTS = 5  # of k-means; the tightest clustering is kept


@dataclass(frozen=True)
class FeatureMap:
    """Two flat views [n, 2] of features, and clusters found without the labels."""

    pca: Floats
    tsne: Floats
    explained: float  # share of the variance that the two principal components hold
    clusters: Ints  # [n], as many as there are classes
    agreement: float  # adjusted mutual information of clusters and classes: 0 chance, 1 the same


def lay_out(features: Floats, targets: Ints, perplexity: float, seed: int) -> FeatureMap:
    """Map features [n, d] to two dimensions by principal components, and by t-SNE (van der Maaten and Hinton 2008).

    In t-SNE neighbourhoods are meaningful; distances between clusters and their sizes are not. Runs on one thread:
    sums over several threads differ.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.metrics import adjusted_mutual_info_score
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        axes = PCA(min(AXES, *features.shape), svd_solver="full").fit(features)
        placed = axes.transform(features)
        nearby = min(perplexity, (len(features) - 1) / 3)
        flat = TSNE(2, perplexity=nearby, init="pca", random_state=seed).fit_transform(placed)
        clusters = KMeans(len(np.unique(targets)), n_init=STARTS, random_state=seed).fit_predict(placed)
    return FeatureMap(
        pca=placed[:, :2],
        tsne=flat,
        explained=float(axes.explained_variance_ratio_[:2].sum()),
        clusters=clusters,
        agreement=float(adjusted_mutual_info_score(targets, clusters)),
    )


def nearest(known: Floats, asked: Floats, count: int) -> tuple[Ints, Floats]:
    """Return for each row of `asked` [m, d] the `count` most similar rows of `known` [n, d], and their cosines.

    Features are centred on the mean of `known`: all-positive features would otherwise all be similar.
    """
    from sklearn.preprocessing import normalize

    centre = known.mean(axis=0, dtype=np.float64)
    cosines = normalize(asked - centre) @ normalize(known - centre).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosines, order, axis=1)
