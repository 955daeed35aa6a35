"""The exported model: one module from cropped pixels to calibrated answers."""

from collections.abc import Sequence

import torch
from torch import nn

from steps.images.preprocessing import Preprocessing, normalise


class Exported(nn.Module):
    """A grafted network with normalisation before it, prior shift and temperature after it.

    Decoding and resizing are left out: no runtime resizes as Pillow does, and another filter changes the answers.
    """

    shift: torch.Tensor

    def __init__(self, network: nn.Module, spec: Preprocessing, temperature: float, shift: Sequence[float]) -> None:
        super().__init__()
        self.network, self.spec, self.temperature = network, spec, temperature
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))
        self.eval()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map RGB uint8 [n, 3, crop, crop] to calibrated logits and probabilities, float32 [n, classes]."""
        logits = (self.network(normalise(pixels, self.spec)) + self.shift) / self.temperature
        return logits, torch.softmax(logits, dim=1)
