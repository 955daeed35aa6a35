"""Fine-tuning: the top of the network and the head learn together at a low rate, and stop when it stops helping."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from steps.core.backbone import Grafted
from steps.core.inference import predict_probabilities
from steps.core.metrics import scores

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # images float32 [n, 3, h, w], targets int64 [n], weights [n]
Loader = Callable[[int], Iterable[Batch]]  # epoch -> batches


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. Rates are AdamW's; `patience` counts epochs without a better validation loss."""

    epochs: int
    head_rate: float
    backbone_rate: float
    weight_decay: float
    patience: int


def fine_tune_model(
    model: Grafted,
    train: Loader,
    val: Loader,
    schedule: Schedule,
) -> dict[str, Any]:
    """Train `model` in place and leave it at its best epoch; return the epochs and which was best.

    Epoch 0 is the model as it came (the linear probe): if no epoch beats it, it is what remains.
    Weights (of class and image) scale each image's loss. The loader seeds torch's global generator, each epoch anew.
    """
    optimiser = torch.optim.AdamW(_groups(model, schedule), weight_decay=schedule.weight_decay)
    epochs = [_row(0, None, model, val)]
    best, best_state = epochs[0], copy.deepcopy(model.state_dict())
    for epoch in range(1, schedule.epochs + 1):
        _scale_rates(optimiser, 0.5 * (1 + math.cos(math.pi * (epoch - 1) / schedule.epochs)))
        loss = _one_epoch(model, train(epoch), optimiser)
        epochs.append(_row(epoch, loss, model, val))
        if epochs[-1]["val_log_loss"] < best["val_log_loss"]:
            best, best_state = epochs[-1], copy.deepcopy(model.state_dict())
        if epoch - best["epoch"] >= schedule.patience:
            break
    model.load_state_dict(best_state)
    model.eval()
    return {"epochs": epochs, "best_epoch": best["epoch"]}


def _groups(model: Grafted, schedule: Schedule) -> list[dict[str, Any]]:
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    groups = [{"params": list(model.head.parameters()), "lr": schedule.head_rate}]
    if backbone:
        groups.append({"params": backbone, "lr": schedule.backbone_rate})
    return [{**group, "peak": group["lr"]} for group in groups]


def _scale_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def _one_epoch(model: Grafted, batches: Iterable[Batch], optimiser: torch.optim.Optimizer) -> float:
    model.train()
    total, seen = 0.0, 0
    for images, targets, weights in batches:
        if not weights.any():  # a mean over nothing is NaN, and one NaN step wrecks the model
            continue
        optimiser.zero_grad(set_to_none=True)
        losses = nn.functional.cross_entropy(model(images), targets, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total, seen = total + float(loss.detach()) * len(targets), seen + len(targets)
    return total / seen


def _row(epoch: int, train_loss: float | None, model: Grafted, val: Loader) -> dict[str, Any]:
    found = validation_scores(model, val(epoch))
    return {"epoch": epoch, "train_loss": train_loss, **{f"val_{k}": v for k, v in found.items() if k != "n"}}


def validation_scores(model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Return accuracy, balanced accuracy, log-loss and n of a model in evaluation mode over labelled batches."""
    probabilities, targets = [], []
    for images, labels, _ in batches:
        probabilities.append(predict_probabilities(model, images))
        targets.append(labels.numpy())
    return scores(np.concatenate(targets), np.concatenate(probabilities))
