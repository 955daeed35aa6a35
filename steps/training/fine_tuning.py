"""Fine-tuning: the top of the network and the head learn together at a low rate, with early stopping."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import nn

from steps.backbones.backbone import Grafted
from steps.backbones.inference import predict_probabilities
from steps.errors import IntegrityError
from steps.images.dataset import Batch
from steps.training import norm_statistics
from steps.training.histories import Epoch, Epochs, Scores
from steps.training.metrics import scores

Loader = Callable[[int], Iterable[Batch]]  # epoch -> batches
State = dict[str, torch.Tensor]
WARMUP_SHARE = 0.1  # of the epochs: random weights do not tolerate full rates

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9),  # each group has its own rate
}


@dataclass(frozen=True, kw_only=True)
class Restraints:
    """What holds a training back; `params.yaml` explains each value."""

    warmup_epochs: Annotated[int, Ge(0)]
    unfreeze_every: Annotated[int, Ge(0)]
    block_decay: Annotated[float, Interval(gt=0, le=1)]
    weight_decay: Annotated[float, Ge(0)]
    l2_sp: Annotated[float, Ge(0)]
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)]
    ema: Annotated[float, Interval(ge=0, lt=1)]


OFF = Restraints(  # the values that restrain nothing
    warmup_epochs=0, unfreeze_every=0, block_decay=1.0, weight_decay=0.0, l2_sp=0.0, label_smoothing=0.0, ema=0.0
)


@dataclass(frozen=True, kw_only=True)
class Recipe(Restraints):
    """Duration, rates and restraints of a training; `params.yaml` explains each value."""

    optimiser: Literal["adamw", "sgd"]
    decay: Literal["cosine", "steps"]
    epochs: Annotated[int, Ge(1)]
    patience: Annotated[int, Ge(1)]
    head_rate: Annotated[float, Interval(gt=0, lt=1)]
    backbone_rate: Annotated[float, Interval(gt=0, lt=1)]

    def faults(self) -> Iterator[str]:
        """Yield the values that contradict each other."""
        if self.warmup_epochs >= self.epochs:
            yield f"warmup_epochs is {self.warmup_epochs}; from 0 to below epochs, {self.epochs}"
        if self.backbone_rate > self.head_rate:
            yield (
                f"backbone_rate is {self.backbone_rate} and head_rate {self.head_rate}; "
                "above 0, and the backbone's at most the head's"
            )


def from_scratch(schedule: Recipe) -> Recipe:
    """Return the schedule for random weights: every part at the head's rate from the start, none held back."""
    warmup = max(schedule.warmup_epochs, int(WARMUP_SHARE * schedule.epochs))
    return replace(
        schedule, backbone_rate=schedule.head_rate, block_decay=1.0, unfreeze_every=0, l2_sp=0.0, warmup_epochs=warmup
    )


@dataclass(frozen=True)
class Progress:
    """The state after an epoch: the epochs so far, which was best, and every tensor needed to continue."""

    epochs: tuple[Epoch, ...]
    best: int
    tensors: State


