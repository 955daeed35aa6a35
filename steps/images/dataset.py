"""Batches of labelled images, decoded once, by a few threads a little ahead of the computation."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.utils.data import WeightedRandomSampler
from torchvision.transforms import v2

from steps.images import decoding as images
from steps.runtime.compute import ComputeParams
from steps.runtime.progress import track
from steps.runtime.scratch import Scratch
from steps.backbones.backbone import Grafted
from steps.training.fine_tuning import Batch
from steps.backbones.inference import frozen_pass
from steps.images.manifest import TRAIN, VAL
from steps.images.preprocessing import Preprocessing, centre_crop, normalise, preprocess, resized
from steps.runtime.seeding import derive, torch_generator
from steps.errors import ParamsError, RequestError


@dataclass(frozen=True)
class Images:
    """The labelled images of some splits, and how they become tensors."""

    raw: Path
    table: pd.DataFrame
    classes: list[str]
    spec: Preprocessing
    compute: ComputeParams
    pixels: Scratch | None = None  # decoded and resized pictures by id: what is shown again is not decoded again
    balance: str = "weights"  # of training's classes: rare ones weigh more; "sampling": are drawn more often; "none"

    def part(self, *splits: str) -> pd.DataFrame:
        """Return the rows of these splits, sorted by path."""
        return self.table[self.table["split"].isin(splits)].sort_values("path")

    def batches(self, *splits: str) -> Iterator[Batch]:
        """Yield preprocessed batches of these splits, in order of path: what evaluation and serving see."""
        part = self.part(*splits)
        rows = list(zip(part["path"], part["id"], strict=True))
        tensors = images.parallel(
            lambda row: preprocess(images.read_image(self.raw, *row), self.spec),
            rows,
            self.compute.threads,
            self._ahead,
        )
        targets, weights = self.targets(part), torch.ones(len(part))
        yield from self._assemble(tensors, targets, weights)

    def augmented(self, augmentation: v2.Transform, seed: int, epoch: int, shuffle: bool = True) -> Iterator[Batch]:
        """Yield the training split shuffled and augmented; torch's global generator is seeded for the epoch.

        Decoding runs in threads, augmentation in the caller's: luck must not depend on which thread was first.
        """
        part = self.part(TRAIN)
        if shuffle:
            part = part.iloc[self.order(seed, epoch)]
        rows = list(zip(part["path"], part["id"], strict=True))
        decoded = images.parallel(lambda row: self._resized(*row), rows, self.compute.threads, self._ahead)
        torch.manual_seed(derive(seed, "augmentation", epoch))
        tensors = (normalise(augmentation(pixels), self.spec) for pixels in decoded)
        yield from self._assemble(tensors, self.targets(part), self.loss_weights(part))

    @property
    def _ahead(self) -> int:
        """Return how many pictures to decode ahead: the next batch is ready while one is computed on."""
        return 2 * self.compute.batch_size

    def order(self, seed: int, epoch: int) -> list[int]:
        """Return the training split's order in an epoch, as places in the order of paths.

        Each image once; where classes are balanced by sampling, as many draws with replacement instead, in which each
        class is as likely as another and an image within its class as likely as its own weight says.
        """
        part, luck = self.part(TRAIN), torch_generator(seed, "order", epoch)
        if self.balance == "sampling":
            return list(WeightedRandomSampler(self._balanced(part).tolist(), len(part), generator=luck))
        return torch.randperm(len(part), generator=luck).tolist()

    def _resized(self, path: str, identity: str) -> torch.Tensor:
        if self.pixels is not None and identity in self.pixels:
            return self.pixels[identity]
        found = resized(images.read_image(self.raw, path, identity), self.spec)
        if self.pixels is not None:
            self.pixels.keep(identity, found)
        return found

    def targets(self, part: pd.DataFrame) -> torch.Tensor:
        """Return class indices, int64 [n]."""
        return torch.from_numpy(np.searchsorted(self.classes, part["label"].tolist()).astype(np.int64))

    def loss_weights(self, part: pd.DataFrame) -> torch.Tensor:
        """Return the weight of each image in the loss, float32 [n]: its own, times its class's balance if so balanced.

        Where the draw is balanced all weigh 1: the draw has counted both already.
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
        for batch in images.batched(tensors, self.compute.batch_size):
            stop = start + len(batch)
            yield torch.stack(batch), targets[start:stop], weights[start:stop]
            start = stop


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Batches as the first trainable block sees them: images that went through the frozen part.

    What is shown again does not go through it again: validation pictures never change, and training pictures only
    where `views` is 0 (each epoch its own). Otherwise there are `views` versions of each, used in turn.
    """

    images: Images
    frozen: nn.Module
    augment: v2.Transform
    mix: Callable[[Batch], Batch]
    views: int
    precision: str
    seed: int
    kept: Scratch = field(default_factory=Scratch)

    def train(self, epoch: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch; torch's global generator is seeded for it."""
        if self.views:
            yield from self._again(epoch)
            return
        for batch in self.images.augmented(self.augment, self.seed, epoch):
            pixels, targets, weights = self.mix(batch)
            yield frozen_pass(self.frozen, pixels, self.precision), targets, weights

    def val(self, _: int) -> Iterator[Batch]:
        """Yield the validation batches, the same in every epoch."""
        part = self.images.part(VAL)
        self._keep(VAL, len(part), lambda: self.images.batches(VAL))
        yield from self._kept(VAL, list(range(len(part))), self.images.targets(part), torch.ones(len(part)))

    def _again(self, epoch: int) -> Iterator[Batch]:
        view, part = (epoch - 1) % self.views, self.images.part(TRAIN)
        shown = lambda: self.images.augmented(self.augment, self.seed, view + 1, shuffle=False)  # noqa: E731
        self._keep(view, len(part), shown)
        torch.manual_seed(derive(self.seed, "augmentation", epoch))  # what is left of luck is dropout's
        order = self.images.order(self.seed, epoch)
        yield from self._kept(view, order, self.images.targets(part)[order], self.images.loss_weights(part)[order])

    def _keep(self, name: str | int, count: int, batches: Callable[[], Iterator[Batch]]) -> None:
        """Compute and keep the activations of a split or view, unless all of them are there."""
        if (name, count - 1) in self.kept:
            return
        position = 0
        for pixels, _, _ in batches():
            for row in frozen_pass(self.frozen, pixels, self.precision):
                if not self.kept.keep((name, position), row):
                    raise RequestError(
                        f"no room on the disk for activations of {count} images of {row.numel() * 4} bytes each; "
                        "free some, or set fine_tune.views: 0"
                    )
                position += 1

    def _kept(self, name: str | int, order: list[int], targets: torch.Tensor, weights: torch.Tensor) -> Iterator[Batch]:
        size = self.images.compute.batch_size
        for start in range(0, len(order), size):
            rows = [self.kept[name, place] for place in order[start : start + size]]
            yield torch.stack(rows), targets[start : start + size], weights[start : start + size]


