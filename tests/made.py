"""What tests of several rooms make alike."""

from typing import Any

from steps.images.preprocessing import Preprocessing


def spec(resize: int, crop: int, **other: Any) -> Preprocessing:
    """Return a preprocessing with ImageNet's mean and std, unless the test names others."""
    usual = {
        "interpolation": "bilinear",
        "antialias": True,
        "colour_order": "RGB",
        "value_range": (0.0, 1.0),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return Preprocessing(resize=resize, crop=crop, **{**usual, **other})
