"""Fine-tune: as many blocks as the strategy says and the head learn together, from the converged head, slowly.

Or everything from random weights, at the head's rate, where the strategy is `from_scratch`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from steps.backbones import models
from steps.backbones.backbone import Grafted, digest, last_blocks
from steps.backbones.inference import PRECISIONS
from steps.errors import IntegrityError, ParamsError
from steps.images.dataset import Images
from steps.images.manifest import TRAIN, UNLABELLED, VAL
from steps.runtime import artefacts, files, stage
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.scratch import Scratch
from steps.runtime.seeding import derive
from steps.runtime.stage import Lineage
from steps.training import checkpoints
from steps.training.batches import Boundary, augmentation, mixing, refuse_single_images, tracked
from steps.training.fine_tuning import DECAYS, OPTIMISERS, Recipe, fine_tune_model, from_scratch
from steps.training.histories import Balance, Epochs, FineTuneHistory, TrainedFacts
from steps.training.presets import PRESETS
from steps.training.strategy import Strategy

NONE = "none"
CHOICES = {
    "preset": (NONE, *PRESETS),
    "optimiser": tuple(OPTIMISERS),
    "decay": tuple(DECAYS),
    "bn_policy": ("frozen", "adapt", "train"),
    "precision": tuple(PRECISIONS),
    "augmentation": ("none", "crop", "trivial"),
    "balance": ("weights", "sampling", "none"),
    "mix": ("none", "mixup", "cutmix"),
}


@dataclass(frozen=True, kw_only=True)
class FineTuneParams:
    """How long, how fast, how restrained, and what may be done to the training images."""

    preset: str
    optimiser: str
    decay: str
    epochs: int
    patience: int
    warmup_epochs: int
    unfreeze_every: int
    head_rate: float
    backbone_rate: float
    block_decay: float
    weight_decay: float
    l2_sp: float
    label_smoothing: float
    ema: float
    balance: str
    bn_policy: str
    precision: str
    augmentation: str
    least_area: float
    horizontal_flip: bool
    mix: str
    mix_alpha: float
    views: int

    def faults(self) -> Iterator[str]:
        """Yield schedules that cannot be meant."""
        at_least = {"epochs": 1, "patience": 1, "unfreeze_every": 0, "weight_decay": 0, "l2_sp": 0, "views": 0}
        rules = {name: (getattr(self, name) >= least, f"at least {least}") for name, least in at_least.items()}
        rules |= {
            name: (getattr(self, name) in allowed, f"one of {', '.join(allowed)}") for name, allowed in CHOICES.items()
        }
        rules |= {
            "warmup_epochs": (0 <= self.warmup_epochs < self.epochs, f"from 0 to below epochs, {self.epochs}"),
            "block_decay": (0 < self.block_decay <= 1, "above 0, at most 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "from 0 to below 1"),
            "ema": (0 <= self.ema < 1, "from 0 to below 1"),
            "least_area": (0.05 <= self.least_area <= 1, "a share of the picture from 0.05 to 1"),
            "mix_alpha": (self.mix_alpha > 0, "above 0"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                yield f"{name} is {getattr(self, name)!r}; {rule}"
        if not 0 < self.backbone_rate <= self.head_rate < 1:
            yield (
                f"backbone_rate is {self.backbone_rate} and head_rate {self.head_rate}; "
                "above 0, and the backbone's at most the head's"
            )
        if self.mix != "none" and (self.views or self.augmentation == "none"):
            yield f"mix is {self.mix!r}; mixed pictures are new in every epoch: views has to be 0 and augmentation on"

    def in_full(self, images: int, batch_size: int) -> "FineTuneParams":
        """Return the values that so many images are trained with: these, or the preset's in their place.

        Raises ParamsError where those that the preset leaves alone do not go with it.
        """
        if self.preset == NONE:
            return self
        found = replace(self, **vars(PRESETS[self.preset](images, batch_size)))
        if faults := [f"fine_tune.preset is {self.preset!r}: {fault}" for fault in found.faults()]:
            raise ParamsError(faults)
        return found


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
    """Unfreeze the last blocks, train with early stopping on validation, and prove that the rest stood still.

    How many blocks is the strategy's choice; none leaves the head as it is, and `from_scratch` takes neither the
    backbone's weights nor the head. Otherwise it starts from the head fitted on train alone, so that validation is
    unseen. A run of the same lineage that was killed goes on after its last whole epoch. Raises ParamsError where a
    preset and the rest of the section do not go together or a batch is too small for BatchNorm, IntegrityError where a
    frozen tensor (BatchNorm statistics included) differs afterwards.
    """
    facts, plan = artefacts.read(TrainedFacts, head / models.FACTS), artefacts.read(Strategy, strategy)
    images = _images(raw, screened, preprocessing, list(facts.classes), compute, params.balance)
    params = params.in_full(len(images.part(TRAIN)), compute.batch_size)
    if plan.pretrained:
        model = _grafted(backbone, head, facts.cut, plan.blocks, params.bn_policy)
        schedule = _schedule(params, model)
    else:
        rng = derive(seed, "fine_tune", "weights")
        model = models.from_scratch(models.read_card(backbone), len(images.classes), rng)
        schedule = from_scratch(_schedule(params, model))
    refuse_single_images(model, compute)
    configure(compute)

    before = digest(model.frozen_state())
    outcome = _train(model, images, params, schedule, seed, lineage)
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
            schedule=asdict(schedule),
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
    """Return the backbone with the converged head, its last `count` blocks to learn."""
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


def _schedule(params: FineTuneParams, model: Grafted) -> Recipe:
    values = {field.name: getattr(params, field.name) for field in fields(Recipe)}
    return Recipe(**(values if model.trainable else {**values, "epochs": 0}))


def _images(
    raw: Path, screened: Path, preprocessing: Path, classes: list[str], compute: ComputeParams, balance: str
) -> Images:
    table = files.read_table(screened)
    return Images(
        raw=raw,
        table=table[table["split"] != UNLABELLED],
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