def refuse_single_images(model: Grafted, compute: ComputeParams) -> None:
    """Raise ParamsError where every batch would be one image, and BatchNorm has to make statistics of it."""
    if compute.batch_size < 2 and model.norms_follow("train", "adapt"):
        raise ParamsError([
            f"compute.batch_size is {compute.batch_size}; at least 2 where BatchNorm learns, which can make no "
            "statistics of one image (training from scratch, or fine_tune.bn_policy other than frozen)"
        ])  # fmt: skip


def tracked(batches: Iterable[Batch], images: Images, model: Grafted, what: str) -> Iterator[Batch]:
    """Yield an epoch's batches and show how far it is, without a last single image where BatchNorm learns."""
    least = 2 if model.norms_follow("train") else 1
    found = track(batches, len(images.part(TRAIN)), what, images.compute.batch_size)
    return (batch for batch in found if len(batch[1]) >= least)


def augmentation(spec: Preprocessing, kind: str, least_area: float, horizontal_flip: bool) -> v2.Transform:
    """Return uint8 [3, h, w] -> uint8 [3, crop, crop]: the centre, or a random part of the picture, perhaps mirrored.

    "none" is what evaluation sees. "crop" takes a part of `least_area` to all of the area (Szegedy et al. 2015),
    resampled by the backbone's own filter; "trivial" changes colours or geometry before (TrivialAugment, Mueller and
    Hutter 2021).
    """
    if kind == "none":
        return v2.Lambda(lambda pixels: centre_crop(pixels, spec))
    crop = v2.RandomResizedCrop(
        spec.crop,
        scale=(least_area, 1.0),
        interpolation=v2.InterpolationMode(spec.interpolation),
        antialias=True,
    )
    steps = [crop, v2.RandomHorizontalFlip(0.5 if horizontal_flip else 0.0)]
    return v2.Compose([v2.TrivialAugmentWide(), *steps] if kind == "trivial" else steps)


def mixing(kind: str, alpha: float, classes: int) -> Callable[[Batch], Batch]:
    """Return what blends each image of a batch with another, and their targets and weights with them.

    "mixup" averages the pixels (Zhang et al. 2018), "cutmix" pastes a rectangle (Yun et al. 2019), "none" does nothing.
    """
    if kind == "none":
        return lambda batch: batch
    blend = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](alpha=alpha)

    def mixed(batch: Batch) -> Batch:
        pixels, targets, weights = batch
        # A weight rides in its target's row, so that both are blended by the same share.
        pixels, weighted = blend(pixels, nn.functional.one_hot(targets, classes) * weights[:, None])
        sums = weighted.sum(dim=1)
        return pixels, weighted / sums.clamp_min(torch.finfo(sums.dtype).tiny)[:, None], sums

    return mixed
