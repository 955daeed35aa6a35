"""How often planted faults are found and clean data accused: `python -m steps.embedded.detect`, on the digits.

Where REGRAFT_DATASETS and REGRAFT_WEIGHTS name the folders of real images and weights, on photographs too.
"""

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import imagehash
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import typer
from PIL import Image, ImageFilter, ImageOps
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA

from steps.adapters import backbones, images
from steps.adapters.compute import ComputeParams, configure
from steps.adapters.models import Card
from steps.adapters.progress import track
from steps.adapters.thumbnails import SIDE
from steps.core import observed
from steps.core.backbone import build, without_top
from steps.core.duplicates import correlation, near_by_hash
from steps.core.label_errors import out_of_fold, suspects
from steps.core.linear_probe import Labelled
from steps.core.manifest import uniform
from steps.core.metrics import proportion
from steps.core.observed import Account
from steps.core.preprocessing import Preprocessing, preprocess
from steps.core.rules import DECLARED
from steps.core.seeding import numpy_generator
from steps.core.selection import ALPHA, population_fit, representation, shortcuts
from steps.core.shift import two_sample
from steps.embedded import digits

Generator = np.random.Generator
Alarm = Callable[[Generator, bool], bool]  # (luck, is the fault planted?) -> was an alarm raised
SAMPLE, LABELLED, PHOTOGRAPHS = 32, 200, 400
TRAINING, REFERENCE = 150, 100
MAX_IMBALANCE, MAX_EFFECT, MAX_SHORTCUT, MAX_LABEL_ERRORS, MAX_AUC = 10.0, 0.2, 0.5, 0.03, 0.7  # as in params.yaml
BITS, CORRELATION = 6, 0.99
COLOUR = Preprocessing(
    resize=16, crop=16, interpolation="bilinear", antialias=True, colour_order="RGB", value_range=(0.0, 1.0),
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip


class Digits:
    """Real pictures, their labels, and what the embedded backbone makes of them."""

    def __init__(self) -> None:
        self.spec, self.network = frozen(*backbones.embedded())
        self.pixels, self.labels = digits.pixels()
        self.wide = self.seen(lambda picture: picture)
        # 64 directions hold 95 % of the variance of 512, and 2,000 fits of a head are done in a minute instead of ten
        self.features = PCA(64, random_state=0).fit_transform(self.wide)

    def seen(self, change: Callable[[Image.Image], Image.Image]) -> npt.NDArray[np.float32]:
        """Return what the backbone makes of every picture after a change, float32 [1797, 512]."""
        return features(self.network, self.spec, map(change, self.pictures(np.arange(len(self.pixels)))))

    def shifted(self, change: Callable[[Image.Image], Image.Image]) -> Alarm:
        """Return the comparison of some pictures with others that production has seen after a change."""
        return comparison(self.wide, self.seen(change))

    def pictures(self, rows: npt.NDArray[np.int64], tint: Generator | None = None) -> list[Image.Image]:
        """Return RGB pictures, each tinted by luck where asked."""
        colours = tint.uniform(0.3, 1, (len(rows), 3)) if tint else np.ones((len(rows), 3))
        return [
            Image.fromarray(np.rint(self.pixels[row][:, :, None] * colour).astype(np.uint8))
            for row, colour in zip(rows, colours, strict=True)
        ]

    def tensors(self, rows: npt.NDArray[np.int64], spec: Preprocessing, tint: Generator | None = None) -> torch.Tensor:
        """Return what the loader makes of pictures, float32 [n, 3, 16, 16]."""
        return torch.stack([preprocess(picture, spec) for picture in self.pictures(rows, tint)])

    def loader(self, fault: Callable[[torch.Tensor], torch.Tensor]) -> Alarm:
        """Return the check of what was done to a sample, by a loader with this fault."""

        def alarm(luck: Generator, planted: bool) -> bool:
            came = self.tensors(luck.choice(len(self.pixels), SAMPLE), COLOUR, luck)
            undid = observed.undone(fault(came) if planted else came, COLOUR)
            accounts = {name: Account(observed.on_grid(x, COLOUR), 0.0, None) for name, x in undid.items()}
            return observed.done(accounts) != DECLARED

        return alarm

    def filter(self, luck: Generator, planted: bool) -> bool:
        """Card and pipeline agree on a filter that the weights were not trained with."""
        rows = luck.choice(len(self.pixels), SAMPLE, replace=False)
        declared = replace(self.spec, interpolation="nearest" if planted else self.spec.interpolation)
        others = {name: replace(declared, interpolation=name) for name in ("nearest", "bilinear", "bicubic")}
        made = {DECLARED: self.tensors(rows, declared)} | {n: self.tensors(rows, spec) for n, spec in others.items()}
        accounts = {n: Account(None, 0.0, observed.activation_distance(self.network, x)) for n, x in made.items()}
        return observed.nearest(accounts) != DECLARED

    def labelled(self, luck: Generator) -> npt.NDArray[np.int64]:
        """Draw as many rows of each class."""
        parts = [luck.choice(np.flatnonzero(self.labels == c), LABELLED // 10, replace=False) for c in range(10)]
        return np.concatenate(parts)

    def flipped(self, luck: Generator, planted: bool) -> bool:
        """5 % of the labels are another class's."""
        rows = self.labelled(luck)
        labels = self.labels[rows].copy()
        if planted:
            wrong = luck.choice(len(rows), LABELLED // 20, replace=False)
            labels[wrong] = (labels[wrong] + luck.integers(1, 10, len(wrong))) % 10
        answers = out_of_fold(Labelled(self.features[rows], labels, np.ones(len(rows))), 10, 0)
        return len(suspects(labels, answers)) / len(rows) > MAX_LABEL_ERRORS

    def copied(self, luck: Generator, planted: bool) -> bool:
        """One test picture stands in training too, as a JPEG of twice the size."""
        pictures = self.pictures(luck.choice(len(self.pixels), 40, replace=False))
        if planted:
            buffer = io.BytesIO()
            pictures[0].resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
            pictures.append(Image.open(buffer).convert("RGB"))
        pairs = near_by_hash([str(imagehash.phash(picture)) for picture in pictures], BITS)
        small = [np.asarray(picture.convert("L").resize((SIDE, SIDE)), dtype=np.uint8) for picture in pictures]
        return any(correlation(small[i], small[j]) >= CORRELATION for i, j in pairs.tolist())


def frozen(card: Card, state: backbones.State) -> tuple[Preprocessing, torch.nn.Module]:
    """Return a backbone without its top, in eval mode, and the preprocessing that it expects."""
    network = build(card.architecture, card.num_classes, card.preprocessing.crop)
    network.load_state_dict(state)
    return card.preprocessing, without_top(network)[0].eval()


def features(network: torch.nn.Module, spec: Preprocessing, pictures: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
    """Return what a backbone makes of pictures, float32 [n, d]; 64 of them at a time."""
    with torch.inference_mode():
        parts = [
            network(torch.stack([preprocess(picture, spec) for picture in batch]))
            for batch in images.batched(pictures, 64)
        ]
    return np.asarray(torch.cat([part.flatten(1) for part in parts]).numpy())


def comparison(usual: npt.NDArray[np.float32], changed: npt.NDArray[np.float32]) -> Alarm:
    """Compare rows of features [n, d] with others, of pictures that production has seen `changed` [n, d]."""

    def alarm(luck: Generator, planted: bool) -> bool:
        rows = luck.permutation(len(usual))[: TRAINING + REFERENCE]
        reference = (changed if planted else usual)[rows[TRAINING:]]
        told = two_sample(usual[rows[:TRAINING]], reference, int(luck.integers(2**32)))
        return told.p < ALPHA and told.auc["value"] > MAX_AUC

    return alarm


def sketches(datasets: Path, weights: Path) -> Alarm:
    """Return the comparison of photographs with sketches of others: the photos of PACS, an edge filter, SqueezeNet."""
    spec, network = frozen(*backbones.torchvision("squeezenet1_1", str(weights / "squeezenet1_1-imagenet.safetensors")))
    paths = sorted((datasets / "pacs-photo").rglob("*.jpg"), key=lambda path: uniform(path.name))[:PHOTOGRAPHS]
    taken = [images.decode(images.read_bytes(path)) for path in paths]
    drawn = [ImageOps.invert(picture.convert("L").filter(ImageFilter.FIND_EDGES)).convert("RGB") for picture in taken]
    return comparison(features(network, spec, taken), features(network, spec, drawn))


def brighter(picture: Image.Image) -> Image.Image:
    """Lift black by a tenth of the range."""
    return Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.1)


def outlines(picture: Image.Image) -> Image.Image:
    """Turn a picture into a sketch of itself."""
    return picture.resize((32, 32)).filter(ImageFilter.FIND_EDGES)


def starved(luck: Generator, planted: bool) -> bool:
    """One class of ten has 0.5 % of the training images where it should have its tenth."""
    shares = np.full(10, 0.1)
    if planted:
        shares[0], shares[1:] = 0.005, 0.995 / 9
    counts = luck.multinomial(1000, shares)
    return bool(counts.max() / max(1, counts.min()) > MAX_IMBALANCE)


def prior_off(luck: Generator, planted: bool) -> bool:
    """The world has two classes alike; 200 images hold 65 % of one."""
    first = int(luck.binomial(200, 0.65 if planted else 0.5))
    rows = population_fit({"train": {"a": first, "b": 200 - first}}, {"a": 1.0, "b": 1.0})
    return any(row["significant"] and row["effect"] > MAX_EFFECT for row in rows)


def _images(luck: Generator, n: int = 200) -> pd.DataFrame:
    measures = {name: luck.random(n) for name in ("brightness", "contrast", "sharpness", "width", "height", "bytes")}
    plain = {"format": "JPEG", "mode": "RGB", "source": luck.choice(["north", "south"], n)}
    return pd.DataFrame({"id": [f"{i:05}" for i in range(n)], "label": luck.choice(["a", "b"], n), **measures, **plain})


def brightness_tells(luck: Generator, planted: bool) -> bool:
    """One class was photographed two standard deviations brighter."""
    images = _images(luck)
    images["brightness"] = luck.normal(0.5, 0.1, len(images)) + 0.3 * planted * (images["label"] == "b")
    return any(row["significant"] and row["effect"] > MAX_SHORTCUT for row in shortcuts(images, luck))


def source_of_one_class(luck: Generator, planted: bool) -> bool:
    """A third source delivers 20 of 200 images, all of one class."""
    images = _images(luck)
    if planted:
        images.loc[images.index[images["label"] == "b"][:20], "source"] = "west"
    return any(row["significant"] for row in representation(images))


def faults() -> dict[str, Alarm]:
    """Return every planted fault with its check."""
    data = Digits()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (COLOUR.mean, COLOUR.std))
    places = [os.environ.get(name) for name in ("REGRAFT_DATASETS", "REGRAFT_WEIGHTS")]
    photographs = {"photographs turned to sketches": sketches(*map(Path, places))} if all(places) else {}  # type: ignore[arg-type]
    return {
        "unscaled": data.loader(lambda x: ((x * std + mean) * 255 - mean) / std),
        "normalised twice": data.loader(lambda x: (x - mean) / std),
        "BGR after normalisation": data.loader(lambda x: x.flip(1)),
        "mean off by 0.05": data.loader(lambda x: x - 0.05 / std),
        "another resize filter": data.filter,
        "shifted brightness (+ 0.1)": data.shifted(brighter),
        "shifted domain (outlines)": data.shifted(outlines),
        "one class starved": starved,
        "prior off (65 % for 50 %)": prior_off,
        "brightness tells the class": brightness_tells,
        "source of one class alone": source_of_one_class,
        "copy across splits (JPEG, twice the size)": data.copied,
        "5 % of labels flipped": data.flipped,
        **photographs,
    }


def rates(name: str, alarm: Alarm, repetitions: int) -> dict[str, Any]:
    """Return detection and false alarms of one check, each with its 95 % Wilson interval."""
    runs = track(range(repetitions), repetitions, name)
    found = [
        [alarm(numpy_generator(number, "detect", name, str(planted)), planted) for planted in (True, False)]
        for number in runs
    ]
    hits, false = np.sum(found, axis=0).tolist()
    return {"detection": proportion(hits, repetitions, 0.95), "false alarms": proportion(false, repetitions, 0.95)}


def main(repetitions: Annotated[int, typer.Option(help="Of each fault, seeded 0, 1, 2, ...")] = 200) -> None:
    """Print the table of docs/validation.md."""
    configure(ComputeParams(threads=1, batch_size=32))
    table = Table("fault", "detection, %", "false alarms, %", title=f"{repetitions} repetitions, 95 % Wilson intervals")
    for name, alarm in faults().items():
        row = rates(name, alarm, repetitions)
        told = [f"{100 * r['value']:.1f} ({100 * r['low']:.1f} to {100 * r['high']:.1f})" for r in row.values()]
        table.add_row(name, *told)
        Console(stderr=True).print(name, *told, highlight=False)
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
