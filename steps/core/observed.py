"""Preprocessing as observed: tensors of the real loader, held against what the weights remember of their own inputs.

Two questions. What was done to the pictures? 8-bit pictures leave only 256 levels a channel, so the right account of
scale, mean and standard deviation puts every value back on a whole grey level. And is it what the backbone wants?
BatchNorm remembers the mean and variance of its inputs in training; the right preprocessing comes nearest to them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from steps.core.backbone import BATCH_NORMS, blocks
from steps.core.inference import channels_last
from steps.core.preprocessing import Preprocessing
from steps.core.rules import DECLARED

ON_GRID = 0.02  # grey levels; float32 rounding stays under 0.001, a wrong account scatters over +-0.5
USUAL = (  # what weights are commonly trained with, where values run from 0 to 1
    ("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("Inception", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
WHOLE = 0.999  # share of the values on the grid
MARGIN = 0.9  # another account is nearer only when its distance is less than this share of the declared one's


@dataclass(frozen=True)
class Account:
    """How well one account of what was done to the pictures fits; `inputs` and `activations` are distances."""

    on_grid: float | None  # share of the values that stand on a whole grey level; None: the account is about pixels
    inputs: float
    activations: float | None  # None: the backbone has no BatchNorm

    def rounded(self) -> dict[str, float | None]:
        """Return the scores to 6 significant digits, ready for JSON."""
        return rounded(vars(self))


def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the values to 6 significant digits: beyond them machines differ."""
    return {name: None if value is None else float(f"{value:.6g}") for name, value in values.items()}


def undone(observed: torch.Tensor, spec: Preprocessing) -> dict[str, torch.Tensor]:
    """Return account -> the tensors [n, 3, h, w] as they would be had that fault not been made.

    Source of the list: the faults that people report (ANCHORS B1, rows 8 to 10).
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))

    def with_scaled(change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return (change(observed * std + mean) - mean) / std

    faults = {
        DECLARED: observed,
        "scaled twice": with_scaled(lambda scaled: scaled * 255),
        "not scaled": with_scaled(lambda scaled: scaled / 255),  # last: all its values round to 0
        "not normalised": (observed - mean) / std,
        "normalised twice": observed * std + mean,
        "colour order swapped": observed.flip(1),
    }
    usual = {
        f"mean and std of {name}": (observed * std + mean - of_mean) / of_std
        for name, m, s in USUAL
        for of_mean, of_std in [(torch.tensor(m).view(3, 1, 1), torch.tensor(s).view(3, 1, 1))]
        if (m, s) != (spec.mean, spec.std)
    }
    return faults | usual


def on_grid(tensors: torch.Tensor, spec: Preprocessing) -> float:
    """Return the share of the values of [n, 3, h, w] that are one of the 256 grey levels, as `spec` maps them."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (spec.mean, spec.std))
    low, high = spec.value_range
    grey = 255 * (tensors.to(torch.float64) * std + mean - low) / (high - low)
    whole = grey.round()
    return float((((grey - whole).abs() < ON_GRID) & (whole >= 0) & (whole <= 255)).double().mean())


def input_distance(tensors: torch.Tensor, spec: Preprocessing, source: Mapping[str, list[float]] | None) -> float:
    """Return how far the channels of [n, 3, h, w] lie from the source's: mean Kullback-Leibler divergence, nats.

    `source` has mean and std a channel in [0, 1]; None: normalisation is taken to have meant mean 0 and std 1. The
    divergence is between Gaussians, with a floor under the std so that flat pictures are not taken for wrong ones.
    """
    low, high = spec.value_range
    ours, theirs = torch.tensor(spec.mean), torch.tensor(spec.std)
    mean = (torch.tensor(source["mean"]) * (high - low) + low - ours) / theirs if source else torch.zeros(3)
    std = torch.tensor(source["std"]) * (high - low) / theirs if source else torch.ones(3)
    seen = tensors.to(torch.float64).transpose(0, 1).flatten(1)
    return _divergence(seen.mean(1), seen.std(1), mean.double(), std.double())


def activation_distance(network: nn.Module, tensors: torch.Tensor) -> float | None:
    """Return the mean of `activation_distances`; None without BatchNorm."""
    return averaged(activation_distances(network, tensors).values())


def activation_distances(network: nn.Module, tensors: torch.Tensor) -> dict[str, float]:
    """Return BatchNorm -> how far its inputs lie from its running statistics: the same divergence, over channels.

    `network` has to be in evaluation mode and stays as it is.
    """
    found: dict[str, float] = {}

    def look(name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        spread, centre = torch.std_mean(inputs[0], dim=[place for place in range(inputs[0].dim()) if place != 1])
        mean, variance = (getattr(module, f"running_{name}").double() for name in ("mean", "var"))
        found[name] = _divergence(centre.double(), spread.double(), mean, variance.sqrt())

    norms = {name: module for name, module in network.named_modules()
             if isinstance(module, BATCH_NORMS) and module.track_running_stats}  # fmt: skip
    handles = [norm.register_forward_pre_hook(partial(look, name)) for name, norm in norms.items()]
    try:
        with torch.inference_mode():
            if norms:
                network(channels_last(tensors))
    finally:
        for handle in handles:
            handle.remove()
    return found


def by_block(network: nn.Module, distances: Mapping[str, float]) -> dict[str, float | None]:
    """Return block -> the mean distance of its BatchNorms, input side first; None where it has none."""
    owners = {block: {name.rpartition(".")[0] for name in names} for block, names in blocks(network).items()}
    return {block: averaged(distances[norm] for norm in distances if norm in owned) for block, owned in owners.items()}


def averaged(distances: Iterable[float]) -> float | None:
    """Return the mean; None of nothing."""
    found = list(distances)
    return sum(found) / len(found) if found else None


def _divergence(mean: torch.Tensor, std: torch.Tensor, of_mean: torch.Tensor, of_std: torch.Tensor) -> float:
    of_std = of_std.clamp(min=1e-6)
    ratio = (std / of_std).clamp(min=0.05)
    return float((-ratio.log() + (ratio**2 + ((mean - of_mean) / of_std) ** 2 - 1) / 2).mean())


def nearest(accounts: Mapping[str, Account]) -> str:
    """Return the account that the weights' memory likes best: another than the declared only by a clear margin."""
    told = {name: account.activations for name, account in accounts.items() if account.activations is not None}
    if DECLARED not in told:
        return DECLARED
    best = min(told, key=lambda name: told[name])
    return best if told[best] < MARGIN * told[DECLARED] else DECLARED


def done(accounts: Mapping[str, Account]) -> str:
    """Return what was done to the pictures: the account under which the values are whole grey levels, or none."""
    told = {name: account.on_grid for name, account in accounts.items() if account.on_grid is not None}
    best = max(told, key=lambda name: told[name])
    if told[DECLARED] >= WHOLE:
        return DECLARED
    return best if told[best] >= WHOLE else "something else (another mean or std?)"
