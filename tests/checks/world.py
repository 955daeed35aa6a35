"""The gate in this process, on a folder of images with one fault or none, and its refusals read as a person does."""

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from steps.backbones import models
from steps.checks.rules import Severity
from steps.commands import origins
from steps.errors import RegraftError
from steps.images import dataset
from steps.ingest import ingest
from steps.runtime import files, params, stage
from steps.validate import validate

PROJECT = Path(__file__).parents[2]
HEAD = "image,decision,label,note\n"
CARD, STATE = origins.embedded()
DIGITS = load_digits().images
SIZES = {"train": 12, "val": 4, "test": 8}
FILES = {
    "raw": "raw",
    "manifest": "manifest.parquet",
    "quarantine": "quarantine.csv",
    "backbone": "backbone",
    "decisions": "decisions.csv",
    "lost_classes": "lost_classes.json",
    "accepted": "accepted.parquet",
    "preprocessing": "preprocessing.json",
    "validation": "validation.json",
    "docs": "docs",
}
EVERYTHING_FAILS = dict.fromkeys(Severity.__dataclass_fields__, "fail")


def digit(number: int) -> Image.Image:
    pixels = np.rint(DIGITS[number] * (255 / 16)).astype(np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)


class World:
    """A folder of images with params.yaml and data/decisions.csv, and the stages up to the gate in this process."""

    def __init__(self, root: Path) -> None:
        self.root, self.raw = root, root / "raw"
        self.document: dict[str, Any] = deepcopy(params.read(PROJECT))
        self.document["validate"]["severity"] = dict(EVERYTHING_FAILS)
        self.before_the_gate: Callable[[pd.DataFrame], pd.DataFrame] | None = None
        self.spoil_loader: Callable[..., Any] | None = None
        self.drawn = 0
        for split, count in SIZES.items():
            for label in ("ant", "bee"):
                for number in range(count):
                    self.draw(f"{split}/{label}/{number}.png")
        self.decide()
        self.lose()
        files.write_tensors(root / "backbone" / models.WEIGHTS, STATE)
        self.write_card(CARD)

    def draw(self, path: str) -> None:
        (self.raw / path).parent.mkdir(parents=True, exist_ok=True)
        digit(self.drawn).save(self.raw / path)
        self.drawn += 1

    def write_card(self, card: Any) -> None:
        folder = self.root / "backbone"
        models.write_card(folder, replace(card, sha256=files.sha256_of(folder / models.WEIGHTS)))

    def decide(self, *lines: str) -> None:
        files.write_text(self.root / "decisions.csv", HEAD + "".join(f"{line}\n" for line in lines))

    def lose(self, *classes: str) -> None:
        files.write_json(self.root / "lost_classes.json", classes)

    def set(self, name: str, value: Any) -> None:
        *sections, last = name.split(".")
        place = self.document
        for section in sections:
            place = place[section]
        assert last in place, f"params.yaml has no {name}"
        place[last] = value

    def list_images(self, **columns: Callable[[str, str, str], str]) -> None:
        """Write a listing of all the files; a column's function takes split, label and name."""
        rows = []
        for path in sorted(self.raw.rglob("*.png")):
            split, label, name = path.relative_to(self.raw).parts
            more = {column: said(split, label, name) for column, said in columns.items()}
            rows.append({"path": f"{split}/{label}/{name}", "label": label, "split": split, **more})
        pd.DataFrame(rows).to_csv(self.raw / "listing.csv", index=False)

    @property
    def paths(self) -> dict[str, Path]:
        """Return the paths of `ingest` and `validate` by argument."""
        return {name: self.root / file for name, file in FILES.items()}

    def run(self, gate: bool = True) -> tuple[int, str]:
        """Return the exit code of `ingest` and `validate` (or of the first alone), and what a refusal says."""
        paths = self.paths
        try:
            self._call(ingest, paths)
            if not gate:
                return 0, ""
            if change := self.before_the_gate:
                files.write_table(paths["manifest"], change(files.read_table(paths["manifest"])))
            with pytest.MonkeyPatch.context() as patch:
                if self.spoil_loader:
                    patch.setattr(dataset, "preprocess", self.spoil_loader)
                self._call(validate, paths)
        except RegraftError as error:
            return error.exit_code, str(error)
        return 0, ""

    def _call(self, function: Callable[..., None], paths: dict[str, Path]) -> None:
        own = {name: paths[name] for name in stage.path_arguments(function)}
        function(**own, **stage.values(function, self.document))


class Broken(NamedTuple):
    """One rule as a refusal prints it."""

    found: str
    where: list[str]
    remedy: str


def printed(refusal: str) -> dict[str, Broken]:
    """Read a refusal as a person does: the rules by name, each with what was found, where, and the remedy."""
    read = {}
    for name, rest in re.findall(r"^  (\S[^:\n]*): .*\n((?:      .*\n?)+)", refusal, re.MULTILINE):
        said = dict(re.findall(r"^      (found|where|limit|remedy) +(.*)$", rest, re.MULTILINE))
        where = [path for path in said.get("where", "").split("; ") if path]
        read[name] = Broken(said["found"], where, said["remedy"])
    return read
