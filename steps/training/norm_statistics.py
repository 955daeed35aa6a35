"""BatchNorm's statistics, estimated anew from training images in one pass: PreciseBN.

Running averages follow the weights at the momentum of the architecture: MobileNetV3 needs hundreds of batches (0.01),
MNASNet thousands (0.0003), and a training on few images ends long before. Wu and Johnson 2021 (arXiv 2105.07576,
section 3).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from steps.images.dataset import Batch

ENOUGH = 1024  # images: more change the statistics little (section 3.2), and each costs a forward pass


def estimate(norms: list[nn.Module], model: nn.Module, network: nn.Module, batches: Iterable[Batch]) -> None:
    """Replace the statistics of these BatchNorms by those of the batches; all else of `model` evaluates.

    `network` maps the batches' inputs to logits, through the norms. Leaves `model` in evaluation mode.
    """
    followers: list[Any] = norms
    momenta = [norm.momentum for norm in followers]
    model.eval()
    for norm in followers:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    with torch.no_grad():
        for inputs, _, _ in batches:
            if len(inputs) > 1:  # one image has no variance between images
                network(inputs)
    for norm, momentum in zip(followers, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def enough(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield whole batches of about `ENOUGH` images: a smaller last one would count as much as the others."""
    seen, size = 0, 0
    for batch in batches:
        size = size or len(batch[0])
        if len(batch[0]) < size or seen >= ENOUGH:
            return
        seen += size
        yield batch
