"""Re-evaluation of the champion: its package answers today's test images, from raw bytes, beside the challenger."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steps.backbones.backbone import digest
from steps.errors import RegistryError
from steps.images.decoding import batched, bytes_of
from steps.images.manifest import TEST, normal
from steps.promotion.paired import Paired, paired
from steps.promotion.terms import PREDICTIONS, RAW, SCREENED
from steps.registry import look_ledger, package_loading
from steps.registry.model_registry import Registry
from steps.registry.package_loading import Package
from steps.runtime import files, params

TIMED, ROUNDS = 32, 5  # images per round, and rounds; their median counts


@dataclass(frozen=True)
class Rematch:
    """Challenger (a) against champion (b), and the latency of a divided by that of b.

    `unanswered`: a sentence if the champion's own code cannot read some of the images; they count as wrong answers.
    `classes` are those that the champion knows.
    """

    paired: Paired
    latency_ratio: float | None
    unanswered: list[str]
    classes: list[str]


def rematch(registry: Registry, kind: str, challenger: str, champion: Package, timed: bool) -> Rematch:
    """Compare two versions on today's test images; the challenger's answers are those that `evaluate` wrote.

    With `timed`, latency is measured on images that both answer. Raises RegistryError if the champion answers none of
    the images or the challenger's package is gone or not what was signed, IntegrityError if a test image has changed
    since ingest.
    """
    root = registry.root
    predictions = files.read_table(root / PREDICTIONS)
    table = files.read_table(root / SCREENED)
    mine = predictions[(predictions["model"] == kind) & (predictions["split"] == TEST)].sort_values("path")
    table = table.set_index("path", drop=False).loc[mine["path"]]
    images, raw = list(zip(mine["path"], mine["id"], strict=True)), root / RAW
    look_ledger.record([weights_of(champion)], mine["id"])
    theirs = [label and normal(label) for label in answers(champion, raw, images, "label")]
    answered = [image for image, label in zip(images, theirs, strict=True) if label is not None]
    if not answered:
        raise RegistryError(f"version {champion.version}, the champion, answers none of {len(images)} test images here")
    right = (
        (mine["predicted"] == mine["label"]).to_numpy(),
        np.array(theirs, dtype=object) == mine["label"].to_numpy(),
    )
    ratio = None
    if timed:
        ratio = latency_ratio(package_loading.load(registry, challenger), champion, frame_of(raw, answered[:TIMED]))
    return Rematch(
        paired(params.read(root), table, *right, ("promote", champion.version)),
        ratio,
        _unanswered(champion, [path for path, label in zip(mine["path"], theirs, strict=True) if label is None]),
        list(champion.model.unwrap_python_model().classes),
    )


def answers(package: Package, raw: Path, images: Sequence[tuple[str, str]], column: str) -> list[Any]:
    """Return a column of a version's answers to images; None for an image that its own, possibly old, code cannot read.

    IntegrityError if an image has changed since ingest.
    """
    return [answer for some in batched(images, 256) for answer in _answers(package, raw, some, column)]


def _answers(package: Package, raw: Path, images: Sequence[tuple[str, str]], column: str) -> list[Any]:
    frame = frame_of(raw, images)
    try:
        return list(package.model.predict(frame)[column])
    except Exception:  # last year's code, with exceptions of its own: one bad image must not hide the others' answers
        if len(images) == 1:
            return [None]
    half = len(images) // 2
    return [*_answers(package, raw, images[:half], column), *_answers(package, raw, images[half:], column)]


def _unanswered(champion: Package, paths: list[str]) -> list[str]:
    shown = ", ".join(paths[:3]) + (" ..." if paths[3:] else "")
    sentence = (
        f"version {champion.version}, the champion, cannot read {len(paths)} test images, which count as wrong: {shown}"
    )
    return [sentence] if paths else []


def weights_of(package: Package) -> str:
    """Return the digest of a package's weights: its key in the ledger of looks."""
    return digest(package.model.unwrap_python_model().model.state_dict())


def latency_ratio(challenger: Package, champion: Package, frame: pd.DataFrame) -> float:
    """Return the challenger's time for these images over the champion's: median of rounds in which both take turns."""
    rounds = [[_seconds(package.model, frame) for package in (challenger, champion)] for _ in range(ROUNDS + 1)]
    ours, theirs = np.median(rounds[1:], axis=0)  # the first round warms up
    return float(ours / theirs)


def _seconds(model: Any, frame: pd.DataFrame) -> float:
    start = time.perf_counter()
    model.predict(frame)
    return time.perf_counter() - start


def frame_of(raw: Path, rows: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return the bytes of images (path, SHA-256) as a package expects them; IntegrityError if they have changed."""
    return pd.DataFrame({"image": [bytes_of(raw, *row) for row in rows]})
