"""Batches of labelled images, decoded by a few threads a little ahead of the computation."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_class_weight
from torchvision.transforms import v2

from steps.adapters import images
from steps.adapters.compute import ComputeParams
from steps.core.fine_tuning import Batch
from steps.core.manifest import TRAIN
from steps.core.preprocessing import Preprocessing, normalise, preprocess, resized
from steps.core.seeding import derive, torch_generator


@dataclass(frozen=True)
class Images:
    """The labelled images of some splits, and how they become tensors."""

    raw: Path
    table: pd.DataFrame
    classes: list[str]
    spec: Preprocessing
    compute: ComputeParams

    def part(self, *splits: str) -> pd.DataFrame:
        """Return the rows of these splits, sorted by path."""
        return self.table[self.table["split"].isin(splits)].sort_values("path")

    def batches(self, *splits: str) -> Iterator[Batch]:
        """Yield preprocessed batches of these splits, in order of path: what evaluation and serving see."""
        part = self.part(*splits)
        rows = list(zip(part["path"], part["id"], strict=True))
        tensors = images.parallel(
            lambda row: preprocess(images.read_image(self.raw, *row), self.spec), rows, self.compute.threads
        )
        targets, weights = self.targets(part), torch.ones(len(part))
        yield from self._assemble(tensors, targets, weights)

    def augmented(self, augmentation: v2.Transform, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the training split shuffled and augmented; torch's global generator is seeded for the epoch.

        Decoding runs in threads, augmentation in the caller's: luck must not depend on which thread was first.
        """
        part = self.part(TRAIN)
        order = torch.randperm(len(part), generator=torch_generator(seed, "order", epoch)).tolist()
        part = part.iloc[order]
        rows = list(zip(part["path"], part["id"], strict=True))
        decoded = images.parallel(
            lambda row: resized(images.read_image(self.raw, *row), self.spec), rows, self.compute.threads
        )
        torch.manual_seed(derive(seed, "augmentation", epoch))
        tensors = (normalise(augmentation(pixels), self.spec) for pixels in decoded)
        yield from self._assemble(tensors, self.targets(part), self.loss_weights(part))

    def targets(self, part: pd.DataFrame) -> torch.Tensor:
        """Return class indices, int64 [n]."""
        return torch.from_numpy(np.searchsorted(self.classes, part["label"].tolist()).astype(np.int64))

    def loss_weights(self, part: pd.DataFrame) -> torch.Tensor:
        """Return the weight of each image in the loss, float32 [n]: its own times its class's balance."""
        targets, own = self.targets(part).numpy(), part["weight"].to_numpy(np.float64)
        balance = compute_class_weight("balanced", classes=np.arange(len(self.classes)), y=targets, sample_weight=own)
        return torch.from_numpy((balance[targets] * own).astype(np.float32))

    def _assemble(
        self, tensors: Iterator[torch.Tensor], targets: torch.Tensor, weights: torch.Tensor
    ) -> Iterator[Batch]:
        start = 0
        for batch in images.batched(tensors, self.compute.batch_size):
            stop = start + len(batch)
            yield torch.stack(batch), targets[start:stop], weights[start:stop]
            start = stop


def augmentation(spec: Preprocessing, least_area: float, horizontal_flip: bool) -> v2.Transform:
    """Return uint8 [3, h, w] -> uint8 [3, crop, crop]: a random part of the picture, perhaps mirrored.

    The part covers `least_area` to all of the area (Szegedy et al. 2015); resampled by the backbone's own filter.
    """
    crop = v2.RandomResizedCrop(
        spec.crop,
        scale=(least_area, 1.0),
        interpolation=v2.InterpolationMode(spec.interpolation),
        antialias=True,
    )
    return v2.Compose([crop, v2.RandomHorizontalFlip(0.5 if horizontal_flip else 0.0)])
