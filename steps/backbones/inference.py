"""From a preprocessed batch to probabilities: one implementation for early stopping, evaluation and serving."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from steps.runtime.arrays import Floats

Precision = Literal["float32", "bfloat16"]
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Return [n, c, h, w] in the memory layout [n, h, w, c], where CPU convolutions are faster; others unchanged.

    It changes float32 results by a few units in the last place, so serving must do the same as evaluation.
    """
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def frozen_pass(frozen: nn.Module, images: torch.Tensor, precision: str) -> torch.Tensor:
    """Map float32 images [n, 3, h, w] to the float32 output of a frozen module, in evaluation mode, no gradients."""
    dtype = PRECISIONS[precision]
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        output: torch.Tensor = frozen.eval()(channels_last(images))
    return output.float()


def predict_logits(model: nn.Module, images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Map float32 [n, 3, h, w] to float64 logits [n, classes], eager, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        logits = model(channels_last(images))
        return logits.to(torch.float64).numpy()  # type: ignore[no-any-return]


def predict_probabilities(
    model: nn.Module, images: torch.Tensor, temperature: float = 1.0, shift: Sequence[float] | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Map float32 [n, 3, h, w] to float64 probabilities [n, classes]: softmax((logits + shift) / temperature)."""
    return probabilities_of(predict_logits(model, images), temperature, shift)


def probabilities_of(
    logits: Floats, temperature: float, shift: Sequence[float] | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Map float64 logits [n, classes] to float64 probabilities: softmax((logits + shift) / temperature)."""
    given = torch.from_numpy(logits)
    shifted = given if shift is None else given + torch.tensor(shift, dtype=torch.float64)
    return torch.softmax(shifted / temperature, dim=1).numpy()