def fine_tune_model(
    model: Grafted,
    train: Loader,
    val: Loader,
    schedule: Recipe,
    network: nn.Module | None = None,
    resume: Progress | None = None,
    on_epoch: Callable[[Progress], None] = lambda _: None,
) -> Epochs:
    """Train `model` in place and leave it at its best epoch; return the epochs and which was best.

    Epoch 0 is the initial model (the linear probe), which is kept if no epoch beats it. An epoch after which the loss
    or an answer is not finite ends the training; IntegrityError if the initial model's answers are not.
    Weights (of class and image) scale each image's loss. The loader seeds torch's global generator in each epoch,
    so that resuming from the `Progress` of any epoch gives the same weights as an uninterrupted run.
    An epoch is validated with BatchNorm statistics of its own weights: those that learnt are estimated anew after it.
    `network` maps the loaders' inputs to logits: the second of `model.halves()`, or the model itself.
    """
    network = network or model
    optimiser = OPTIMISERS[schedule.optimiser](_groups(model, schedule))
    check_optimiser(model, optimiser)
    learning, moving = dict(model.named_parameters()), model.moving_state()
    origin, best, average = _copied(moving), _copied(moving), _copied(moving if schedule.ema else {})
    if resume is None:
        initial = _validated(0, None, network, val)
        if initial is None:
            raise IntegrityError("the model that training starts from gives answers that are no finite numbers")
        epochs, best_epoch = [initial], 0
        if model.bn_policy == "adapt":
            norm_statistics.estimate(model.batch_norms(), model, network, train(1))
            average = _copied(moving if schedule.ema else {})
    else:
        epochs, best_epoch = list(resume.epochs), resume.best
        _restore(resume.tensors, optimiser, model=moving, best=best, average=average)

    diverged = None
    while len(epochs) <= schedule.epochs and len(epochs) - 1 - best_epoch < schedule.patience:
        epoch = len(epochs)
        model.activate(_active(model.trainable, schedule.unfreeze_every, epoch))
        _scale_rates(optimiser, _factor(schedule, epoch))
        model.train()
        loss = _one_epoch(network, train(epoch), optimiser, schedule, learning, moving, origin, average)
        with _averaged(moving, average):
            _settle(model, network, train, epoch)
            reached = _validated(epoch, loss, network, val)
            if reached is None:
                diverged = epoch
                break
            epochs.append(reached)
            if epochs[-1].val_log_loss < epochs[best_epoch].val_log_loss:
                best_epoch, best = epoch, _copied(moving)
        on_epoch(Progress(tuple(epochs), best_epoch, _collected(optimiser, model=moving, best=best, average=average)))

    _fill(moving, best)
    model.eval()
    return Epochs(epochs=tuple(epochs), best_epoch=best_epoch, diverged=diverged)


def _one_epoch(
    network: nn.Module,
    batches: Iterable[Batch],
    optimiser: torch.optim.Optimizer,
    schedule: Recipe,
    learning: dict[str, nn.Parameter],
    moving: State,
    origin: State,
    average: State,
) -> float:
    total, seen = 0.0, 0
    for inputs, targets, weights in batches:
        if not weights.any():  # a mean over nothing is NaN, and one NaN step wrecks the model
            continue
        optimiser.zero_grad(set_to_none=True)
        losses = nn.functional.cross_entropy(
            network(inputs), targets, reduction="none", label_smoothing=schedule.label_smoothing
        )
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        _pull_back(learning, origin, schedule.l2_sp)
        optimiser.step()
        _follow(average, moving, schedule.ema)
        total, seen = total + float(loss.detach()) * len(targets), seen + len(targets)
    return total / seen


def _settle(model: Grafted, network: nn.Module, train: Loader, epoch: int) -> None:
    """Estimate the statistics of the BatchNorms that learnt in this epoch for the weights that it ended with."""
    learnt = [norm for norm in model.batch_norms() if norm.training]
    if learnt:
        norm_statistics.estimate(learnt, model, network, norm_statistics.enough(train(epoch)))


