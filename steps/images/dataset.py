"""Batches of labelled images, decoded once, by a few threads a little ahead of the computation."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import WeightedRandomSampler
from torchvision.transforms import v2

from steps.images import decoding
from steps.images.manifest import TRAIN
from steps.images.preprocessing import Preprocessing, normalise, preprocess, resized
from steps.runtime.compute import ComputeParams
from steps.runtime.scratch import Scratch
from steps.runtime.seeding import derive, torch_generator

# Inputs float32 [n, ...]; targets int64 [n], or probabilities float32 [n, classes] of mixed images; weights [n].
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Images:
    """The labelled images of some splits, and how they become tensors."""

    raw: Path
    table: pd.DataFrame
    classes: list[str]
    spec: Preprocessing
    compute: ComputeParams
    pixels: Scratch | None = None  # decoded and resized pictures by id, so that each is decoded once
    balance: str = "weights"  # of training classes by "weights" or "sampling" (rare ones drawn more often); "none"

    def part(self, *splits: str) -> pd.DataFrame:
        """Return the rows of these splits, sorted by path."""
        return self.table[self.table["split"].isin(splits)].sort_values("path")

    def batches(self, *splits: str) -> Iterator[Batch]:
        """Yield preprocessed batches of these splits, in order of path: what evaluation and serving see."""
        part = self.part(*splits)
        rows = list(zip(part["path"], part["id"], strict=True))
        tensors = decoding.parallel(
            lambda row: preprocess(decoding.read_image(self.raw, *row, self.spec.grey_bits), self.spec),
            rows,
            self.compute.threads,
            self._ahead,
        )
        targets, weights = self.targets(part), torch.ones(len(part))
        yield from self._assemble(tensors, targets, weights)

    def augmented(self, augmentation: v2.Transform, seed: int, epoch: int, shuffle: bool = True) -> Iterator[Batch]:
        """Yield the training split shuffled and augmented; torch's global generator is seeded for the epoch.

        Decoding runs in threads, augmentation in the caller's thread: random numbers must not depend on threads.
        """
        part = self.part(TRAIN)
        if shuffle:
            part = part.iloc[self.order(seed, epoch)]
        rows = list(zip(part["path"], part["id"], strict=True))
        decoded = decoding.parallel(lambda row: self._resized(*row), rows, self.compute.threads, self._ahead)
        torch.manual_seed(derive(seed, "augmentation", epoch))
        tensors = (normalise(augmentation(pixels), self.spec) for pixels in decoded)
        yield from self._assemble(tensors, self.targets(part), self.loss_weights(part))

    @property
    def _ahead(self) -> int:
        """Return how many pictures to decode ahead: the next batch is decoded while one is computed on."""
        return 2 * self.compute.batch_size

    def order(self, seed: int, epoch: int) -> list[int]:
        """Return the training split's order in an epoch, as indices into the rows sorted by path.

        Each image comes once. If classes are balanced by sampling, there are as many draws with replacement instead:
        all classes are equally likely, and an image within its class in proportion to its weight.
        """
        part, rng = self.part(TRAIN), torch_generator(seed, "order", epoch)
        if self.balance == "sampling":
            return list(WeightedRandomSampler(self._balanced(part).tolist(), len(part), generator=rng))
        return torch.randperm(len(part), generator=rng).tolist()

    def _resized(self, path: str, identity: str) -> torch.Tensor:
        if self.pixels is not None and identity in self.pixels:
            return self.pixels[identity]
        pixels = resized(decoding.read_image(self.raw, path, identity, self.spec.grey_bits), self.spec)
        if self.pixels is not None:
            self.pixels.keep(identity, pixels)
        return pixels

    def targets(self, part: pd.DataFrame) -> torch.Tensor:
        """Return class indices, int64 [n]."""
        return torch.from_numpy(np.searchsorted(self.classes, part["label"].tolist()).astype(np.int64))

    def loss_weights(self, part: pd.DataFrame) -> torch.Tensor:
        """Return the weight of each image in the loss, float32 [n]: its own, times its class's if classes are weighted.

        With balanced sampling all weigh 1: both weights are already in the draw.
        """
        if self.balance == "sampling":
            return torch.ones(len(part))
        own = torch.tensor(part["weight"].to_numpy(np.float32))
        return own if self.balance == "none" else self._balanced(part).float()

    def _balanced(self, part: pd.DataFrame) -> torch.Tensor:
        targets, own = self.targets(part).numpy(), part["weight"].to_numpy(np.float64)
        balance = compute_class_weight("balanced", classes=np.arange(len(self.classes)), y=targets, sample_weight=own)
        return torch.from_numpy(balance[targets] * own)

    def _assemble(
        self, tensors: Iterator[torch.Tensor], targets: torch.Tensor, weights: torch.Tensor
    ) -> Iterator[Batch]:
        start = 0
        for batch in decoding.batched(tensors, self.compute.batch_size):
            stop = start + len(batch)
            yield torch.stack(batch), targets[start:stop], weights[start:stop]
            start = stop
