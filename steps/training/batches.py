"""Training batches: augmented, mixed, and as the first trainable block receives them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Interval
from torch import nn
from torchvision.transforms import v2

from steps.backbones.backbone import Grafted
from steps.backbones.inference import frozen_pass
from steps.errors import ParamsError, RequestError
from steps.images.dataset import Batch, Images
from steps.images.manifest import TRAIN, VAL
from steps.images.preprocessing import Preprocessing, centre_crop
from steps.runtime.compute import ComputeParams
from steps.runtime.progress import track
from steps.runtime.scratch import Scratch
from steps.runtime.seeding import derive

LeastArea = Annotated[float, Interval(ge=0.05, le=1)]  # share of a picture that a random crop keeps at least


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Batches as the first trainable block receives them: images that went through the frozen part.

    Repeated pictures do not go through it again: validation pictures never change, and training pictures only
    if `views` is 0 (new in each epoch). Otherwise there are `views` versions of each, used in turn.
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
        torch.manual_seed(derive(self.seed, "augmentation", epoch))  # the only randomness left is dropout's
        order = self.images.order(self.seed, epoch)
        yield from self._kept(view, order, self.images.targets(part)[order], self.images.loss_weights(part)[order])

    def _keep(self, name: str | int, count: int, batches: Callable[[], Iterator[Batch]]) -> None:
        """Compute and keep the activations of a split or view, unless all of them are stored."""
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
            activations = [self.kept[name, index] for index in order[start : start + size]]
            yield torch.stack(activations), targets[start : start + size], weights[start : start + size]


def refuse_single_images(model: Grafted, compute: ComputeParams) -> None:
    """Raise ParamsError if every batch would be one image and BatchNorm has to make statistics of it."""
    if compute.batch_size < 2 and model.norms_follow("train", "adapt"):
        raise ParamsError(
            [
                f"compute.batch_size is {compute.batch_size}; at least 2 where BatchNorm learns, which can make no "
                "statistics of one image (training from scratch, or fine_tune.bn_policy other than frozen)"
            ]
        )


def tracked(batches: Iterable[Batch], images: Images, model: Grafted, what: str) -> Iterator[Batch]:
    """Yield an epoch's batches and show the progress, without a last batch of one image if BatchNorm learns."""
    least = 2 if model.norms_follow("train") else 1
    shown = track(batches, len(images.part(TRAIN)), what, images.compute.batch_size)
    return (batch for batch in shown if len(batch[1]) >= least)


def augmentation(spec: Preprocessing, kind: str, least_area: float, horizontal_flip: bool) -> v2.Transform:
    """Return uint8 [3, h, w] -> uint8 [3, crop, crop]: the centre, or a random part of the picture, perhaps mirrored.

    "none" is what evaluation sees. "crop" takes a part of `least_area` to all of the area (Szegedy et al. 2015),
    resampled by the backbone's own filter; "trivial" changes colours or geometry before (TrivialAugment, Mueller and
    Hutter 2021).
    """
    if kind == "none":
        return v2.Lambda(lambda pixels: centre_crop(pixels, spec))
    crop = v2.RandomResizedCrop(
        spec.crop, scale=(least_area, 1.0), interpolation=v2.InterpolationMode(spec.interpolation), antialias=True
    )
    steps = [crop, v2.RandomHorizontalFlip(0.5 if horizontal_flip else 0.0)]
    return v2.Compose([v2.TrivialAugmentWide(), *steps] if kind == "trivial" else steps)


def mixing(kind: str, alpha: float, classes: int) -> Callable[[Batch], Batch]:
    """Return a function that blends each image of a batch with another, with their targets and weights.

    "mixup" averages the pixels (Zhang et al. 2018), "cutmix" pastes a rectangle (Yun et al. 2019), "none" does nothing.
    """
    if kind == "none":
        return lambda batch: batch
    blend = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](alpha=alpha)

    def mixed(batch: Batch) -> Batch:
        pixels, targets, weights = batch
        # The weight is a factor of its target's row, so that both are blended by the same share.
        pixels, weighted = blend(pixels, nn.functional.one_hot(targets, classes) * weights[:, None])
        sums = weighted.sum(dim=1)
        return pixels, weighted / sums.clamp_min(torch.finfo(sums.dtype).tiny)[:, None], sums

    return mixed
