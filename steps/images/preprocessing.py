"""What happens to a decoded image before the backbone sees it: one function for training, evaluation and serving."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Interval, Len
from PIL import Image
from torchvision.transforms.v2 import functional as F

from steps.images import deep_grey
from steps.runtime import artefacts, files

ColourOrder = Literal["RGB", "BGR"]
Value = bool | int | str | list[float]  # of a field, in JSON or YAML


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The preprocessing of a base model's inputs, in the order in which the fields apply.

    `resize` is the length of the shorter side in pixels, `crop` the side of the centred square; `value_range` is
    what 0 and 255 become before `mean` is subtracted and `std` divides, channel by channel in `colour_order`.
    `grey_bits` belongs to the images, not to the base model: the depth of their deep grey as `ingest` measured it,
    which decoding applies; None: 16 bits.
    """

    resize: Annotated[int, Interval(ge=1, le=4096)]
    crop: Annotated[int, Interval(ge=1, le=4096)]
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    antialias: bool
    colour_order: ColourOrder
    value_range: Annotated[tuple[float, ...], Len(2, 2)]
    mean: Annotated[tuple[float, ...], Len(3, 3)]
    std: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(3, 3)]
    grey_bits: Annotated[int, Interval(ge=deep_grey.LEAST, lt=deep_grey.FULL)] | None = field(
        default=None, metadata=artefacts.OPTIONAL
    )

    def faults(self) -> Iterator[str]:
        """Yield values that no pipeline could apply together."""
        if self.crop > self.resize:
            yield f"crop is {self.crop} and resize is {self.resize}; crop at most resize"
        if self.value_range[0] >= self.value_range[1]:
            yield f"value_range is {list(self.value_range)}; two numbers, the lower first"
        if self.grey_bits is not None:
            yield f"grey_bits is {self.grey_bits}; remove it: it is measured over the images"

    def to_dict(self) -> dict[str, Value]:
        """Return plain lists and scalars, in field order, ready for JSON or YAML; without `grey_bits` if it is None."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in files.plain(self).items()}


def resized(image: Image.Image, spec: Preprocessing) -> torch.Tensor:
    """Resize the shorter side of an RGB image; return uint8 [3, height, width].

    Pillow resizes where the filter is antialiased, as torchvision's own presets do; the two libraries' filters
    differ by up to a few grey levels (pytorch/vision#2950), so exactly one of them is used for one specification.
    """
    mode = F.InterpolationMode(spec.interpolation)
    if spec.antialias:
        return F.pil_to_tensor(F.resize(image, [spec.resize], interpolation=mode))  # type: ignore[no-any-return]
    tensor = F.pil_to_tensor(image)
    return F.resize(tensor, [spec.resize], interpolation=mode, antialias=False)  # type: ignore[no-any-return]


def centre_crop(pixels: torch.Tensor, spec: Preprocessing) -> torch.Tensor:
    """Cut the centred square out of uint8 [3, height, width]; return uint8 [3, crop, crop]."""
    return F.center_crop(pixels, [spec.crop, spec.crop])  # type: ignore[no-any-return]


def normalise(pixels: torch.Tensor, spec: Preprocessing) -> torch.Tensor:
    """Scale and normalise uint8 RGB [..., 3, h, w] to float32 of the same shape, channels in `colour_order`.

    For a value range of [0, 1] the operations and their order are torchvision's, so the result is bit-equal to
    `weights.transforms()`.
    """
    if spec.colour_order == "BGR":
        pixels = pixels.flip(-3)
    low, high = spec.value_range
    scaled = pixels.to(torch.float32).div_(255)
    if (low, high) != (0.0, 1.0):
        scaled = scaled.mul_(high - low).add_(low)
    mean = torch.tensor(spec.mean, dtype=torch.float32).view(3, 1, 1)
    std = torch.tensor(spec.std, dtype=torch.float32).view(3, 1, 1)
    return scaled.sub_(mean).div_(std)


def preprocess(image: Image.Image, spec: Preprocessing) -> torch.Tensor:
    """Turn a decoded RGB image into the float32 [3, crop, crop] tensor that the backbone takes."""
    return normalise(centre_crop(resized(image, spec), spec), spec)
