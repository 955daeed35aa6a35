"""How often planted faults are found and clean data accused: `python -m tests.studies.detect`, on the digits.

Where REGRAFT_DATASETS and REGRAFT_WEIGHTS name the folders of real images and weights, on photographs too.
"""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import imagehash
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import typer
from PIL import Image, ImageFilter, ImageOps
from torch import nn

from steps.backbones.backbone import build, without_top
from steps.backbones.models import Card
from steps.checks import grey_levels
from steps.checks.duplicates import SIDE, correlation, near_by_hash
from steps.checks.label_errors import noise, out_of_fold, suspects
from steps.checks.reports import Account
from steps.checks.rules import DECLARED
from steps.checks.selection import ALPHA, population_fit, representation, shortcuts
from steps.checks.shift import two_sample
from steps.commands import origins
from steps.embedded import digits
from steps.images import decoding
from steps.images.manifest import uniform
from steps.images.preprocessing import Preprocessing, preprocess
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.progress import track
from steps.runtime.seeding import numpy_generator
from steps.training.linear_probe import Labelled
from steps.training.metrics import proportion
from tests.made import spec

Generator = np.random.Generator
Ints = npt.NDArray[np.int64]
Alarm = Callable[[Generator, bool], bool]  # (luck, is the fault planted?) -> was an alarm raised
SAMPLE, LABELLED, PHOTOGRAPHS = 32, 200, 400
TRAINING, REFERENCE = 150, 100
MAX_IMBALANCE, MAX_EFFECT, MAX_SHORTCUT, MAX_LABEL_ERRORS, MAX_AUC = 10.0, 0.2, 0.5, 0.02, 0.7  # as in params.yaml
LEAST_AGREEMENT = 0.8  # too
BITS, CORRELATION = 6, 0.99
COLOUR = spec(16, 16)


