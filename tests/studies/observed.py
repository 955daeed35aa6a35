"""The preprocessing as observed, measured as a detector: `python -m tests.studies.observed`.

Real photographs, what was made of them, and made-up pictures, through every backbone at hand. REGRAFT_DATASETS and
REGRAFT_WEIGHTS name the folders of images and weights. Prints the tables of docs/validation.md.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image, ImageFilter, ImageOps
from torch import nn

from steps.backbones import models
from steps.checks import grey_levels, witnesses
from steps.checks.preprocessing_check import COUNTED
from steps.checks.reports import Account, Evidence, Finding
from steps.checks.rules import DECLARED, SWAPPED, UNTOLD
from steps.checks.witnesses import Seen
from steps.commands import origins
from steps.images import decoding
from steps.images.preprocessing import Preprocessing, centre_crop, normalise, resized
from steps.runtime.seeding import numpy_generator
from steps.training.metrics import proportion

Rng = np.random.Generator
Change = Callable[[Image.Image], Image.Image]
SAMPLE = 128  # as validate.sample_images
DRAWN = 200  # images of a set, of which training and validation hold four fifths
INCEPTION, NOTHING = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)


@dataclass
class Pool:
    """Pictures of one kind, and what one network makes of them: uint8 RGB [n, 3, h, w]."""

    network: nn.Module
    card: models.Card
    pixels: torch.Tensor
    kept: dict[tuple[Preprocessing, bool], Seen] = field(default_factory=dict)

    def seen(self, spec: Preprocessing, shuffled: bool) -> Seen:
        if (spec, shuffled) not in self.kept:
            pixels = witnesses.shuffled(self.pixels, 0) if shuffled else self.pixels
            batches = (normalise(batch, spec) for batch in torch.split(pixels, 32))
            self.kept[spec, shuffled] = witnesses.watch(self.network, batches, self.card.cut is None)
        return self.kept[spec, shuffled]

    def findings(self, rows: Sequence[int], declared: Preprocessing, swapped: bool = False) -> dict[str, str]:
        """Return question -> answer for some of the pictures; see `answers`."""
        return {question: found.account for question, (found, _) in self.answers(rows, declared, swapped).items()}

    def answers(
        self, rows: Sequence[int], declared: Preprocessing, swapped: bool = False
    ) -> dict[str, tuple[Finding, list[Evidence]]]:
        """Return question -> what `validate` would find in some of the pictures, where files and card may be wrong.

        `swapped`: red and blue are exchanged in the files. The tensors are those of the other colour order.
        """
        pixels = self.pixels[[*rows]]

        def seen(spec: Preprocessing, shuffled: bool) -> Seen:
            order = {"RGB": "BGR", "BGR": "RGB"}[spec.colour_order] if swapped else spec.colour_order
            return self.seen(replace(spec, colour_order=order), shuffled).of([*rows])

        return {
            question: witnesses.answer(question, declared, accounts, witnesses.is_coloured(pixels), seen)
            for question, accounts in witnesses.questions(declared, pixels, self.card.input_statistics).items()
        }


def draws(pool: Pool, count: int, name: str) -> Iterator[list[int]]:
    """Yield rows of the images that `validate` looks at in sets drawn from the pool."""
    for number in range(count):
        rng = numpy_generator(number, "observed", name)
        drawn = rng.permutation(len(pool.pixels))[:DRAWN]
        yield drawn[: min(SAMPLE, round(0.8 * len(drawn)))].tolist()


def outlines(picture: Image.Image) -> Image.Image:
    """Turn a photograph into dark lines on white."""
    return ImageOps.invert(picture.convert("L").filter(ImageFilter.FIND_EDGES)).convert("RGB")


def coloured_outlines(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.FIND_EDGES)


def grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def dark(picture: Image.Image) -> Image.Image:
    """Darken a grey picture as an X-ray is dark."""
    values = np.asarray(picture.convert("L"), dtype=np.float64)
    return Image.fromarray((values**2 / 255 * 0.6).astype(np.uint8)).convert("RGB")


def poster(picture: Image.Image) -> Image.Image:
    """Flatten a photograph into a few plain colours, as a cartoon has them."""
    return ImageOps.posterize(picture.filter(ImageFilter.ModeFilter(7)), 2)


def made_up(count: int, coloured: bool) -> list[Image.Image]:
    """Return gratings of 72 pixels, each of a frequency, a direction and two colours of its own."""
    made, (y, x) = [], np.mgrid[:72, :72]
    for number in range(count):
        rng = numpy_generator(number, "made up", str(coloured))
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(0.1, 1)
        wave = (np.sin((x * np.cos(angle) + y * np.sin(angle)) * frequency) + 1)[..., None] / 2
        one, other = (rng.uniform(0, 255, 3 if coloured else 1) for _ in range(2))
        noisy = wave * one + (1 - wave) * other + rng.normal(0, 8, (72, 72, 1))
        made.append(Image.fromarray(np.broadcast_to(noisy.clip(0, 255).astype(np.uint8), (72, 72, 3)).copy()))
    return made


def photographs(name: str, most: int) -> dict[str, list[Image.Image]]:
    """Return class -> pictures of a data set, as many of each class as `most` in all allows."""
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(os.environ["REGRAFT_DATASETS"], name).rglob("*.jp*g")):
        found.setdefault(path.parent.name, []).append(path)
    rng = numpy_generator(0, "photographs", name)
    each = most // len(found)
    return {
        label: [decoding.decode(decoding.read_bytes(paths[i])) for i in sorted(rng.permutation(len(paths))[:each])]
        for label, paths in found.items()
    }


def networks() -> dict[str, tuple[models.Card, nn.Module]]:
    """Return every backbone at hand, by the name that the tables give it."""
    weights = Path(os.environ["REGRAFT_WEIGHTS"])
    loaded = {
        "SqueezeNet (top, no BatchNorm)": origins.torchvision(
            "squeezenet1_1", str(weights / "squeezenet1_1-imagenet.safetensors")
        ),
        "MobileNetV2 (BatchNorm, no top)": origins.torchvision(
            "mobilenet_v2", str(weights / "mobilenet_v2-imagenet-features.safetensors")
        ),
        "glyphnet (both)": origins.embedded(),
    }
    return {name: (card, _network(card, state)) for name, (card, state) in loaded.items()}


def _network(card: models.Card, state: origins.State) -> nn.Module:
    network = models.untrained(card)
    network.load_state_dict(state)
    return network.eval()


def pool(card: models.Card, network: nn.Module, pictures: Sequence[Image.Image]) -> Pool:
    spec = card.preprocessing
    return Pool(network, card, torch.stack([centre_crop(resized(picture, spec), spec) for picture in pictures]))


def right_sets(most: int) -> Iterator[tuple[str, int, list[Image.Image]]]:
    """Yield name, number of draws and pictures of sets that nothing is wrong with: near the source, and far from it."""
    for name in ("hymenoptera", "pacs-photo", "cifar10-mini"):
        classes = photographs(name, most)
        every = [picture for pictures in classes.values() for picture in pictures]
        yield name, 4, every
        for change in (outlines, coloured_outlines, grey, dark, poster):
            yield f"{name}, {change.__name__.replace('_', ' ')}", 2, [change(picture) for picture in every[::2]]
        for label, pictures in classes.items():
            yield f"{name}, {label} alone", 1, pictures
    for coloured in (True, False):
        yield f"made-up pictures, {'coloured' if coloured else 'grey'}", 2, made_up(most // 2, coloured)


def accusations(card: models.Card, network: nn.Module, most: int) -> tuple[list[str], int]:
    """Return what was named in sets that are right, and how many sets there were."""
    named, total = [], 0
    for name, count, pictures in right_sets(most):
        seen = pool(card, network, pictures)
        for rows in draws(seen, count, name):
            total += 1
            answers = seen.findings(rows, card.preprocessing).values()
            named += [f"{name}: {answer}" for answer in answers if answer not in (DECLARED, UNTOLD)]
    return named, total


def of_family(spec: Preprocessing, family: tuple[tuple[float, ...], tuple[float, ...]]) -> Preprocessing:
    return replace(spec, mean=family[0], std=family[1])


def planted(seen: Pool, count: int, name: str) -> dict[str, float]:
    """Return fault -> in how many of the draws it was named, and nothing else."""
    spec, statistics = seen.card.preprocessing, f"{witnesses.STATISTICS} of ImageNet"
    faults: dict[str, tuple[str, str, Preprocessing, bool]] = {
        "files written as BGR": (witnesses.COLOUR_ORDER, SWAPPED, spec, True),
        "card and params of Inception": (witnesses.STATISTICS, statistics, of_family(spec, INCEPTION), False),
        "card and params without mean and std": (witnesses.STATISTICS, statistics, of_family(spec, NOTHING), False),
    }
    found = {}
    for fault, (question, right, declared, swapped) in faults.items():
        answers = [seen.findings(rows, declared, swapped)[question] for rows in draws(seen, count, name)]
        found[fault] = sum(answer == right for answer in answers) / count
        found[f"{fault}, wrongly told"] = sum(answer not in (right, UNTOLD) for answer in answers) / count
    return found


def loader_faults(spec: Preprocessing) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return fault -> what such a loader makes of uint8 RGB pixels."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    return {
        "none": lambda x: normalise(x, spec),
        "does not scale": lambda x: (x.float() - mean) / std,
        "normalises twice": lambda x: (normalise(x, spec) - mean) / std,
        "does not normalise": lambda x: x.float() / 255,
        "mean and std of Inception": lambda x: normalise(x, of_family(spec, INCEPTION)),
        "no mean and std": lambda x: normalise(x, of_family(spec, NOTHING)),
        "BGR": lambda x: normalise(x, spec).flip(1),
    }


def refused(
    pixels: torch.Tensor, spec: Preprocessing, loader: Callable[[torch.Tensor], torch.Tensor], count: int
) -> int:
    """Return in how many draws the tensors of a loader are seen not to be what is declared."""
    total = 0
    for number in range(count):
        rows = numpy_generator(number, "loader").permutation(len(pixels))[:COUNTED]
        undone = grey_levels.undone(loader(pixels[rows]), spec)
        accounts = [Account(name, grey_levels.on_grid(tensors, spec), 0.0) for name, tensors in undone.items()]
        total += grey_levels.done(accounts) != DECLARED
    return total


def main(
    draws_each: Annotated[int, typer.Option("--draws", help="Of each planted fault.")] = 50,
    pictures: Annotated[int, typer.Option(help="Of each data set, at most.")] = 400,
    only: Annotated[str, typer.Option(help="right, planted or loader; all of them where left out.")] = "",
) -> None:
    """Print the tables of docs/validation.md."""
    at_hand = networks()
    if only in ("", "right"):
        typer.echo("| backbone | right sets | refused | another preprocessing named |\n|---|---|---|---|")
        for name, (card, network) in at_hand.items():
            named, total = accusations(card, network, pictures)
            typer.echo(f"| {name} | {total} | 0 | {len(named)}{': ' if named else ''}{'; '.join(named)} |")
    if only in ("", "planted"):
        typer.echo("\n| fault | target | backbone | named, % | wrongly told, % |\n|---|---|---|---|---|")
        for target in ("hymenoptera", "pacs-photo", "cifar10-mini"):
            every = [picture for of in photographs(target, pictures).values() for picture in of]
            for name, (card, network) in [*at_hand.items()][:2]:
                found = planted(pool(card, network, every), draws_each, target)
                for fault in [fault for fault in found if "wrongly" not in fault]:
                    shares = [100 * found[key] for key in (fault, f"{fault}, wrongly told")]
                    typer.echo(f"| {fault} | {target} | {name} | {shares[0]:.0f} | {shares[1]:.0f} |")
    if only in ("", "loader"):
        typer.echo("\n| loader's fault | target | refused, % (95 % interval) |\n|---|---|---|")
        card, network = next(iter(at_hand.values()))
        for target in ("hymenoptera", "cifar10-mini"):
            every = [picture for of in photographs(target, pictures).values() for picture in of]
            pixels = pool(card, network, every).pixels
            for fault, loader in loader_faults(card.preprocessing).items():
                share = proportion(refused(pixels, card.preprocessing, loader, draws_each), draws_each, 0.95)
                told = f"{100 * share['value']:.0f} ({100 * share['low']:.0f} to {100 * share['high']:.0f})"
                typer.echo(f"| {fault} | {target} | {told} |")


if __name__ == "__main__":
    typer.run(main)