def _groups(model: Grafted, schedule: Recipe) -> list[dict[str, object]]:
    """Return all groups that will ever learn, so that their number is the same after a resume.

    Blocks further from the output learn at rates lower by `block_decay` each (Howard and Ruder 2018). Only weights of
    linear layers and convolutions are decayed: pulling a scale to zero fights the layer after it, and a position table
    or a class token at zero is no simpler function (Swin: Liu et al. 2021, `no_weight_decay`).
    """
    parameters = dict(model.backbone.named_parameters())
    groups = [(schedule.head_rate, dict(model.head.named_parameters()))]
    for depth, block in enumerate(reversed(model.trainable)):
        inside = {name: parameters[name] for name in model.blocks[block] if name in parameters}
        groups.append((schedule.backbone_rate * schedule.block_decay**depth, inside))
    param_groups: list[dict[str, object]] = []
    for rate, named in groups:
        for decays in (True, False):
            members = [p for name, p in named.items() if _decays(name, p) is decays]
            if members:
                decay = schedule.weight_decay if decays else 0.0
                param_groups.append({"params": members, "lr": rate, "peak": rate, "weight_decay": decay})
    return param_groups


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Return True for weights; False for norms, biases, scales, position tables and class tokens."""
    return parameter.dim() > 1 and name.endswith("weight")


def check_optimiser(model: Grafted, optimiser: torch.optim.Optimizer) -> None:
    """Raise IntegrityError unless the optimiser holds exactly what may learn, each parameter once, by identity.

    By identity, because two biases that are both zero are equal and still two.
    """
    parameters = dict(model.named_parameters())
    wanted = sorted(id(parameters[name]) for name in model.moving_state() if name in parameters)
    held = sorted(id(p) for group in optimiser.param_groups for p in group["params"])
    if held != wanted:
        raise IntegrityError(
            f"the optimiser holds {len(held)} parameters, {len(wanted)} may learn, "
            f"{len(set(held) & set(wanted))} are both; they have to be the same"
        )


def _active(trainable: tuple[str, ...], every: int, epoch: int) -> tuple[str, ...]:
    """Return the blocks that learn in this epoch: all, or one more from the output every `every` epochs."""
    count = len(trainable) if not every else min(len(trainable), 1 + (epoch - 1) // every)
    return trainable[len(trainable) - count :]


def _factor(schedule: Recipe, epoch: int) -> float:
    """Return the share of the peak rates in this epoch: a straight rise, then the decay."""
    if epoch <= schedule.warmup_epochs:
        return epoch / (schedule.warmup_epochs + 1)
    done = (epoch - 1 - schedule.warmup_epochs) / (schedule.epochs - schedule.warmup_epochs)
    return DECAYS[schedule.decay](done)


DECAYS: dict[str, Callable[[float], float]] = {  # share of the epochs that are done -> share of the rates
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "steps": lambda done: 0.1 ** sum(done >= step for step in (0.3, 0.6, 0.9)),
}


def _scale_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def _pull_back(parameters: dict[str, nn.Parameter], origin: State, strength: float) -> None:
    """Add the gradient of strength / 2 * |w - w0|^2 for the backbone's learning parameters (L2-SP, Li et al. 2018)."""
    for name, parameter in parameters.items():
        if strength and name.startswith("backbone.") and parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - origin[name], alpha=strength)


def _copied(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


@torch.no_grad()
def _fill(target: State, source: State) -> None:
    for name, tensor in target.items():  # in place: keeps identity and memory layout, on which last bits depend
        tensor.copy_(source[name])


@torch.no_grad()
def _follow(average: State, moving: State, decay: float) -> None:
    for name in average:
        tensor = moving[name]
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


@contextmanager
def _averaged(moving: State, average: State) -> Iterator[None]:
    """Use the averaged weights inside the context."""
    if not average:
        yield
        return
    own = _copied(moving)
    _fill(moving, average)
    yield
    _fill(moving, own)


def _collected(optimiser: torch.optim.Optimizer, **states: State) -> State:
    """Return copies of all tensors needed to continue training, under flat names."""
    tensors = {f"{kind}.{name}": tensor for kind, state in states.items() for name, tensor in state.items()}
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in values.items()}
    return _copied(tensors)


def _restore(tensors: State, optimiser: torch.optim.Optimizer, **states: State) -> None:
    """Restore the state that `_collected` returned."""
    for kind, state in states.items():
        _fill(state, {name: tensors[f"{kind}.{name}"] for name in state})
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for key in (key for key in tensors if key.startswith("optimiser.")):
        _, index, name = key.split(".")
        owner, tensor = parameters[int(index)], tensors[key]
        alike = torch.empty_like(owner).copy_(tensor) if tensor.shape == owner.shape else tensor.clone()
        optimiser.state[owner][name] = alike.detach()


def _validated(epoch: int, train_loss: float | None, network: nn.Module, val: Loader) -> Epoch | None:
    reached = validation_scores(network, val(epoch))
    if reached is None or not math.isfinite(train_loss or 0.0):
        return None
    return Epoch(epoch, train_loss, reached.accuracy, reached.balanced_accuracy, reached.log_loss)


def validation_scores(model: nn.Module, batches: Iterable[Batch]) -> Scores | None:
    """Return accuracy, balanced accuracy, log-loss and n of a model in evaluation mode over labelled batches.

    None if one of its answers is not finite.
    """
    probabilities, targets = [], []
    for inputs, labels, _ in batches:
        probabilities.append(predict_probabilities(model, inputs))
        targets.append(labels.numpy())
    answers = np.concatenate(probabilities)
    return scores(np.concatenate(targets), answers) if np.isfinite(answers).all() else None
