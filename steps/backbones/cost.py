"""A network's cost: floating-point operations per block, counted on shapes, without computing anything."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from steps.backbones.backbone import blocks, learnable, skeleton, units, without_top


def block_flops(architecture: str, num_classes: int, side: int, cut: str = "") -> dict[str, float]:
    """Return the FLOPs (two per multiply-add) of one picture's forward pass through each block that holds parameters.

    `side` is the side of the square input in pixels; `cut` names the last block, "" is all of them. Matrix products
    and convolutions are counted, as torch counts them; operations between the blocks are small in comparison.
    """
    with torch.device("meta"):
        pixels = torch.empty(1, 3, side, side)
    backbone = without_top(skeleton(architecture, num_classes, side))[0].eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        backbone(pixels)
    counted = {name: float(sum(of_kind.values())) for name, of_kind in counter.get_flop_counts().items()}
    root = type(backbone).__name__
    names, tensors = learnable(backbone), blocks(backbone)
    kept = names[: names.index(cut) + 1] if cut else names
    modules = {block: units(tensors[block], backbone.state_dict()) for block in kept}
    return {block: sum(counted.get(f"{root}.{module}", 0.0) for module in modules[block]) for block in kept}


def dense_share(architecture: str, num_classes: int, side: int) -> float:
    """Return the share of a backbone's parameters in fully connected layers after its maps or tokens.

    `side` is the side of the square pictures, which some architectures are made for.
    AlexNet and VGG have such layers. The linear layers inside ConvNeXt or a transformer work position by position,
    like a convolution.
    """
    backbone = without_top(skeleton(architecture, num_classes, side))[0]
    dense = {
        name
        for block in learnable(backbone)
        if block.startswith(("classifier", "fc"))
        for name in blocks(backbone)[block]
    }
    sizes = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
    return sum(size for name, size in sizes.items() if name in dense) / sum(sizes.values())
