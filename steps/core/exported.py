"""What an exported model is, and what it may cost: one module from cropped pixels to calibrated answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm
from torch import nn

from steps.core.preprocessing import Preprocessing, normalise

Floats = npt.NDArray[np.floating[Any]]


class Exported(nn.Module):
    """A grafted network with what stands before and after it: normalisation and temperature.

    Decoding and resizing stay outside: no runtime resizes as Pillow does, and another filter moves the answers.
    """

    def __init__(self, network: nn.Module, spec: Preprocessing, temperature: float) -> None:
        super().__init__()
        self.network, self.spec, self.temperature = network, spec, temperature
        self.eval()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map RGB uint8 [n, 3, crop, crop] to calibrated logits and probabilities, float32 [n, classes]."""
        logits = self.network(normalise(pixels, self.spec)) / self.temperature
        return logits, torch.softmax(logits, dim=1)


@dataclass(frozen=True)
class Cost:
    """What a smaller model loses in accuracy on the same images: mean, interval, and both accuracies."""

    before: float
    after: float
    loss: float
    low: float
    high: float


def cost(targets: npt.NDArray[np.integer[Any]], before: Floats, after: Floats, confidence: float) -> Cost:
    """Return the accuracy that `after` loses against `before`, both probabilities [n, classes] of the same images.

    The interval is that of a difference of paired proportions, half an observation added to each of the four cells:
    Agresti & Min 2005, Statistics in Medicine 24:729. It keeps a width where the two models never differ.
    """
    right_before, right_after = (probabilities.argmax(axis=1) == targets for probabilities in (before, after))
    lost, won = int((right_before & ~right_after).sum()), int((right_after & ~right_before).sum())
    n = len(targets)
    centre = (lost - won) / (n + 2)
    spread = (lost + won + 1) / (n + 2) - centre**2
    half = float(norm.ppf((1 + confidence) / 2)) * float(np.sqrt(spread / (n + 2)))
    return Cost(
        before=float(right_before.mean()), after=float(right_after.mean()), loss=(lost - won) / n,
        low=centre - half, high=centre + half,
    )  # fmt: skip


def refusals(found: Cost, most: float) -> list[str]:
    """Return the reasons not to ship a smaller model: it loses more than `most`, or is shown to be worse."""
    told = f"accuracy {found.after:.3f} instead of {found.before:.3f}, a loss of {found.loss:.3f}"
    reasons = [f"{told}; at most {most} (export.max_loss)"] if found.loss > most else []
    if found.low > 0:
        reasons.append(f"{told}, and the interval ({found.low:.3f} to {found.high:.3f}) says that it is no luck")
    return reasons
