"""A sample pushed through the real loader and the real backbone, to see which preprocessing fits."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from steps.adapters import models
from steps.adapters.images import read_image
from steps.adapters.loaders import Images
from steps.core import observed
from steps.core.manifest import TRAIN
from steps.core.observed import Account
from steps.core.preprocessing import INTERPOLATIONS, Preprocessing, preprocess
from steps.core.rules import DECLARED


def observe(images: Images, backbone: Path, sample: int) -> tuple[dict[str, Account], dict[str, float | None]]:
    """Return account -> how well it fits, from the first `sample` training images in order of their ids.

    And block -> how far its activations, prepared as declared, lie from the source's (`observed.by_block`).
    """
    card, network, _ = models.load_backbone(backbone)
    part = images.part(TRAIN).sort_values("id").head(sample)
    some = replace(images, table=part)
    came = torch.cat([tensors for tensors, _, _ in some.batches(TRAIN)])
    accounts = {
        **{name: (tensors, observed.on_grid(tensors, images.spec))
           for name, tensors in observed.undone(came, images.spec).items()},
        **{name: (_prepared(some, spec), None) for name, spec in _others(images.spec).items()},
    }  # fmt: skip
    distances = {name: observed.activation_distances(network, tensors) for name, (tensors, _) in accounts.items()}
    return {
        name: Account(
            on_grid,
            observed.input_distance(tensors, images.spec, card.input_statistics),
            observed.averaged(distances[name].values()),
        )
        for name, (tensors, on_grid) in accounts.items()
    }, observed.by_block(network, distances[DECLARED])


def _others(spec: Preprocessing) -> dict[str, Preprocessing]:
    """Return the same preprocessing with another filter, or without the margin that the crop cuts off."""
    filters = {f"{name} filter": replace(spec, interpolation=name) for name in INTERPOLATIONS}
    del filters[f"{spec.interpolation} filter"]
    other = {"the other antialiasing": replace(spec, antialias=not spec.antialias)}
    margin = {"resized to the crop": replace(spec, resize=spec.crop)} if spec.resize != spec.crop else {}
    return filters | other | margin


def _prepared(images: Images, spec: Preprocessing) -> torch.Tensor:
    part: pd.DataFrame = images.part(TRAIN)
    rows = zip(part["path"], part["id"], strict=True)
    return torch.stack([preprocess(read_image(images.raw, *row), spec) for row in rows])
