"""Rank backbones on the user's own images. Not a stage: nothing is written, and the test split is not used.

A cross-validated linear probe decides; LogME, H-score and the time per image on this machine are shown beside it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch

from steps.backbones import models
from steps.backbones.finite import refuse_infinite
from steps.commands import origins
from steps.commands.wishes import AS_IT_IS, Wishes
from steps.errors import DataError, RequestError
from steps.evaluation.comparison import balanced_difference
from steps.evaluation.intervals import mean_of_shares, sampled
from steps.images import decoding
from steps.images.deep_grey import used_bits
from steps.images.manifest import TRAIN, in_use
from steps.images.preprocessing import Preprocessing, preprocess
from steps.runtime import artefacts, files, params
from steps.runtime.arrays import Floats
from steps.runtime.figure import Figure
from steps.runtime.progress import track
from steps.runtime.seeding import numpy_generator
from steps.training.linear_probe import Labelled
from steps.training.transferability import Divided, Held, divided, h_score, logme, probe

BATCH = 32
FOLDS, DRAWS, CONFIDENCE = 5, 2000, 0.95
PATH = (1e-3, 1e-2, 0.1, 1.0)


@dataclass(frozen=True)
class Candidate:
    """A backbone's out-of-fold answers, its scores, and milliseconds per image on this machine (forward pass)."""

    name: str
    held: Held
    logme: float
    h_score: float
    milliseconds: float


@dataclass(frozen=True)
class Ranked:
    """A row of the ranking: a backbone's figures, and its paired difference from the best one."""

    backbone: str
    images: int
    balanced_accuracy: Figure
    log_loss: float  # nats
    logme: float
    h_score: float
    milliseconds_per_image: float
    against_best: Figure
    told_apart_from_best: bool


@dataclass(frozen=True)
class Ranking:
    """One row per backbone, the best first, and a sentence that says which may be the best."""

    rows: list[Ranked]
    verdict: str

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return {"backbones": self.rows, "verdict": self.verdict}

    def lines(self) -> list[str]:
        """Return a table as wide as the terminal, and the verdict."""
        from rich.console import Console
        from rich.table import Table

        table = Table(
            "backbone", "balanced accuracy", "against the best", "log-loss", "LogME", "H-score", "ms per image"
        )
        for row in self.rows:
            table.add_row(
                row.backbone,
                _share(row.balanced_accuracy, ".1f"),
                "" if row is self.rows[0] else _share(row.against_best, "+.1f"),
                f"{row.log_loss:.3f}",
                f"{row.logme:.3f}",
                f"{row.h_score:.2f}",
                f"{row.milliseconds_per_image:.1f}",
            )
        console = Console()
        with console.capture() as captured:
            console.print(table)
            console.print(self.verdict, highlight=False)
        return captured.get().splitlines()


def rank(
    root: Path,
    names: Sequence[str],
    weights: Sequence[str],
    most: int,
    preprocessing: Sequence[str] = (),
    parts: Sequence[str] = (),
) -> Ranking:
    """Return the ranking; RequestError if the request is wrong.

    The images are those that `choose_strategy` sees. `weights` holds texts NAME=FILE; `preprocessing` and `parts`,
    likewise, what `use` takes as --preprocessing and --weights-part.
    """
    files_of = _weights(weights, names)
    spec_of = _weights(preprocessing, names, "--preprocessing", "ENTRY or NAME=FILE")
    part_of = _weights(parts, names, "--weights-part", "PART")
    wishes = {name: Wishes(spec_of.get(name), part_of.get(name)) for name in names}
    screened = artefacts.paths(root, "choose_strategy")["screened"]
    if not screened.exists():
        raise RequestError(f"{screened.relative_to(root)} does not exist yet; `regraft run choose_strategy` makes it")
    raw, seed = artefacts.paths(root, "extract_features")["raw"], params.read(root)["seed"]
    rows = ranking(raw, files.read_table(screened), names, files_of, most, seed, wishes)
    return Ranking(rows, verdict(rows))


def _weights(
    given: Sequence[str], names: Sequence[str], option: str = "--weights", value: str = "FILE"
) -> dict[str, str]:
    """Return the values of an option that is given for one backbone at a time, as NAME=VALUE."""
    if len(set(names)) < len(names):
        raise RequestError(f"a backbone is named twice: {', '.join(names)}")
    pairs = dict(item.partition("=")[::2] for item in given)
    for name, file in pairs.items():
        if name not in names or not file:
            raise RequestError(f"{option} {name}={file}: expected NAME={value}, NAME one of {', '.join(names)}")
    return pairs


