"""Robustness: the accuracy on pictures corrupted as by cameras and messengers. Reported, not gated.

Kinds after ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261), on the square that the network sees; blur is
relative to the square's side, so that small and large networks are comparable.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

from steps.backbones.inference import predict_logits
from steps.evaluation.intervals import share
from steps.evaluation.results import CorruptedAccuracy, Robustness
from steps.images.preprocessing import Preprocessing, normalise
from steps.runtime.arrays import Ints

STRENGTHS = ("mild", "strong")
UNCHANGED = "as they are"
Corruption = Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]


def _blurred(pixels: torch.Tensor, share: float, _: torch.Generator) -> torch.Tensor:
    sigma = share * pixels.shape[-1]
    return F.gaussian_blur(pixels, [2 * math.ceil(2 * sigma) + 1] * 2, [sigma])  # type: ignore[no-any-return]


def _noisy(pixels: torch.Tensor, std: float, rng: torch.Generator) -> torch.Tensor:
    noise = 255 * std * torch.randn(pixels.shape, generator=rng)
    return (pixels + noise).round().clamp(0, 255).to(torch.uint8)


def _compressed(pixels: torch.Tensor, quality: float, _: torch.Generator) -> torch.Tensor:
    return torch.stack([F.jpeg(picture, int(quality)) for picture in pixels])


def _lit(pixels: torch.Tensor, factor: float, _: torch.Generator) -> torch.Tensor:
    return F.adjust_brightness(pixels, factor)  # type: ignore[no-any-return]


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float]]] = {  # kind -> function, and its amounts: mild, strong
    "blur": (_blurred, (1 / 64, 1 / 32)),
    "noise": (_noisy, (0.08, 0.18)),
    "JPEG": (_compressed, (25, 10)),
    "darker": (_lit, (0.6, 0.3)),
    "brighter": (_lit, (1.4, 2.0)),
}


def corrupted(pixels: torch.Tensor, kind: str, strength: str, rng: torch.Generator) -> torch.Tensor:
    """Apply a corruption of `CORRUPTIONS` to uint8 [n, 3, s, s], in one of the `STRENGTHS`."""
    corruption, amounts = CORRUPTIONS[kind]
    return corruption(pixels, amounts[STRENGTHS.index(strength)], rng)


def look(
    network: nn.Module,
    pixels: torch.Tensor,
    targets: Ints,
    cluster: Ints,
    spec: Preprocessing,
    rng: torch.Generator,
    batch_size: int,
    confidence: float,
) -> Robustness:
    """Return the number of images, one row per kind and strength (unchanged pictures first), and the worst row.

    A row has the accuracy with Wilson's interval and the agreement with the answers to the unchanged pictures.
    `pixels`: uint8 [n, 3, s, s] as the network sees them before normalisation; `targets`: class indices [n]; images
    of one `cluster` [n] err together.
    """

    def answers(shown: torch.Tensor) -> npt.NDArray[np.int64]:
        parts = [
            predict_logits(network, normalise(batch, spec)).argmax(axis=1) for batch in torch.split(shown, batch_size)
        ]
        return np.concatenate(parts).astype(np.int64)

    usual = answers(pixels)
    predictions = {(UNCHANGED, ""): usual} | {
        (kind, strength): answers(corrupted(pixels, kind, strength, rng))
        for kind in CORRUPTIONS
        for strength in STRENGTHS
    }
    rows = tuple(
        CorruptedAccuracy(
            kind,
            strength,
            agreement=float((predicted == usual).mean()),
            accuracy=share(predicted == targets, cluster, confidence),
        )
        for (kind, strength), predicted in predictions.items()
    )
    return Robustness(len(targets), rows, worst=min(rows[1:], key=lambda row: row.accuracy.known))
