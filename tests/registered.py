"""A project with registered versions and no pipeline behind them: random heads on an untrained glyphnet."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from steps.backbones import models
from steps.backbones.backbone import Grafted, build, without_top
from steps.backbones.familiarity import Familiarity, fitted, outputs
from steps.backbones.inference import predict_probabilities
from steps.images import decoding
from steps.images.preprocessing import Preprocessing, preprocess
from steps.registry.model_registry import CHAMPION, Registry
from tests import packaged
from tests.conftest import make_project, write_images

NAME, ABSTAIN_BELOW = "regraft", 0.35


def other(path: Path) -> Path:
    """Write a picture that no digit is like: coloured stripes."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[::2] = (255, 0, 128)
    Image.fromarray(stripes).save(path)
    return path


def spec(side: int) -> Preprocessing:
    return Preprocessing(
        resize=side,
        crop=side,
        interpolation="bilinear",
        antialias=True,
        colour_order="RGB",
        value_range=(0.0, 1.0),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


@dataclass
class Registered:
    """A project whose registry holds versions that answer differently; `pictures` is a folder of digits."""

    root: Path
    architecture: str = "glyphnet"
    side: int = 32
    networks: dict[str, Grafted] = field(default_factory=dict)

    @property
    def spec(self) -> Preprocessing:
        return spec(self.side)

    @property
    def registry(self) -> Registry:
        """Return a registry as a command that begins now has it."""
        return Registry(self.root, NAME)

    @property
    def pictures(self) -> list[Path]:
        return sorted((self.root / "pictures").rglob("*.png"))

    def register(self, seed: int) -> str:
        """Register a version; return its number."""
        torch.manual_seed(seed)
        backbone, width = without_top(build(self.architecture, 10, self.side))
        network = Grafted(backbone, nn.Linear(width, len(packaged.CLASSES))).eval()
        saved, digest = packaged.save(
            self.root / f"scratch-{seed}",
            network,
            measure=self.measure(network),
            architecture=self.architecture,
            num_classes=10,
            preprocessing=self.spec,
            temperature=2.0,
            abstain_below=ABSTAIN_BELOW,
        )
        number = packaged.register(self.registry, digest, saved)
        self.networks[number] = network
        return number

    def measure(self, network: Grafted) -> Familiarity:
        """Return the measure by which all the project's pictures are familiar."""
        features, _ = outputs(network, self.batch(self.pictures))
        return fitted(features[::2], features, rate=0)

    def batch(self, pictures: list[Path]) -> torch.Tensor:
        """Return pictures as the network takes them."""
        return torch.stack([preprocess(decoding.decode(path.read_bytes()), self.spec) for path in pictures])

    def promote(self, number: str) -> None:
        """Let the ledger name a version champion, without the gate; the alias follows."""
        packaged.promote(self.registry, number)

    def point(self, number: str | None) -> None:
        """Move the alias champion by hand."""
        self.registry.point(CHAMPION, number)

    def evaluated(self, number: str, pictures: list[Path]) -> list[list[float]]:
        """Return the probabilities that evaluation computes: all pictures in one batch of the same network."""
        return predict_probabilities(self.networks[number], self.batch(pictures), temperature=2.0).tolist()

    def copy(self, root: Path) -> "Registered":
        """Return a project with versions and aliases of its own: the first command points its database at the copy."""
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("scratch-*"))
        return replace(self, root=root)


def make_registered(root: Path, architecture: str = "glyphnet", side: int = 32) -> Registered:
    """Make a project whose versions 1 and 2 are sound, version 3 is damaged, and 1 is champion."""
    made = Registered(make_project(root, {}).root, architecture, side)
    write_images(root / "pictures", per_class=6)
    with inside(made):
        for seed in (1, 2, 3):
            made.register(seed)
        damaged = (root / "scratch-3/model" / models.WEIGHTS).read_bytes()
        for path in (root / ".regraft/mlartifacts").rglob(models.WEIGHTS):
            if path.read_bytes() == damaged:
                path.write_bytes(damaged[:-100])
        made.promote("1")
    return made


@contextmanager
def inside(project: Registered) -> Iterator[Registered]:
    """Let this process speak of the project's own registry."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        patched.setenv("DVC_ROOT", str(project.root))
        patched.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        yield project
