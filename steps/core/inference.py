"""From a preprocessed batch to probabilities: the one way, for early stopping, evaluation and serving alike."""

from typing import Any

import numpy as np
import torch
from torch import nn


def predict_probabilities(model: nn.Module, images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Map float32 [n, 3, h, w] to float64 probabilities [n, classes], eager, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        return torch.softmax(model(images).to(torch.float64), dim=1).numpy()
