"""glyphnet: the small residual network that the embedded example transfers, trained by `tests.studies.pretrain`."""

import torch
from torch import nn


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016); `stride` halves the map."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, 3, stride), nn.ReLU(), *_convolution(outputs, outputs, 3, 1)
        )
        self.shortcut = nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        return torch.relu(self.body(maps) + self.shortcut(maps))


class GlyphNet(nn.Module):
    """A stem, two residual blocks, a 2x2 grid of averages, and one linear layer; 16x16 pixels in."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(*_convolution(3, 32, 3, 1), nn.ReLU()), Residual(32, 64, 2), Residual(64, 128, 2)
        )
        self.pool = nn.AdaptiveAvgPool2d(2)  # a grid, not one average: the position of a stroke separates 6 from 9
        self.classifier = nn.Linear(4 * 128, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32 [n, 3, h, w] to logits [n, num_classes]."""
        return self.classifier(self.pool(self.features(images)).flatten(1))  # type: ignore[no-any-return]


def glyphnet(num_classes: int) -> GlyphNet:
    """Return the network, randomly initialised."""
    return GlyphNet(num_classes)


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)
