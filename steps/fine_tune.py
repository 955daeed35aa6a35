"""Fine-tune: as many blocks as the strategy says and the head learn together, from the converged head, slowly.

Or everything from random weights, at the head's rate, if the strategy is `from_scratch`.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt

from steps.backbones import models
from steps.backbones.backbone import Grafted, digest, last_blocks
from steps.backbones.inference import Precision
from steps.errors import IntegrityError, ParamsError
from steps.images.dataset import Images
from steps.images.manifest import TRAIN, VAL, in_use
from steps.runtime import artefacts, files, stage
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.scratch import Scratch
from steps.runtime.seeding import derive
from steps.runtime.stage import Lineage
from steps.training import checkpoints
from steps.training.batches import Boundary, LeastArea, augmentation, mixing, refuse_single_images, tracked
from steps.training.fine_tuning import Recipe, fine_tune_model, from_scratch
from steps.training.histories import Balance, Epochs, FineTuneHistory, TrainedFacts
from steps.training.presets import PRESETS
from steps.training.strategy import Strategy

NONE = "none"
log = logging.getLogger("regraft")


@dataclass(frozen=True, kw_only=True)
class FineTuneParams(Recipe):
    """The recipe, and what may be done to the training images."""

    preset: Literal["none", "bit_hyperrule"]
    balance: Literal["weights", "sampling", "none"]
    bn_policy: Literal["frozen", "adapt", "train"]
    precision: Precision
    augmentation: Literal["none", "crop", "trivial"]
    least_area: LeastArea
    horizontal_flip: bool
    mix: Literal["none", "mixup", "cutmix"]
    mix_alpha: Annotated[float, Gt(0)]
    views: Annotated[int, Ge(0)]

    def faults(self) -> Iterator[str]:
        """Yield the values that contradict each other."""
        yield from super().faults()
        if self.mix != "none" and (self.views or self.augmentation == "none"):
            yield f"mix is {self.mix!r}; mixed pictures are new in every epoch: views has to be 0 and augmentation on"

    def in_full(self, images: int, batch_size: int) -> "FineTuneParams":
        """Return the values for a training set of `images` images: these, or the preset's in their place.

        Raises ParamsError if values that the preset leaves unchanged contradict it.
        """
        if self.preset == NONE:
            return self
        effective = replace(self, **PRESETS[self.preset](images, batch_size))
        if faults := [f"fine_tune.preset is {self.preset!r}: {fault}" for fault in effective.faults()]:
            raise ParamsError(faults)
        return effective


def fine_tune(
    params: FineTuneParams,
    seed: int,
    compute: ComputeParams,
    lineage: Lineage,
    raw: Path,
    screened: Path,
    preprocessing: Path,
    backbone: Path,
    head: Path,
    strategy: Path,
    fine_tuned: Path,
    history: Path,
) -> None:
    """Unfreeze the last blocks, train with early stopping on validation, and prove that the rest did not change.

    The strategy sets the number of blocks; none leaves the head as it is, and `from_scratch` uses neither the
    backbone's weights nor the head. Otherwise training starts from the head fitted on train alone, so that validation
    is unseen. A killed run of the same lineage resumes after its last whole epoch. Raises ParamsError if a preset
    contradicts the rest of the section or a batch is too small for BatchNorm, IntegrityError if a frozen tensor
    (BatchNorm statistics included) differs afterwards.
    """
    facts, plan = artefacts.read(TrainedFacts, head / models.FACTS), artefacts.read(Strategy, strategy)
    images = _images(raw, screened, preprocessing, list(facts.classes), compute, params.balance)
    params = params.in_full(len(images.part(TRAIN)), compute.batch_size)
    if plan.pretrained:
        model = _grafted(backbone, head, facts.cut, plan.blocks, params.bn_policy)
    else:
        rng = derive(seed, "fine_tune", "weights")
        model = models.from_scratch(models.read_card(backbone), len(images.classes), rng)
    schedule: Recipe = params if model.trainable else replace(params, epochs=0)
    schedule = schedule if plan.pretrained else from_scratch(schedule)
    refuse_single_images(model, compute)
    configure(compute)

    before = digest(model.frozen_state())
    outcome = _train(model, images, params, schedule, seed, lineage)
    if outcome.diverged:
        log.warning("training diverged in epoch %d: lower fine_tune.head_rate and backbone_rate", outcome.diverged)
    after = digest(model.frozen_state())
    if before != after:
        raise IntegrityError(f"the frozen part changed in training: {before[:12]} before, {after[:12]} after")

    files.write_tensors(fine_tuned / models.WEIGHTS, model.state_dict())
    files.write_json(fine_tuned / models.FACTS, replace(facts, lineage=lineage))
    moving = model.moving_state()
    learning = sum(p.numel() for name, p in model.named_parameters() if name in moving)
    files.write_json(
        history,
        FineTuneHistory(
            **vars(outcome),
            pretrained=plan.pretrained,
            schedule={field.name: getattr(schedule, field.name) for field in fields(Recipe)},
            validation=outcome.best(len(images.part(VAL))),
            balance=Balance(params.balance, _shown(images, seed) if model.trainable else {}),
            bn_policy=model.bn_policy,
            trainable_blocks=(*model.trainable, "head"),
            frozen_blocks=tuple(name for name in model.blocks if name not in model.trainable),
            trainable_parameters=learning,
            frozen_parameters=sum(p.numel() for p in model.parameters()) - learning,
            frozen_digest_before=before,
            frozen_digest_after=after,
        ),
    )
    checkpoints.remove(lineage)


def _grafted(backbone: Path, head: Path, cut: str, count: int, bn_policy: str) -> Grafted:
    """Return the backbone with the converged head; its last `count` blocks are trainable."""
    _, network, _ = models.load_backbone(backbone, cut)
    return Grafted(network, models.load_head(head, refitted=False), last_blocks(network, count), bn_policy)


def _train(
    model: Grafted, images: Images, params: FineTuneParams, schedule: Recipe, seed: int, lineage: Lineage
) -> Epochs:
    model.to(memory_format=torch.channels_last)
    frozen, rest = model.halves()
    boundary = Boundary(
        images=images,
        frozen=frozen,
        augment=augmentation(images.spec, params.augmentation, params.least_area, params.horizontal_flip),
        mix=mixing(params.mix, params.mix_alpha, len(images.classes)),
        views=1 if params.augmentation == "none" else params.views,
        precision=params.precision,
        seed=seed,
    )
    with torch.random.fork_rng(devices=[]):
        return fine_tune_model(
            model,
            train=lambda epoch: tracked(
                boundary.train(epoch), images, model, f"fine-tuning, epoch {epoch} of {params.epochs}"
            ),
            val=boundary.val,
            schedule=schedule,
            network=rest,
            resume=checkpoints.load(lineage),
            on_epoch=lambda progress: checkpoints.save(lineage, progress),
        )


def _images(
    raw: Path, screened: Path, preprocessing: Path, classes: list[str], compute: ComputeParams, balance: str
) -> Images:
    return Images(
        raw=raw,
        table=in_use(files.read_table(screened)),
        classes=classes,
        spec=models.read_preprocessing(preprocessing),
        compute=compute,
        pixels=Scratch(),
        balance=balance,
    )


def _shown(images: Images, seed: int) -> dict[str, int]:
    """Return how many images of each class the first epoch shows."""
    labels = images.part(TRAIN)["label"].iloc[images.order(seed, 1)]
    return {label: int((labels == label).sum()) for label in images.classes}


if __name__ == "__main__":
    stage.main(fine_tune)
