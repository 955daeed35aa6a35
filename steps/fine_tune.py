"""Fine-tune: the last blocks of the backbone and the head learn together, from the converged head, at a low rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steps.adapters import files, models, stage
from steps.adapters.compute import ComputeParams, configure
from steps.adapters.loaders import Images, augmentation
from steps.adapters.progress import track
from steps.adapters.stage import Lineage
from steps.core.backbone import Grafted, digest, last_blocks
from steps.core.fine_tuning import Batch, Schedule, fine_tune_model
from steps.core.manifest import UNLABELLED, VAL
from steps.errors import IntegrityError


@dataclass(frozen=True, kw_only=True)
class FineTuneParams:
    """How deep, how long, how fast, and what may be done to the training images."""

    blocks: int
    epochs: int
    head_rate: float
    backbone_rate: float
    weight_decay: float
    patience: int
    least_area: float
    horizontal_flip: bool

    def faults(self) -> Iterator[str]:
        """Yield schedules that cannot be meant."""
        for name in ("blocks", "epochs", "patience"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; at least 1"
        if not 0 < self.backbone_rate <= self.head_rate < 1:
            yield (
                f"backbone_rate is {self.backbone_rate} and head_rate {self.head_rate}; "
                "above 0, and the backbone's at most the head's"
            )
        if self.weight_decay < 0:
            yield f"weight_decay is {self.weight_decay}; at least 0"
        if not 0.05 <= self.least_area <= 1:
            yield f"least_area is {self.least_area}; a share of the picture from 0.05 to 1"


def fine_tune(
    params: FineTuneParams,
    seed: int,
    compute: ComputeParams,
    lineage: Lineage,
    raw: Path,
    accepted: Path,
    preprocessing: Path,
    backbone: Path,
    head: Path,
    fine_tuned: Path,
    history: Path,
) -> None:
    """Unfreeze the last blocks, train with early stopping on validation, and prove that the rest stood still.

    Starts from the head fitted on train alone, so that validation is unseen. Raises IntegrityError where a frozen
    tensor (BatchNorm statistics included) differs afterwards.
    """
    cut = models.cut_of(head)
    _, network, _ = models.load_backbone(backbone, cut)
    model = Grafted(network, models.load_head(head, refitted=False), last_blocks(network, params.blocks))
    images = _images(raw, accepted, preprocessing, head, compute)
    augment = augmentation(images.spec, params.least_area, params.horizontal_flip)
    configure(compute)

    before = digest(model.frozen_state())
    with torch.random.fork_rng(devices=[]):
        outcome = fine_tune_model(
            model,
            train=lambda epoch: _tracked(images.augmented(augment, seed, epoch), images, epoch, params.epochs),
            val=lambda _: images.batches(VAL),
            schedule=_schedule(params),
        )
    after = digest(model.frozen_state())
    if before != after:
        raise IntegrityError(f"the frozen part changed in training: {before[:12]} before, {after[:12]} after")

    files.write_tensors(fine_tuned / models.WEIGHTS, model.state_dict())
    facts = {"classes": images.classes, "cut": cut, "lineage": lineage.to_dict()}
    files.write_json(fine_tuned / models.FACTS, facts)
    told = {**outcome, "validation": _validation(outcome, len(images.part(VAL))), **_account(model, before, after)}
    files.write_json(history, told)


def _images(raw: Path, accepted: Path, preprocessing: Path, head: Path, compute: ComputeParams) -> Images:
    table = files.read_table(accepted)
    return Images(
        raw=raw,
        table=table[table["split"] != UNLABELLED],
        classes=files.read_json(head / models.FACTS)["classes"],
        spec=models.read_preprocessing(preprocessing),
        compute=compute,
    )


def _tracked(batches: Iterator[Batch], images: Images, epoch: int, epochs: int) -> Iterator[Batch]:
    total = len(images.part("train"))
    return track(batches, total, f"fine-tuning, epoch {epoch} of {epochs}", images.compute.batch_size)


def _schedule(params: FineTuneParams) -> Schedule:
    return Schedule(params.epochs, params.head_rate, params.backbone_rate, params.weight_decay, params.patience)


def _validation(outcome: dict[str, Any], n: int) -> dict[str, float]:
    best = outcome["epochs"][outcome["best_epoch"]]
    return {**{name.removeprefix("val_"): best[name] for name in best if name.startswith("val_")}, "n": n}


def _account(model: Grafted, before: str, after: str) -> dict[str, Any]:
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "trainable_blocks": [*model.trainable, "head"],
        "frozen_blocks": [name for name in model.blocks if name not in model.trainable],
        "trainable_parameters": learning,
        "frozen_parameters": sum(p.numel() for p in model.parameters()) - learning,
        "frozen_digest_before": before,
        "frozen_digest_after": after,
    }


if __name__ == "__main__":
    stage.main(fine_tune)
