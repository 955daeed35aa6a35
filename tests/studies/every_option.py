"""Every option that params.yaml offers leads to a verdict or a sentence: drawn manifests through the stages.

`python -m tests.studies.every_option` runs 500 drawn manifests (classes, images per class, groups, weights, copies,
missing splits) with drawn options through every stage from `validate` to `report`, on made-up features. It prints how
many ended with a report and how many with which sentence, and the traceback of each that ended with neither.
"""

import os
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml
from PIL import Image

from steps.backbones import models
from steps.backbones.forward import cut_names
from steps.commands import origins
from steps.errors import RegraftError
from steps.images.manifest import SPLITS, Row
from steps.runtime import artefacts, files, stage
from steps.runtime.feature_file import write_features
from tests.conftest import REPOSITORY
from tests.test_graph import STAGES as GRAPH_STAGES

BEFORE = ("ingest", "extract_features")  # what they would make is made up
STAGES = [name for name in GRAPH_STAGES if name not in (*BEFORE, "register")]
POOL, COPIED, SIDE = 1500, 100, 16  # pictures; how many of them have a second name; pixels
MOST_CLASSES, MOST_IMAGES = 30, 50
Document = dict[str, dict[str, Any]]
CHEAP: Document = {
    "compute": {"threads": 1},
    "validate": {"sample_images": 4},
    "choose_strategy": {"inverse_regularisation": [0.01]},
    "train_head": {"inverse_regularisation": [0.01, 1.0]},
    "fine_tune": {"epochs": 2, "patience": 1, "unfreeze_every": 0, "warmup_epochs": 0},
    "baselines": {"epochs": 1, "patience": 1, "least_steps": 0, "rates": [1e-3], "draws": 1, "side": 4},
    "evaluate": {"bootstrap_draws": 100},
    "inspect": {"answers": 1, "neighbours": 1, "most_points": 20, "robustness_images": 0},
    "report": {"sample_images": 1, "wrong_answers": 3, "thumbnail": 32},
}
LENIENT = ("warn", "off")  # severity `fail` ends a run with a sentence that the gate's own tests read
OFFERED: dict[str, dict[str, Sequence[Any]]] = {  # section -> option -> what is drawn
    "compute": {"batch_size": (2, 8, 32)},
    "validate": {"drop_leaking": (False, True)},
    "screen": {
        "drop_suspects": (False, True),
        "drop_leaking": (False, True),
        "least_agreement": (0.0, 0.8),
        "max_label_errors": (0.0, 0.02),
    },
    "choose_strategy": {
        "strategy": ("auto", "auto", "head_only", "later_blocks", "early_features", "everything", "from_scratch"),
        "folds": (2, 5, 20),
        "most_images": (100, 5000),
    },
    "train_head": {"kind": ("linear", "linear", "prototype", "knn", "mlp")},
    "fine_tune": {
        "optimiser": ("adamw", "sgd"),
        "balance": ("weights", "sampling", "none"),
        "bn_policy": ("frozen", "adapt", "train"),
        "augmentation": ("none", "crop", "trivial"),
        "mix": ("none", "none", "mixup", "cutmix"),
        "ema": (0.0, 0.9),
        "l2_sp": (0.0, 0.1),
        "views": (0, 0, 2),
    },
    "baselines": {"scratch": (True, False), "most_images": (10, 2000), "small_set": (0, 1000)},
    "evaluate": {
        "answers": ("balanced", "likely"),
        "confidence": (0.5, 0.95, 0.999),
        "slice_columns": ([], ["mode"], ["weight", "label"]),
        "slice_limits": ({}, {"source": 0.5}, {"brightness=low": 1.0}),
        "slice_least": (1, 10),
        "target_accuracy": (0.5, 0.98, 1.0),
    },
    "inspect": {"robustness_images": (0, 3), "label_next": (1, 50)},
}


@dataclass(frozen=True)
class Drawn:
    """A drawn manifest with the values of params.yaml."""

    manifest: pd.DataFrame
    document: Document


def draw(seed: int, document: Document, names: Sequence[tuple[str, str]]) -> Drawn:
    """Draw a manifest of the pictures `names` (path, id), and options."""
    rng = np.random.default_rng(seed)
    return Drawn(_manifest(rng, names), _options(rng, document))