def ranking(
    raw: Path,
    table: pd.DataFrame,
    names: Sequence[str],
    weights: dict[str, str],
    most: int,
    seed: int,
    wishes: Mapping[str, Wishes] = MappingProxyType({}),
) -> list[Ranked]:
    """Return one row per backbone, the best first.

    `table` has id, path, label, split, group, weight; `weights` maps a name to a file, `wishes` to what is said about
    it; at most `most` images are used. Raises RequestError for a backbone that does not exist or a file that does not
    fit, DataError for too few images.
    """
    loaded = {
        name: origins.named(name, weights.get(name), wishes.get(name, AS_IT_IS)) for name in names
    }  # all faults before the first image
    task, bits = _task(table, most, seed), used_bits(table)
    return _ranked([_judge(name, *loaded[name], raw, task, bits) for name in names], task, seed)


def _task(table: pd.DataFrame, most: int, seed: int) -> Divided:
    """Return the labelled training images, and the folds that all backbones share."""
    table = in_use(table, TRAIN).drop_duplicates("id")
    counts = table["label"].value_counts()
    if len(counts) < 2 or counts.min() < 2:
        raise DataError("backbones cannot be ranked: at least two classes with two training images each are needed")
    return divided(table, most, FOLDS, seed)


def _judge(
    name: str, card: models.Card, state: origins.State, raw: Path, task: Divided, grey_bits: int | None
) -> Candidate:
    backbone, _ = models.assemble(card, state)
    features, milliseconds = _features(name, backbone, replace(card.preprocessing, grey_bits=grey_bits), raw, task)
    data = Labelled(features, task.targets, np.ones(len(task.targets)))
    held = probe(data, task.classes, task.folds, PATH)
    return Candidate(name, held, logme(features, task.targets), h_score(features, task.targets), milliseconds)


def _features(
    name: str, backbone: torch.nn.Module, spec: Preprocessing, raw: Path, task: Divided
) -> tuple[Floats, float]:
    """Return float32 features [n, width], and milliseconds of forward pass per image (the first batch warms up)."""
    items = list(zip(task.table["path"], task.table["id"], strict=True))
    tensors = decoding.parallel(
        lambda item: preprocess(decoding.read_image(raw, *item, spec.grey_bits), spec), items, 2
    )
    batches, seconds = [], []
    for batch in track(decoding.batched(tensors, BATCH), len(items), f"forward pass of {name}", BATCH):
        began = time.perf_counter()
        with torch.inference_mode():
            batches.append(backbone(torch.stack(batch)).flatten(1).float().numpy())
        seconds.append((time.perf_counter() - began) / len(batch))
    features = np.concatenate(batches)
    refuse_infinite(task.table["path"].tolist(), [features], "float32")
    return features, 1000 * float(np.median(seconds[1:] or seconds))


def _ranked(candidates: Sequence[Candidate], task: Divided, seed: int) -> list[Ranked]:
    scores = {candidate.name: candidate.held.scores() for candidate in candidates}
    ordered = sorted(candidates, key=lambda each: (-scores[each.name].balanced_accuracy, scores[each.name].log_loss))
    pairs = max(1, len(ordered) * (len(ordered) - 1) // 2)
    return [_row(candidate, ordered[0], pairs, task, seed) for candidate in ordered]


def _row(candidate: Candidate, best: Candidate, pairs: int, task: Divided, seed: int) -> Ranked:
    """Compare a candidate with the best, which was picked for being it: as if all `pairs` were compared (Bonferroni).

    So equal backbones are told apart in at most 1 - `CONFIDENCE` of the sets, however many there are.
    """
    rng = numpy_generator(seed, "rank")  # the same draws of images for all
    gain, sample = candidate.held.correct - best.held.correct, sampled(task.targets, task.groups)
    behind = balanced_difference(gain, task.targets, sample, 1 - (1 - CONFIDENCE) / pairs, DRAWS * pairs, rng)
    return Ranked(
        backbone=candidate.name,
        images=len(task.targets),
        balanced_accuracy=mean_of_shares(candidate.held.correct > 0, task.targets, sample.cluster, CONFIDENCE),
        log_loss=candidate.held.scores().log_loss,
        logme=candidate.logme,
        h_score=candidate.h_score,
        milliseconds_per_image=candidate.milliseconds,
        against_best=behind,
        told_apart_from_best=behind.below(0),
    )


def verdict(rows: Sequence[Ranked]) -> str:
    """Return one sentence: which backbones may be the best."""
    alike = [row for row in rows if not row.told_apart_from_best]
    if len(alike) == 1:
        best = alike[0].backbone
        return f"{best} is the best of these on your images" if len(rows) > 1 else f"{best} is the only one"
    cheapest = min(alike, key=lambda row: row.milliseconds_per_image)
    return (
        f"{', '.join(row.backbone for row in alike)} cannot be told apart on {rows[0].images} images; "
        f"the cheapest of them is {cheapest.backbone}"
    )


def _share(figure: Figure, form: str) -> str:
    share = f"{100 * figure.known:{form}} %"
    if figure.low is None:
        return share
    low, high = figure.ends
    return f"{share} ({100 * low:{form}} to {100 * high:{form}})"
