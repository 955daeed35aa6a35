"""Does the shipped backbone help? `python -m tests.studies.measure` measures it and writes it into the card.

With a few labelled digits a class: a logistic head on the frozen backbone, against the same network trained from
scratch on the same labels, against a head on a frozen backbone that never learned. Always the 600 test images of the
embedded example. `SCRATCH` and `C` won a search on other draws, scored on images that are no test images: `--tune`
repeats it. The distortions of the glyphs were chosen earlier, between two, by digits of which some are test images.

The hope was 5 points at 10 labels a class. It is not met and cannot be: from scratch reaches 96 of 100 per cent.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from steps.backbones.backbone import without_top
from steps.backbones.glyphnet import glyphnet
from steps.commands import origins
from steps.embedded import digits
from steps.images.preprocessing import Preprocessing, normalise
from steps.runtime import files
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.progress import track
from steps.runtime.seeding import derive, numpy_generator, torch_generator
from steps.training.linear_probe import Labelled, fit
from tests.studies.pretrain import CARD, enlarge

COUNTS = (10, 5, 2, 1)  # labels a class; the first is the claim, and the only one that SCRATCH was tuned for
CLAIM = 5.0  # points of accuracy
DRAWS = range(5)
TUNING_DRAWS = range(100, 103)
SEED, THREADS = 0, 1
C = 0.1  # inverse L2 of the head; 0.1 to 10 lie within 0.1 points of each other

Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Augmentation:
    """How far a training image is bent at each step: radians, share of the side, log of the scale, half sides."""

    rotation: float
    shear: float
    scale: float
    shift: float
    elastic: float


NONE = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0)
MILD = Augmentation(0.1, 0.1, 0.1, 0.1, 0.0)
MEDIUM = Augmentation(0.2, 0.2, 0.15, 0.15, 0.05)
STRONG = Augmentation(0.3, 0.3, 0.2, 0.2, 0.1)


@dataclass(frozen=True)
class Schedule:
    """AdamW, one cycle, all labels in one batch: `epochs` steps."""

    rate: float
    epochs: int
    augmentation: Augmentation
    decay: float = 1e-2


SCRATCH = Schedule(rate=1e-3, epochs=300, augmentation=MEDIUM)
SEARCHED = [
    *(Schedule(rate, 150, bend) for rate, bend in product((1e-3, 3e-3), (NONE, MILD, MEDIUM, STRONG))),
    Schedule(1e-3, 75, MEDIUM),
    Schedule(1e-3, 300, MEDIUM),
]


@dataclass(frozen=True)
class Digits:
    """Network inputs before normalisation, uint8 [1797, 3, 16, 16], their digits, and which rows are the test."""

    images: torch.Tensor
    targets: Ints
    test: Ints
    spec: Preprocessing

    def draw(self, labels: int, number: int) -> Ints:
        """Draw `labels` rows a class among those that are no test images."""
        generator, rest = numpy_generator(SEED, "labels", number), np.setdiff1d(np.arange(len(self.targets)), self.test)
        rows = [generator.permutation(rest[self.targets[rest] == digit])[:labels] for digit in range(10)]
        return np.concatenate(rows)

    def untested(self, train: Ints) -> Ints:
        """Return the rows that are neither in `train` nor test images: what may be tuned on."""
        return np.setdiff1d(np.arange(len(self.targets)), np.concatenate([train, self.test]))


def read_digits(spec: Preprocessing) -> Digits:
    """Return the digits as the network sees them."""
    images, targets = digits.pixels()
    return Digits(enlarge(images), targets, np.sort(digits.split(SEED)["test"]), spec)


@torch.inference_mode()
def features(network: nn.Module, data: Digits) -> npt.NDArray[np.float32]:
    """Return what a network without its top makes of every digit, float32 [1797, 512]."""
    network.eval()
    parts = [network(normalise(part, data.spec)) for part in torch.split(data.images, 256)]
    return np.asarray(torch.cat(parts).numpy())


def frozen(found: npt.NDArray[np.float32], data: Digits, train: Ints, test: Ints, c: float = C) -> float:
    """Fit a head on the rows `train` of the features; return its accuracy on `test`, in per cent."""
    head = fit(Labelled(found[train], data.targets[train], np.ones(len(train))), 10, c)
    return _percent(head.probabilities(found[test]).argmax(1), data.targets[test])


def scratch(data: Digits, train: Ints, test: Ints, schedule: Schedule, number: int) -> float:
    """Train the same network from scratch on the rows `train`; return its accuracy on `test`, in per cent."""
    torch.manual_seed(derive(SEED, "scratch", number))
    generator = torch_generator(SEED, "augmentation", number)
    network, images = glyphnet(10), data.images[train]
    targets = torch.from_numpy(data.targets[train]).long()
    optimiser = torch.optim.AdamW(network.parameters(), schedule.rate, weight_decay=schedule.decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, schedule.rate, total_steps=schedule.epochs, pct_start=0.2)
    for _ in range(schedule.epochs):
        inputs = normalise(augment(images, generator, schedule.augmentation), data.spec)
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(inputs), targets))
        optimiser.step()
        cycle.step()
    network.eval()
    with torch.inference_mode():
        answers = network(normalise(data.images[test], data.spec)).argmax(1)
    return _percent(answers.numpy(), data.targets[test])


def augment(images: torch.Tensor, generator: torch.Generator, bend: Augmentation) -> torch.Tensor:
    """Bend each of uint8 [n, 3, s, s] in its own way; return the same shape and type."""
    if bend == NONE:
        return images
    n, _, side, _ = images.shape
    angle, shear, wider, higher, across, down = (
        (torch.rand(n, generator=generator) * 2 - 1) * bound
        for bound in (bend.rotation, bend.shear, bend.scale, bend.scale, bend.shift, bend.shift)
    )
    cos, sin, wider, higher = angle.cos(), angle.sin(), wider.exp(), higher.exp()
    rows = [cos * wider, (shear - sin) * higher, across, sin * wider, cos * higher, down]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), [n, 3, side, side], align_corners=False)
    shifts = torch.randn(n, 2, 3, 3, generator=generator) * bend.elastic
    smooth = F.interpolate(shifts, size=(side, side), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    bent = F.grid_sample(images.float(), grid + smooth, align_corners=False)
    return bent.round().clamp(0, 255).to(torch.uint8)


def _percent(answers: Ints, truth: Ints) -> float:
    return 100 * float((answers == truth).mean())


def _untrained(data: Digits, number: int) -> npt.NDArray[np.float32]:
    torch.manual_seed(derive(SEED, "scratch", number))  # the very network that `scratch` starts from
    return features(without_top(glyphnet(10))[0], data)


def measure(data: Digits, learned: npt.NDArray[np.float32], labels: int) -> list[dict[str, float]]:
    """Return one row a draw: accuracies in per cent on the test images, and frozen less from scratch in points."""
    rows = []
    for number in track(DRAWS, len(DRAWS), f"{labels} labels a class"):
        train = data.draw(labels, number)
        row = {
            "frozen": frozen(learned, data, train, data.test),
            "scratch": scratch(data, train, data.test, SCRATCH, number),
            "untrained": frozen(_untrained(data, number), data, train, data.test),
        }
        rows.append({**row, "difference": row["frozen"] - row["scratch"]})
    return rows


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in row.items()}


def _figures(measured: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    means = {labels: _mean(rows) for labels, rows in measured.items()}
    return {
        "measuring_command": "python -m tests.studies.measure",
        "unit": "per cent of 600 test digits answered rightly; difference = frozen - scratch, in points",
        "scratch_schedule": {"rate": SCRATCH.rate, "epochs": SCRATCH.epochs, **vars(SCRATCH.augmentation)},
        "draws_at_10_labels_a_class": [_rounded(row) for row in measured[COUNTS[0]]],
        "mean_by_labels_a_class": {str(labels): _rounded(mean) for labels, mean in means.items()},
        "claimed_points_at_10": CLAIM,
        "claim_met_at_10": means[COUNTS[0]]["difference"] >= CLAIM,
    }


def _show(measured: dict[int, list[dict[str, float]]]) -> None:
    columns = ("frozen", "scratch", "difference", "untrained")
    table = Table("labels a class", "draw", *columns, title="accuracy on 600 test digits, per cent")
    for labels, rows in measured.items():
        for number, row in enumerate(rows):
            table.add_row(str(labels), str(number), *(f"{row[name]:.1f}" for name in columns))
        table.add_row(str(labels), "mean", *(f"{_mean(rows)[name]:.1f}" for name in columns), end_section=True)
    Console().print(table)


def tune(data: Digits, learned: npt.NDArray[np.float32]) -> None:
    """Print what each schedule and each strength of the head reach on images that are no test images."""
    splits = [(n, train, data.untested(train)) for n in TUNING_DRAWS for train in [data.draw(COUNTS[0], n)]]
    console = Console()
    for c in (1e-3, 1e-2, 1e-1, 1.0, 10.0):
        reached = np.mean([frozen(learned, data, train, rest, c) for _, train, rest in splits])
        console.print(f"{reached:.2f}  head, C = {c}", highlight=False)
    for schedule in track(SEARCHED, len(SEARCHED), "schedules"):
        reached = np.mean([scratch(data, train, rest, schedule, n) for n, train, rest in splits])
        console.print(f"{reached:.2f}  {schedule}", highlight=False, soft_wrap=True)


def main(tuning: Annotated[bool, typer.Option("--tune", help="Show the search; write nothing.")] = False) -> None:
    """Compare transfer with training from scratch, and write the figures into the card."""
    configure(ComputeParams(threads=THREADS, batch_size=256))
    card, state = origins.embedded()
    network = glyphnet(card.num_classes)
    network.load_state_dict(state)
    data = read_digits(card.preprocessing)
    learned = features(without_top(network)[0], data)
    if tuning:
        return tune(data, learned)
    measured = {labels: measure(data, learned, labels) for labels in COUNTS}
    notes = {**card.notes, "figures": _figures(measured)}
    written = replace(card, notes=notes)
    files.write_json(CARD, written)
    return _show(measured)


if __name__ == "__main__":
    typer.run(main)