def _options(rng: np.random.Generator, document: Document) -> Document:
    drawn = {section: {**dict_of(document, section), **CHEAP.get(section, {})} for section in document}
    for section, options in OFFERED.items():
        for name, values in options.items():
            drawn[section][name] = values[rng.integers(len(values))]
    if drawn["fine_tune"]["mix"] != "none":  # they contradict each other, as one sentence says
        drawn["fine_tune"] |= {"views": 0, "augmentation": "crop"}
    for section in ("validate", "screen"):
        keys = drawn[section]["severity"]
        drawn[section]["severity"] = {key: LENIENT[rng.integers(2)] for key in keys}
    return {name: drawn[name] if isinstance(value, dict) else value for name, value in document.items()}


def dict_of(document: Document, section: str) -> dict[str, Any]:
    """Return a section of params.yaml; {} for a single value such as the seed."""
    return document[section] if isinstance(document[section], dict) else {}


def _manifest(rng: np.random.Generator, names: Sequence[tuple[str, str]]) -> pd.DataFrame:
    classes = int(rng.integers(1, MOST_CLASSES + 1) ** rng.choice([1.0, 0.5]))
    sizes = np.maximum(1, rng.integers(1, MOST_IMAGES + 1, classes) ** rng.choice([1.0, 0.5, 0.7])).astype(int)
    labels = np.repeat([f"class {number}" for number in range(classes)], sizes)
    n = len(labels)
    picked = rng.choice(len(names), n, replace=False)
    table = pd.DataFrame(
        [
            Row(
                id=names[index][1],
                path=names[index][0],
                label=label,
                split="train",
                width=SIDE,
                height=SIDE,
                mode="RGB",
                bytes=900,
                format="PNG",
                group="",
                source="",
                weight=1.0,
                phash=f"{rng.integers(2**63):016x}",
                brightness=float(rng.random()),
                contrast=0.2,
                sharpness=0.1,
                taken="",
            )
            for index, label in zip(picked, labels, strict=True)
        ],
        columns=Row._fields,
    )
    return _with_splits(rng, _with_weights(rng, _with_groups(rng, table)))


def _with_groups(rng: np.random.Generator, table: pd.DataFrame) -> pd.DataFrame:
    """Give the images groups: none, a few or many, over the classes or within them; and sources."""
    count, kind = int(rng.choice([1, 2, 3, 8, 40])), rng.choice(["none", "across", "within", "some"])
    number = rng.integers(0, count, len(table)).astype(str).astype(object)
    if kind == "within":
        number = table["label"].to_numpy(object) + number
    if kind == "none":
        number = ""
    elif kind == "some":
        number = np.where(rng.random(len(table)) < 0.5, number, "")
    source = rng.choice(["", "a camera", "another"], len(table)) if rng.random() < 0.5 else ""
    return table.assign(group=number, source=source)


def _with_weights(rng: np.random.Generator, table: pd.DataFrame) -> pd.DataFrame:
    """Give the images weights: 1, some 0, any; sometimes a whole class weighs nothing."""
    kind, weights = rng.choice(["one", "zeros", "any"]), np.ones(len(table))
    if kind == "zeros":
        weights = (rng.random(len(table)) < 0.8).astype(float)
    elif kind == "any":
        weights = rng.choice([0.0, 0.1, 1.0, 7.5], len(table))
    if rng.random() < 0.1:
        weights = np.where(table["label"] == table["label"].iloc[0], 0.0, weights)
    return table.assign(weight=weights)


def _with_splits(rng: np.random.Generator, table: pd.DataFrame) -> pd.DataFrame:
    """Split the images by group or one by one; sometimes a split lacks a class, or is missing."""
    shares = np.array([0.5, 0.2, 0.25, 0.05])
    missing = rng.random(4) < [0.04, 0.08, 0.08, 0.5]
    shares = np.where(missing & (shares < shares.max()), 0, shares)
    units = table["group"].where(table["group"] != "", table["path"])
    of_unit = {unit: SPLITS[rng.choice(4, p=shares / shares.sum())] for unit in pd.unique(units)}
    split = units.map(of_unit)
    if rng.random() < 0.5:  # every class has what training needs
        split = split.mask(~table["label"].duplicated(), "train")
    if rng.random() < 0.3:
        lacking = rng.choice(SPLITS[:3])
        split = split.mask((table["label"] == table["label"].iloc[-1]) & (split == lacking), "train")
    return table.assign(split=split, label=table["label"].mask(split == "unlabelled", ""))


