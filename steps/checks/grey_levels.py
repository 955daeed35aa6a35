"""What was done to the pictures, proven from tensors of the real loader.

8-bit pictures have only 256 levels per channel, so the right account of scale, mean and standard deviation maps every
value back to a whole grey level. What the weights expect is another question, which only evidence can answer:
`steps.checks.witnesses`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch

from steps.checks.reports import Account
from steps.checks.rules import DECLARED, SWAPPED
from steps.images.preprocessing import Preprocessing

ON_GRID = 0.02  # grey levels; float32 rounding stays under 0.001, a wrong account scatters over +-0.5
FAMILIES = (  # statistics that weights are commonly trained with, for values from 0 to 1
    ("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("Inception", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
NEARLY_ALL = 0.999  # share of the values that lie on the grid

Source = Mapping[str, list[float]]  # mean and std per channel of a source's inputs, in [0, 1]


def rounded(value: float) -> float:
    """Round a value to 6 significant digits: beyond them machines differ."""
    return float(f"{value:.6g}")


def other_families(spec: Preprocessing, source: Source | None = None) -> dict[str, Preprocessing]:
    """Return the same preprocessing with the mean and std of each other family, or only of the source if it is known.

    Weights whose own source was measured belong to no other family, however much brighter the present pictures are.
    """
    known = [("the source", tuple(source["mean"]), tuple(source["std"]))] if source else FAMILIES
    families = {
        f"mean and std of {name}": replace(spec, value_range=(0.0, 1.0), mean=mean, std=std)
        for name, mean, std in known
    }
    return {name: family for name, family in families.items() if not torch.allclose(_ends(family), _ends(spec))}


def _ends(spec: Preprocessing) -> torch.Tensor:
    """Return the values of black and white, [2, 3]: specifications that agree on both are equivalent."""
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    return torch.stack([(end - mean) / std for end in spec.value_range])


def undone(observed: torch.Tensor, spec: Preprocessing) -> dict[str, torch.Tensor]:
    """Return account -> the tensors [n, 3, h, w] as they would be without that fault.

    The faults are those that people report of their loaders.
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
        SWAPPED: observed.flip(1),
    }
    low, high = spec.value_range
    families = {
        name: (low + (high - low) * (observed * of_std + of_mean) - mean) / std
        for name, family in other_families(spec).items()
        for of_mean, of_std in [(torch.tensor(values).view(3, 1, 1) for values in (family.mean, family.std))]
    }
    return faults | families


def pixels_of(observed: torch.Tensor, spec: Preprocessing) -> torch.Tensor:
    """Return the uint8 RGB pixels [n, 3, h, w] of tensors that were made as `spec` says."""
    grey = _grey(observed, spec).round().clamp(0, 255).to(torch.uint8)
    return grey.flip(1) if spec.colour_order == "BGR" else grey


def _grey(tensors: torch.Tensor, spec: Preprocessing) -> torch.Tensor:
    """Map tensors [n, 3, h, w] back to a file's scale of 0 to 255, float64, assuming that `spec` was applied."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (spec.mean, spec.std))
    low, high = spec.value_range
    return 255 * (tensors.to(torch.float64) * std + mean - low) / (high - low)


def on_grid(tensors: torch.Tensor, spec: Preprocessing) -> float:
    """Return the share of the values of [n, 3, h, w] that are one of the 256 grey levels under `spec`."""
    grey = _grey(tensors, spec)
    whole = grey.round()
    return float((((grey - whole).abs() < ON_GRID) & (whole >= 0) & (whole <= 255)).double().mean())


def input_distance(tensors: torch.Tensor, spec: Preprocessing, source: Source | None) -> float:
    """Return the mean Kullback-Leibler divergence of the channels of [n, 3, h, w] from the source's, in nats.

    `source` has mean and std per channel in [0, 1]; if None, normalised inputs are taken to have mean 0 and std 1.
    """
    low, high = spec.value_range
    ours, theirs = torch.tensor(spec.mean), torch.tensor(spec.std)
    mean = (torch.tensor(source["mean"]) * (high - low) + low - ours) / theirs if source else torch.zeros(3)
    std = torch.tensor(source["std"]) * (high - low) / theirs if source else torch.ones(3)
    seen = tensors.to(torch.float64).transpose(0, 1).flatten(1)
    return float(divergence(seen.mean(1), seen.std(1), mean.double(), std.double()).mean())


def divergence(mean: torch.Tensor, std: torch.Tensor, of_mean: torch.Tensor, of_std: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence between two Gaussians, elementwise, in nats.

    The std has a floor, so that flat pictures are not taken for wrong ones.
    """
    of_std = of_std.clamp(min=1e-6)
    ratio = (std / of_std).clamp(min=0.05)
    return -ratio.log() + (ratio**2 + ((mean - of_mean) / of_std) ** 2 - 1) / 2


def done(accounts: Iterable[Account]) -> str:
    """Return what was done to the pictures: the account under which the values are whole grey levels, or none."""
    shares = {account.account: account.on_grid for account in accounts}
    if shares[DECLARED] >= NEARLY_ALL:
        return DECLARED
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= NEARLY_ALL else "something else (another mean or std?)"
