"""The frozen forward pass of extraction: how a network is prepared for it, and how a batch is computed."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from steps.backbones.backbone import BATCH_NORMS, Tracer, blocks, features_at
from steps.backbones.inference import PRECISIONS, Precision

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How the forward pass is computed. Every field changes the last bits of the features, bfloat16 the third digit."""

    precision: Precision
    channels_last: bool
    fold_norms: bool
    compiled: bool
    device: Literal["cpu", "cuda", "mps"]


def cut_names(backbone: nn.Module, count: int) -> list[str]:
    """Return `count` depths to tap, fewer if there are fewer blocks: "" for the whole, then block names inwards.

    They divide the blocks evenly: of 9 blocks, 3 cuts are the whole, the end of the 6th and the end of the 3rd.
    """
    names = list(blocks(backbone))
    ends = [round(len(names) * kept / count) for kept in range(count - 1, 0, -1)]
    return ["", *dict.fromkeys(names[end - 1] for end in ends if 0 < end < len(names))]


def folded(network: nn.Module) -> nn.Module:
    """Multiply each BatchNorm into the convolution before it, in place (Jacob et al. 2018, section 3.2); return it.

    Only if the convolution feeds nothing else and both are called once: otherwise the result would differ. A network
    whose code looks at sizes (some of timm's) cannot be traced to the layers, and stays as it is.
    """
    try:
        graph = Tracer().trace(network)
    except Exception:  # fx and the code of a network raise many types
        return network
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in nodes)
    for node in nodes:
        source, norm = node.args[0], network.get_submodule(node.target)
        if source not in nodes or not isinstance(norm, BATCH_NORMS):
            continue
        before = network.get_submodule(source.target)
        if isinstance(before, nn.Conv2d) and len(source.users) == calls[source.target] == calls[node.target] == 1:
            network.set_submodule(source.target, fuse_conv_bn_eval(before, norm))
            network.set_submodule(node.target, nn.Identity())
    return network


class Forward:
    """A backbone's forward pass up to each of some cuts, batches padded to one size, float32 in and out.

    Padding is needed because a batch of 1 and a batch of 32 differ in their last bits, while the rows of a batch do
    not depend on each other. bfloat16 holds weights and activations with 8 bits of mantissa, sums in float32.
    """

    def __init__(self, backbone: nn.Module, cuts: Sequence[str], mode: Mode, size: int) -> None:
        network = copy.deepcopy(backbone).eval()
        network = features_at(folded(network) if mode.fold_norms else network, cuts)
        self._layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        self._dtype, self._device, self._size = PRECISIONS[mode.precision], torch.device(mode.device), size
        self._network = network.to(self._device, self._dtype).to(memory_format=self._layout)
        self._run = torch.compile(self._network, options={"freezing": True}) if mode.compiled else self._network

    def __call__(self, pixels: torch.Tensor) -> dict[str, Floats]:
        """Map preprocessed float32 [n, 3, h, w], n at most the batch size, to {cut: [n, width]}."""
        padding = torch.zeros(self._size - len(pixels), *pixels.shape[1:])
        return self._features(self._run, torch.cat([pixels, padding]), len(pixels))

    def uncompiled(self, pixels: torch.Tensor) -> dict[str, Floats]:
        """Map [n, 3, h, w] to {cut: [n, width]} without padding and without the compiler: quick for a single image."""
        return self._features(self._network, pixels, len(pixels))

    def _features(
        self, network: Callable[..., dict[str, torch.Tensor]], batch: torch.Tensor, count: int
    ) -> dict[str, Floats]:
        batch = batch.to(self._device, self._dtype, memory_format=self._layout)
        with torch.no_grad():  # not inference mode, which the compiler's freezing does not know
            return {cut: features[:count].float().cpu().numpy() for cut, features in network(batch).items()}