@dataclass(frozen=True)
class Bench:
    """A project in a folder with a pool of pictures, and the network's widths at its cuts."""

    root: Path
    names: list[tuple[str, str]]  # path and id of each picture
    widths: dict[str, int]

    def run(self, seed: int) -> str:
        """Run a drawn manifest through the stages; return "report", the sentence of a refusal, or a traceback."""
        drawn = draw(seed, yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8")), self.names)
        self._lay_out(drawn, np.random.default_rng(seed))
        for name in STAGES:
            try:
                stage.run(artefacts.declared(self.root, name)["cmd"], self.root)
            except RegraftError as error:
                return f"{name}: {error}"
            except Exception:
                return f"{name}: {traceback.format_exc()}"
        return "report"

    def _lay_out(self, drawn: Drawn, rng: np.random.Generator) -> None:
        data = self.root / "data"
        for name in ("reports", "outcome", "models"):
            shutil.rmtree(data / name, ignore_errors=True)
        for path in data.glob("*.parquet"):
            path.unlink()
        files.write_text(self.root / "params.yaml", yaml.safe_dump(drawn.document))
        files.write_table(data / "manifest.parquet", drawn.manifest)
        ids = sorted(set(drawn.manifest["id"]))
        centres = {label: rng.normal(size=max(self.widths.values())) for label in set(drawn.manifest["label"])}
        own = drawn.manifest.drop_duplicates("id").set_index("id")["label"]
        known = np.stack([centres[own[identity]] for identity in ids]).astype(np.float32)
        made = {
            cut: known[:, :width] + rng.normal(size=(len(ids), width)).astype(np.float32)
            for cut, width in self.widths.items()
        }
        write_features(data / "features.safetensors", ids, made)


def make_bench(root: Path) -> Bench:
    """Write the pool of pictures, the embedded backbone and what else a project has."""
    for name in ("dvc.yaml", "params.yaml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, root / name)
    for name in ("decisions.csv", "importance.csv", "lost_classes.json"):
        (root / "data").mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / "data" / name, root / "data" / name)
    (root / "steps").symlink_to(REPOSITORY / "steps")
    files.write_text(root / "data/quarantine.csv", "path,reason,exception,kind,format,label\n")
    files.write_text(root / "data/raw.dvc", yaml.safe_dump({"outs": [{"md5": "0" * 32, "path": "raw"}]}))
    card, state = origins.embedded()
    weights = root / "data/backbone" / models.WEIGHTS
    files.write_tensors(weights, state)
    models.write_card(weights.parent, replace(card, sha256=files.sha256_of(weights)))
    _, network, _ = models.load_backbone(weights.parent)
    return Bench(root, _pictures(root / "data/raw"), _widths(weights.parent, cut_names(network, 3)))


def _widths(backbone: Path, cuts: Sequence[str]) -> dict[str, int]:
    return {cut: models.load_backbone(backbone, cut)[2] for cut in cuts}


def _pictures(raw: Path) -> list[tuple[str, str]]:
    rng, names = np.random.default_rng(0), list[str]()
    for folder in ("one", "two"):
        (raw / folder).mkdir(parents=True)
    for number in range(POOL):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(raw / f"one/{number}.png")
        names.append(f"one/{number}.png")
        if number < COPIED:
            shutil.copy(raw / names[-1], raw / f"two/{number}.png")
            names.append(f"two/{number}.png")
    return [(name, files.sha256_of(raw / name)) for name in names]


@contextmanager
def bench() -> Iterator[Bench]:
    """Yield a bench in a temporary folder, with the registry of looks inside it."""
    before = {name: os.environ.get(name) for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI")}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        try:
            yield make_bench(Path(folder))
        finally:
            os.environ.update({name: value for name, value in before.items() if value is not None})
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)


def crashed(outcome: str) -> bool:
    """Return True if a run ended with a traceback: neither a report nor a sentence."""
    return "Traceback (most recent call last)" in outcome


def kind_of(outcome: str) -> str:
    """Return a refusal's first lines without its numbers, so that equal ones can be counted."""
    return re.sub(r"\d[\d,.]*", "N", " / ".join(line.strip() for line in outcome.splitlines()[:3]))[:150]


def main(
    sets: Annotated[int, typer.Option(help="drawn manifests")] = 500,
    first: Annotated[int, typer.Option(help="the first seed")] = 0,
) -> None:
    """Run the drawn manifests and print what became of them; exit with 1 if one of them crashed."""
    outcomes = Counter[str]()
    crashes = 0
    with bench() as made:
        for seed in range(first, first + sets):
            outcome = made.run(seed)
            if crashed(outcome):
                crashes += 1
                typer.echo(f"--- seed {seed}: {outcome}")
            outcomes["a traceback" if crashed(outcome) else kind_of(outcome)] += 1
    for words, count in outcomes.most_common():
        typer.echo(f"{count:5} {words}")
    sys.exit(1 if crashes else 0)


if __name__ == "__main__":
    typer.run(main)