class World:
    """Real pictures, their labels, and what a backbone makes of them."""

    def __init__(self, pictures: Sequence[Image.Image], labels: Ints, spec: Preprocessing, network: nn.Module) -> None:
        self.all, self.labels, self.spec, self.network = pictures, labels, spec, network
        self.classes = len(set(labels.tolist()))
        self.features = self.seen(lambda picture: picture)

    def seen(self, change: Callable[[Image.Image], Image.Image]) -> npt.NDArray[np.float32]:
        """Return what the backbone makes of every picture after a change, float32 [n, 512]."""
        return features(self.network, self.spec, map(change, self.all))

    def shifted(self, change: Callable[[Image.Image], Image.Image]) -> Alarm:
        """Return the comparison of some pictures with others that production has seen after a change."""
        return comparison(self.features, self.seen(change))

    def labelled(self, rng: Generator) -> Ints:
        """Draw as many rows of each class."""
        count = LABELLED // self.classes
        parts = [rng.choice(np.flatnonzero(self.labels == c), count, replace=False) for c in range(self.classes)]
        return np.concatenate(parts)

    def flipped(self, rng: Generator, planted: bool) -> bool:
        """5 % of the labels are another class's."""
        rows = self.labelled(rng)
        labels = self.labels[rows].copy()
        if planted:
            wrong = rng.choice(len(rows), LABELLED // 20, replace=False)
            labels[wrong] = (labels[wrong] + rng.integers(1, self.classes, len(wrong))) % self.classes
        answers = out_of_fold(Labelled(self.features[rows], labels, np.ones(len(rows))), self.classes, 0)
        found, agreement = noise(labels, answers), (answers.argmax(axis=1) == labels).mean()
        somebody = len(suspects(labels, answers)) > 0
        return bool(agreement >= LEAST_AGREEMENT and found.p < ALPHA and found.share > MAX_LABEL_ERRORS and somebody)

    def copied(self, rng: Generator, planted: bool) -> bool:
        """One test picture stands in training too, as a JPEG of twice the size."""
        pictures = [self.all[row] for row in rng.choice(len(self.all), 40, replace=False)]
        if planted:
            buffer, (width, height) = io.BytesIO(), pictures[0].size
            pictures[0].resize((2 * width, 2 * height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
            pictures.append(Image.open(buffer).convert("RGB"))
        pairs = near_by_hash([str(imagehash.phash(picture)) for picture in pictures], BITS)
        small = [np.asarray(picture.convert("L").resize((SIDE, SIDE)), dtype=np.uint8) for picture in pictures]
        return any(correlation(small[i], small[j]) >= CORRELATION for i, j in pairs.tolist())


class Digits(World):
    """The embedded digits, also tinted and through a faulty loader."""

    def __init__(self) -> None:
        self.pixels, labels = digits.pixels()
        super().__init__(self.pictures(np.arange(len(labels))), labels.astype(np.int64), *frozen(*origins.embedded()))

    def pictures(self, rows: Ints, tint: Generator | None = None) -> list[Image.Image]:
        """Return RGB pictures, each tinted by luck where asked."""
        colours = tint.uniform(0.3, 1, (len(rows), 3)) if tint else np.ones((len(rows), 3))
        return [
            Image.fromarray(np.rint(self.pixels[row][:, :, None] * colour).astype(np.uint8))
            for row, colour in zip(rows, colours, strict=True)
        ]

    def tensors(self, rows: Ints, spec: Preprocessing, tint: Generator | None = None) -> torch.Tensor:
        """Return what the loader makes of pictures, float32 [n, 3, 16, 16]."""
        return torch.stack([preprocess(picture, spec) for picture in self.pictures(rows, tint)])

    def loader(self, fault: Callable[[torch.Tensor], torch.Tensor]) -> Alarm:
        """Return the check of what was done to a sample, by a loader with this fault."""

        def alarm(rng: Generator, planted: bool) -> bool:
            came = self.tensors(rng.choice(len(self.pixels), SAMPLE), COLOUR, rng)
            undid = grey_levels.undone(fault(came) if planted else came, COLOUR)
            accounts = [Account(name, grey_levels.on_grid(x, COLOUR), 0.0) for name, x in undid.items()]
            return grey_levels.done(accounts) != DECLARED

        return alarm


def frozen(card: Card, state: origins.State) -> tuple[Preprocessing, nn.Module]:
    """Return a backbone without its top, in eval mode, and the preprocessing that it expects."""
    network = build(card.architecture, card.num_classes, card.preprocessing.crop)
    network.load_state_dict(state)
    return card.preprocessing, without_top(network)[0].eval()


def features(network: nn.Module, spec: Preprocessing, pictures: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
    """Return what a backbone makes of pictures, float32 [n, d]; 64 of them at a time."""
    with torch.inference_mode():
        parts = [
            network(torch.stack([preprocess(picture, spec) for picture in batch]))
            for batch in decoding.batched(pictures, 64)
        ]
    return np.asarray(torch.cat([part.flatten(1) for part in parts]).numpy())


def comparison(usual: npt.NDArray[np.float32], changed: npt.NDArray[np.float32]) -> Alarm:
    """Compare rows of features [n, d] with others, of pictures that production has seen `changed` [n, d]."""

    def alarm(rng: Generator, planted: bool) -> bool:
        rows = rng.permutation(len(usual))[: TRAINING + REFERENCE]
        reference = (changed if planted else usual)[rows[TRAINING:]]
        told = two_sample(usual[rows[:TRAINING]], reference, int(rng.integers(2**32)))
        return told.p < ALPHA and told.auc.known > MAX_AUC

    return alarm


def photographs(datasets: Path, weights: Path) -> World:
    """Return photographs of seven things (PACS) as SqueezeNet sees them: no limit was set on them."""
    spec, network = frozen(*origins.torchvision("squeezenet1_1", str(weights / "squeezenet1_1-imagenet.safetensors")))
    home = datasets / "pacs-photo"
    paths = sorted(home.rglob("*.jpg"), key=lambda path: uniform(path.relative_to(home).as_posix()))[:PHOTOGRAPHS]
    taken = [decoding.decode(decoding.read_bytes(path)) for path in paths]
    labels = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
    return World(taken, labels.astype(np.int64), spec, network)


def sketch(picture: Image.Image) -> Image.Image:
    """Turn a photograph into dark lines on white."""
    return ImageOps.invert(picture.convert("L").filter(ImageFilter.FIND_EDGES)).convert("RGB")


def brighter(picture: Image.Image) -> Image.Image:
    """Lift black by a tenth of the range."""
    return Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.1)


def outlines(picture: Image.Image) -> Image.Image:
    """Turn a picture into a sketch of itself."""
    return picture.resize((32, 32)).filter(ImageFilter.FIND_EDGES)


def starved(rng: Generator, planted: bool) -> bool:
    """One class of ten has 0.5 % of the training images where it should have its tenth."""
    shares = np.full(10, 0.1)
    if planted:
        shares[0], shares[1:] = 0.005, 0.995 / 9
    counts = rng.multinomial(1000, shares)
    return bool(counts.max() / max(1, counts.min()) > MAX_IMBALANCE)


def prior_off(rng: Generator, planted: bool) -> bool:
    """The world has two classes alike; 200 images hold 65 % of one."""
    first = int(rng.binomial(200, 0.65 if planted else 0.5))
    rows = population_fit({"train": {"a": first, "b": 200 - first}}, {"a": 1.0, "b": 1.0})
    return any(row.significant and row.effect > MAX_EFFECT for row in rows)


def _images(rng: Generator, n: int = 200) -> pd.DataFrame:
    measures = {name: rng.random(n) for name in ("brightness", "contrast", "sharpness", "width", "height", "bytes")}
    plain = {"format": "JPEG", "mode": "RGB", "group": "", "source": rng.choice(["north", "south"], n)}
    return pd.DataFrame({"id": [f"{i:05}" for i in range(n)], "label": rng.choice(["a", "b"], n), **measures, **plain})


def brightness_tells(rng: Generator, planted: bool) -> bool:
    """One class was photographed two standard deviations brighter."""
    images = _images(rng)
    images["brightness"] = rng.normal(0.5, 0.1, len(images)) + 0.3 * planted * (images["label"] == "b")
    return any(row.significant and row.effect > MAX_SHORTCUT for row in shortcuts(images, rng))


def source_of_one_class(rng: Generator, planted: bool) -> bool:
    """A third source delivers 20 of 200 images, all of one class."""
    images = _images(rng)
    if planted:
        images.loc[images.index[images["label"] == "b"][:20], "source"] = "west"
    return any(row.significant for row in representation(images))


def faults() -> dict[str, Alarm]:
    """Return every planted fault with its check."""
    data = Digits()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (COLOUR.mean, COLOUR.std))
    return {
        "loader does not scale": data.loader(lambda x: ((x * std + mean) * 255 - mean) / std),
        "loader normalises twice": data.loader(lambda x: (x - mean) / std),
        "loader swaps colours after normalising": data.loader(lambda x: x.flip(1)),
        "mean off by 0.05": data.loader(lambda x: x - 0.05 / std),
        "production 0.1 brighter (150 training images, 100 of the reference)": data.shifted(brighter),
        "production sees outlines (the same numbers)": data.shifted(outlines),
        "one class of ten starved (0.5 % of the images)": starved,
        "200 images hold 65 % of a class that the world has half of": prior_off,
        "a source of 20 images, all of one class": source_of_one_class,
        "brightness tells the class (two standard deviations brighter, 200 images)": brightness_tells,
        "one test picture in training too, as a JPEG of twice the size": data.copied,
        "5 % of 200 labels flipped": data.flipped,
    }


def of_photographs() -> dict[str, Alarm]:
    """Return faults planted in photographs; none where the environment does not say where photographs are."""
    places = [os.environ.get(name) for name in ("REGRAFT_DATASETS", "REGRAFT_WEIGHTS")]
    if not all(places):
        return {}
    data = photographs(*(Path(str(place)) for place in places))
    return {
        "photographs: production sees sketches (150 training images, 100 of the reference)": data.shifted(sketch),
        "photographs: production 0.1 brighter (the same numbers)": data.shifted(brighter),
        "photographs: one test picture in training too, as a JPEG of twice the size": data.copied,
        "photographs: 5 % of 200 labels flipped": data.flipped,
    }


def rates(name: str, alarm: Alarm, repetitions: int, first: int) -> dict[str, Any]:
    """Return detection and false alarms of one check, each with its 95 % Wilson interval; seeds from `first` on."""
    runs = track(range(first, first + repetitions), repetitions, name)
    found = [
        [alarm(numpy_generator(number, "detect", name, str(planted)), planted) for planted in (True, False)]
        for number in runs
    ]
    hits, false = np.sum(found, axis=0).tolist()
    return {"detection": proportion(hits, repetitions, 0.95), "false alarms": proportion(false, repetitions, 0.95)}


def main(
    repetitions: Annotated[int, typer.Option(help="Of each fault.")] = 200,
    first: Annotated[int, typer.Option(help="Their first seed; the limits were set on 0 to 199.")] = 1000,
) -> None:
    """Print the table of docs/validation.md."""
    configure(ComputeParams(threads=1, batch_size=32))
    typer.echo("| fault | found, % | false alarms, % |\n|---|---|---|")
    for name, alarm in {**faults(), **of_photographs()}.items():
        row = rates(name, alarm, repetitions, first)
        told = [f"{100 * r['value']:.1f} ({100 * r['low']:.1f} to {100 * r['high']:.1f})" for r in row.values()]
        typer.echo(f"| {' | '.join([name, *told])} |")


if __name__ == "__main__":
    typer.run(main)
