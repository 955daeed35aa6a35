"""How well is an unfamiliar picture told from a familiar one? `python -m tests.studies.unfamiliar`.

Needs REGRAFT_DATASETS and REGRAFT_WEIGHTS. Each set in turn is the familiar one (60 % known, 20 % set the limit, 20 %
are new); far pictures are of the other sets, near ones of classes that were left out.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize
from torchvision import models

from steps.backbones.backbone import without_top
from steps.backbones.inference import channels_last
from steps.images import decoding
from steps.images.preprocessing import preprocess
from steps.runtime.arrays import Floats
from tests.made import spec

Names = npt.NDArray[np.str_]
Score = Callable[[Floats, Names, Floats], Floats]  # known features, their labels, other features; larger: less familiar
Features = dict[str, tuple[Floats, Names]]
FILES = {"squeezenet1_1": "squeezenet1_1-imagenet", "mobilenet_v2": "mobilenet_v2-imagenet-features"}
SETS = {"hymenoptera": "hymenoptera/train", "pacs-photo": "pacs-photo", "cifar10-mini": "cifar10-mini/train"}
LEFT_OUT = (
    ("pacs-photo", ("elephant", "giraffe")),
    ("pacs-photo", ("horse", "guitar")),
    ("cifar10-mini", ("cat", "deer", "truck")),
)


def neighbour(k: int) -> Score:
    """Return the cosine distance to the k-th nearest (Sun et al. 2022)."""

    def score(known: Floats, _: Names, features: Floats) -> Floats:
        alike = normalize(features) @ normalize(known).T
        return np.asarray(1 - np.sort(alike, axis=1)[:, -k])

    return score


def mahalanobis(relative: bool) -> Score:
    """Return the distance to the nearest class (Lee et al. 2018), less the one to all (Ren et al. 2021) if relative."""

    def score(known: Floats, labels: Names, features: Floats) -> Floats:
        known, features = normalize(known), normalize(features)
        classes, index = np.unique(labels, return_inverse=True)
        means = np.stack([known[labels == name].mean(axis=0) for name in classes])
        within = np.min([_squared(known - means[index], features - mean) for mean in means], axis=0)
        overall = known.mean(axis=0)
        return np.asarray(within - _squared(known - overall, features - overall) if relative else within)

    return score


def _squared(sample: Floats, offsets: Floats) -> Floats:
    precision = LedoitWolf(assume_centered=True).fit(sample).precision_
    return np.asarray(((offsets @ precision) * offsets).sum(axis=1))


def probability(known: Floats, labels: Names, features: Floats) -> Floats:
    """Return one minus the probability of the answer of a linear head."""
    scale = known.std(axis=0) + 1e-6
    head = LogisticRegression(C=0.01, max_iter=500).fit(known / scale, labels)
    return np.asarray(1 - head.predict_proba(features / scale).max(axis=1))


SCORES: dict[str, Score] = {
    "nearest neighbour": neighbour(1),
    "5th neighbour": neighbour(5),
    "10th neighbour": neighbour(10),
    "Mahalanobis": mahalanobis(relative=False),
    "relative Mahalanobis": mahalanobis(relative=True),
    "probability of the answer": probability,
}


def features_of(backbone: str, most: int) -> Features:
    """Return features and labels of each set, of at most `most` pictures of a class."""
    network, _ = without_top(models.get_model(backbone, weights=None))
    state = load_file(Path(os.environ["REGRAFT_WEIGHTS"], f"{FILES[backbone]}.safetensors"))
    network.load_state_dict({name: row for name, row in state.items() if not name.startswith("classifier.")})
    found: Features = {}
    for name, folder in SETS.items():
        paths = [
            path
            for of in sorted(Path(os.environ["REGRAFT_DATASETS"], folder).iterdir())
            for path in sorted(of.iterdir())[:most]
        ]
        rows = []
        for batch in decoding.batched(paths, 32):
            pixels = torch.stack([preprocess(decoding.decode(path.read_bytes()), spec(256, 224)) for path in batch])
            with torch.inference_mode():
                rows.append(network.eval()(channels_last(pixels)).flatten(1).double().numpy())
        found[name] = np.concatenate(rows), np.array([path.parent.name for path in paths])
    return found


def tasks(found: Features) -> list[tuple[str, tuple[Floats, Names], Floats]]:
    """Return (near or far, the familiar features and labels, the unfamiliar features) of each comparison."""
    far = [("far", found[name], found[other][0]) for name in found for other in found if other != name]
    near = []
    for name, classes in LEFT_OUT:
        rows, labels = found[name]
        out = np.isin(labels, classes)
        near.append(("near", (rows[~out], labels[~out]), rows[out]))
    return far + near


def judged(score: Score, familiar: tuple[Floats, Names], others: Floats, rates: tuple[float, ...]) -> list[float]:
    """Return the AUROC and, for each rate, the shares of new familiar pictures and of others beyond the limit."""
    rows, labels = familiar
    order = np.random.default_rng(0).permutation(len(rows))
    known, held, new = np.split(order, [int(0.6 * len(rows)), int(0.8 * len(rows))])
    limits, alike, strange = (score(rows[known], labels[known], part) for part in (rows[held], rows[new], others))
    targets = np.repeat([0, 1], [len(alike), len(strange)])
    figures = [float(roc_auc_score(targets, np.concatenate([alike, strange])))]
    for rate in rates:
        limit = np.sort(limits)[len(limits) - 1 - int(rate * len(limits))]
        figures += [float((alike > limit).mean()), float((strange > limit).mean())]
    return figures


def main(
    backbones: Annotated[list[str] | None, typer.Argument()] = None,
    most: int = 90,
    rates: tuple[float, float] = (0.01, 0.05),
) -> None:
    """Print the means over both backbones of AUROC, false alarms and detections."""
    compared = [task for name in backbones or FILES for task in tasks(features_of(name, most))]
    heads = ["score", "pictures", "AUROC", *(f"{what}, at {rate:.0%}" for rate in rates for what in ("alarms", "seen"))]
    table = Table(*heads)
    for name, score in SCORES.items():
        for kind in ("far", "near"):
            figures = [judged(score, of, others, rates) for which, of, others in compared if which == kind]
            table.add_row(name, kind, *(f"{100 * mean:.1f}" for mean in np.mean(figures, axis=0)))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
