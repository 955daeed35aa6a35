"""What tests of several rooms make alike."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from steps.checks.rules import DataLimits
from steps.images.preprocessing import Preprocessing
from steps.runtime import params, stage
from steps.validate import validate

Settings = TypeVar("Settings")


def params_of(function: Callable[..., None], **changes: Any) -> Any:
    """Return the params of a stage as params.yaml has them, but for `changes`."""
    return replace(stage.values(function, params.read(Path(__file__).parents[1]))["params"], **changes)


def limits(**changes: Any) -> DataLimits:
    """Return the limits of the gate as params.yaml has them, but for `changes`."""
    values = params_of(validate, **changes)
    return DataLimits(**{name: getattr(values, name) for name in DataLimits.__dataclass_fields__})


def every_key(kind: type[Settings], level: str) -> Settings:
    """Return the severities of a gate, all of them `level`."""
    return kind(**dict.fromkeys(kind.__dataclass_fields__, level))  # type: ignore[attr-defined]


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
