"""Class activation: the regions of a picture that support the network's answer.

Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), as captum computes it: the last map of features, each channel
weighted by the mean gradient of the answer's logit, summed, and cut off below zero.
"""

import torch

from steps.backbones.backbone import Grafted

HEAT = (255, 140, 0)  # orange: differs from grey in lightness too
STRONGEST = 0.7  # share of the colour at the hottest pixel: the picture stays visible under it


def last_map(model: Grafted, side: int) -> str | None:
    """Return the last block whose output is a map [n, c, h, w] of more than one position; None if there is none.

    A vision transformer ends in tokens, which are no map, though it begins with one; a map smaller than two by two
    has no positions to distinguish.
    """
    outputs: list[tuple[str, object]] = []
    modules = dict(model.backbone.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda _module, _inputs, out, name=name: outputs.append((name, out)))
        for name in model.blocks
        if name in modules
    ]
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    spread = [(name, out) for name, out in outputs if isinstance(out, torch.Tensor) and out.dim() > 2]
    return spread[-1][0] if spread and _is_map(spread[-1][1]) else None


def _is_map(output: torch.Tensor) -> bool:
    if output.dim() != 4:
        return False
    height, width = output.shape[2:]
    # A Swin transformer's map has its channels last: its height and width stand where channels would
    return min(height, width) > 1 and output.shape[1] >= max(height, width)


def heat_of(model: Grafted, block: str, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return how much each pixel supports the class, from 0 to 1, [n, h, w], for images float32 [n, 3, h, w].

    The hottest pixel of every picture is 1; all are 0 if nothing supports the class.
    """
    from captum.attr import LayerAttribution, LayerGradCam  # type: ignore[import-untyped]

    gradients = LayerGradCam(model.eval(), model.backbone.get_submodule(block))
    images = images.clone().requires_grad_()  # frozen parameters take no gradient; without one there is no map
    coarse = gradients.attribute(images, target=classes, relu_attributions=True).detach()
    size = tuple(images.shape[-2:])
    heat: torch.Tensor = LayerAttribution.interpolate(coarse, size, interpolate_mode="bilinear")[:, 0]
    return heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def tinted(pixels: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Turn a picture, uint8 [3, h, w], grey and lay heat [h, w] over it in orange: where the answer comes from."""
    grey = pixels.to(torch.float32).mean(dim=0, keepdim=True)
    share = STRONGEST * heat
    colour = torch.tensor(HEAT, dtype=torch.float32).view(3, 1, 1)
    return ((1 - share) * grey + share * colour).round().clamp(0, 255).to(torch.uint8)
