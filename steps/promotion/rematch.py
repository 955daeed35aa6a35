"""Re-evaluation of the champion: its package answers today's test images, from raw bytes, beside the challenger."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steps.backbones.backbone import digest
from steps.errors import RegistryError
from steps.evaluation.results import Evaluation
from steps.images.decoding import batched, bytes_of
from steps.images.manifest import TEST, normal
from steps.promotion.gate import GateRules
from steps.promotion.paired import Paired, paired
from steps.promotion.task import Task, changed_classes, task_of, with_names
from steps.promotion.terms import PREDICTIONS, RAW, SCREENED
from steps.promotion.unseen import learnt_by, unseen
from steps.registry import look_ledger, package_loading
from steps.registry.model_registry import Registry
from steps.registry.package_loading import Package
from steps.runtime import files, params
from steps.runtime.arrays import Bools
from steps.training.learnt_from import learnt_from, packed

TIMED, ROUNDS = 32, 5  # images per round, and rounds; their median counts


@dataclass(frozen=True)
class Rematch:
    """Challenger (a) against champion (b), and the latency of a divided by that of b.

    `paired` is None if nothing was compared: the two have other tasks, or `shortage` says why too few images are left.
    `notes` say what the comparison is about: classes in common, images left out, images that the champion cannot read.
    """

    task: Task
    notes: list[str]
    paired: Paired | None = None
    shortage: str | None = None
    latency_ratio: float | None = None


@dataclass(frozen=True)
class _Answered:
    """The test images [n] that neither has learnt from, and what each version's answers are the largest of.

    That is probabilities times the version's own weights of its classes; None for an image that the champion cannot
    read.
    """

    images: pd.DataFrame
    ours: list[Any]
    theirs: list[Any]


def rematch(
    registry: Registry, kind: str, challenger: str, champion: Package, rules: GateRules, evaluation: Evaluation
) -> Rematch:
    """Compare two versions on today's test images that neither has learnt from, by the classes that both know.

    The challenger's answers are those that `evaluate` wrote, with `evaluation`. Latency is measured if there is a rule
    for it, on images that both answer. Raises RegistryError if the champion answers none of the images or the
    challenger's package is gone or not what was signed, IntegrityError if a test image has changed since ingest.
    """
    classes = evaluation.classes
    root, opponent = registry.root, f"version {champion.version}, the champion,"
    known = [normal(label) for label in champion.model.unwrap_python_model().classes]
    table, mine = files.read_table(root / SCREENED), _answers_of(root, kind)
    learnt = learnt_by(root, champion)
    seen = unseen(mine["id"], {opponent: learnt, "this version": packed(learnt_from(table, kind))})
    task, notes = task_of(known, classes), seen.notes
    if shortage := seen.shortage(mine["label"], [*task.common], rules.min_unseen_per_class):
        return Rematch(task, notes, shortage=shortage)
    held = _held(root, champion, mine[seen.mask], evaluation.calibration[kind].answer_weights or (1.0,) * len(classes))
    if not task.same:
        task = with_names(task, held.images["label"], _best(held.theirs, known), table, learnt)
        if task.another:
            return Rematch(task, notes)
        notes = [changed_classes(task, opponent.rstrip(",")), *notes]
    part = table.set_index("path", drop=False).loc[held.images["path"]]
    both = part["label"].isin([*task.common]).to_numpy()
    right = (
        _right(held.ours, [*classes], part["label"], {label: label for label in task.common}),
        _right(held.theirs, known, part["label"], task.common),
    )
    return Rematch(
        task,
        [*notes, *_unanswered(champion, held)],
        paired(
            params.read(root), part[both], right[0][both], right[1][both], ("promote", champion.version), rules.least
        ),
        latency_ratio=_timed(registry, challenger, champion, held) if rules.max_latency_ratio is not None else None,
    )


def _answers_of(root: Path, kind: str) -> pd.DataFrame:
    predictions = files.read_table(root / PREDICTIONS)
    return predictions[(predictions["model"] == kind) & (predictions["split"] == TEST)].sort_values("path")


def _held(root: Path, champion: Package, mine: pd.DataFrame, weights: Sequence[float]) -> _Answered:
    """Let the champion answer these images, and record the look."""
    look_ledger.record([weights_of(champion)], mine["id"])
    theirs = answers(champion, root / RAW, _pairs(mine), "probabilities")
    if all(answer is None for answer in theirs):
        raise RegistryError(f"version {champion.version}, the champion, answers none of {len(mine)} test images here")
    of_champion = np.array(champion.facts.weights)
    return _Answered(
        mine,
        [np.asarray(row) * weights for row in mine["probabilities"]],
        [None if row is None else np.asarray(row) * of_champion for row in theirs],
    )


def _pairs(images: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(images["path"], images["id"], strict=True))


def _best(answered: Sequence[Any], classes: Sequence[str]) -> list[str | None]:
    """Return the label of each answer, None for an image without one."""
    return [None if answer is None else classes[int(np.argmax(answer))] for answer in answered]


def _right(answered: Sequence[Any], classes: Sequence[str], labels: Sequence[str], common: Mapping[str, str]) -> Bools:
    """Return whether answers [n] are right if they may only name the classes in common: today's name -> the model's."""
    columns, names = [classes.index(name) for name in common.values()], [*common]
    named = _best([None if answer is None else np.asarray(answer)[columns] for answer in answered], names)
    return np.array([label == name for label, name in zip(labels, named, strict=True)], dtype=bool)


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


def _unanswered(champion: Package, held: _Answered) -> list[str]:
    paths = [path for path, answer in zip(held.images["path"], held.theirs, strict=True) if answer is None]
    shown = ", ".join(paths[:3]) + (" ..." if paths[3:] else "")
    sentence = (
        f"version {champion.version}, the champion, cannot read {len(paths)} test images, which count as wrong: {shown}"
    )
    return [sentence] if paths else []


def weights_of(package: Package) -> str:
    """Return the digest of a package's weights: its key in the ledger of looks."""
    return digest(package.model.unwrap_python_model().model.state_dict())


def _timed(registry: Registry, challenger: str, champion: Package, held: _Answered) -> float:
    answered = [image for image, answer in zip(_pairs(held.images), held.theirs, strict=True) if answer is not None]
    pictures = frame_of(registry.root / RAW, answered[:TIMED])
    return latency_ratio(package_loading.load(registry, challenger), champion, pictures)


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
