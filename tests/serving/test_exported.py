"""What an export computes: what the network does, with what stands before and after it."""

import torch
from torch import nn

from steps.images.preprocessing import normalise
from steps.serving.exported import Exported
from tests.made import spec

SPEC = spec(8, 8, colour_order="BGR", value_range=(-1.0, 1.0), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def test_an_exported_model_normalises_and_calibrates() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    shift = (0.5, -0.5, 0.0, 1.0)
    with torch.no_grad():
        logits, probabilities = Exported(network, SPEC, 2.5, shift)(pixels)
        wanted = (network(normalise(pixels, SPEC)) + torch.tensor(shift)) / 2.5
    assert torch.allclose(logits, wanted) and torch.allclose(probabilities, wanted.softmax(dim=1))
