"""Familiarity: how far a picture's features are from those of the training images, and from where on it is unfamiliar.

The distance is one minus the cosine similarity to the nearest training image (Sun et al. 2022, arXiv 2204.06507, with
one neighbour). `python -m tests.studies.unfamiliar` compares it with Mahalanobis distances and with the probability of
the answer; of few images, the covariances of the relative Mahalanobis distance (Ren et al. 2021, arXiv 2106.09022) are
too poor an estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from steps.backbones.backbone import Grafted
from steps.backbones.inference import channels_last
from steps.runtime.arrays import Bools, Floats

MOST = 1000  # training images whose features are kept: 8 MB at a width of 2,048
FILE, KNOWN, THRESHOLD = "familiarity.safetensors", "known", "threshold"


@dataclass(frozen=True)
class Familiarity:
    """Features of training images, float32 [m, width] of length 1, and the distance beyond which one is unfamiliar."""

    known: torch.Tensor
    threshold: float

    def unfamiliar(self, features: torch.Tensor) -> Bools:
        """Map features [n, width] to whether each is unfamiliar, [n]."""
        return distances(features, self.known) > self.threshold

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return what a file holds, named with a prefix."""
        threshold = torch.tensor([self.threshold], dtype=torch.float64)
        return {f"{prefix}{KNOWN}": self.known, f"{prefix}{THRESHOLD}": threshold}


def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Familiarity:
    """Return the measure that these tensors (without prefix) hold."""
    return Familiarity(tensors[KNOWN], float(tensors[THRESHOLD]))


def fitted(known: torch.Tensor, held: torch.Tensor, rate: float) -> Familiarity:
    """Return the measure of training features [m, width]; at most a share `rate` of `held` [n, width] is unfamiliar.

    `held` are the features of validation images, which no training image is among. With fewer than 1 / `rate` of them
    the farthest sets the threshold.
    """
    rows = _unit(known)
    ordered = sorted(distances(held, rows).tolist())
    return Familiarity(rows, ordered[len(ordered) - 1 - int(rate * len(ordered))])


def distances(features: torch.Tensor, known: torch.Tensor) -> Floats:
    """Return the cosine distance of features [n, width] to the nearest row of `known` (of length 1), float64 [n].

    In float64: a picture alone and in a batch are the same distance away.
    """
    nearest = (_unit(features).double() @ known.double().T).amax(dim=1)
    return (1 - nearest).numpy()


def _unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features.float(), dim=1)


def outputs(model: Grafted, images: torch.Tensor) -> tuple[torch.Tensor, Floats]:
    """Map float32 [n, 3, h, w] to features [n, width] and float64 logits [n, classes], eager, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        features = model.features(channels_last(images))
        return features, model.head(features).to(torch.float64).numpy()
