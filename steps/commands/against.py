"""Against a reference: does production see what training has? Not a stage: a folder's content is not tracked."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from steps.backbones import models
from steps.backbones.finite import refuse_infinite
from steps.backbones.forward import Forward, Mode
from steps.checks import expectations, shift
from steps.checks.decision_files import write_weights
from steps.checks.feature_rules import shift_rules
from steps.checks.reports import Shift, Stranger, Unreadable
from steps.checks.selection import ALPHA
from steps.checks.shift import CONFIDENCE, LEAST, covariates, two_sample
from steps.errors import RequestError, UndecodableError
from steps.images import decoding
from steps.images.manifest import TRAIN, Rejected, in_hash_order, in_use, independent, uniform, units_of
from steps.images.preprocessing import Preprocessing, centre_crop, normalise, resized
from steps.pages.album import Album
from steps.pages.rendering import Picture, render
from steps.runtime import files
from steps.runtime.arrays import Floats
from steps.runtime.compute import ComputeParams, configure, refuse_absent
from steps.runtime.cuts import WHOLE
from steps.runtime.feature_file import read_features
from steps.runtime.progress import track
from steps.runtime.seeding import derive, numpy_generator
from steps.screen import BUDGET, SIDE, ScreenParams

MOST = 5000  # images per side, picked by a hash: more would give the same result in more time
IMPORTANCE = Path("data", "importance.csv")
LEAST_COVERED = 0.5  # share of the reference: with less, a handful of images would decide everything
PAGE, DOCS = Path("data", "outcome", "against.html"), Path("data", "outcome", "against_docs")
SeenRow = dict[str, str | int | float]  # columns of the manifest


@dataclass(frozen=True)
class Trained:
    """The paths of the project's training images and of everything that made their features."""

    raw: Path
    screened: Path
    features: Path
    preprocessing: Path
    backbone: Path


def against(
    root: Path,
    reference: Path,
    names: Sequence[str],
    trained: Trained,
    params: ScreenParams,
    mode: Mode,
    seed: int,
    compute: ComputeParams,
    reweight: bool = False,
) -> Shift:
    """Compare the training images with the unlabelled ones called `names` under `reference`; write the page.

    Returns the content of the page, including its rule's verdict. Writes only under data/outcome and, with `reweight`,
    data/importance.csv, which the next run obeys. Raises RequestError if too few of the files are images, if training
    has too few, or if no weights could make training represent the reference.
    """
    refuse_absent(mode.device)
    configure(compute)
    training, known = _training(trained)
    spec = models.read_preprocessing(trained.preprocessing)
    forward = Forward(models.load_backbone(trained.backbone)[1], [WHOLE], mode, compute.batch_size)
    seen, features, rejected = _look(reference, sorted(names, key=uniform)[:MOST], forward, spec, compute)
    for count, where in ((len(training), "the training split"), (len(seen), str(reference))):
        if count < LEAST:
            raise RequestError(f"{where} holds {count} images; at least {LEAST} are needed to compare")

    refuse_infinite(seen["path"].tolist(), [features], mode.precision)
    unit = np.unique(units_of(training).to_numpy(str), return_inverse=True)[1]
    test = two_sample(known, features, derive(seed, "against") % 2**32, unit)
    rng = numpy_generator(seed, "against")
    mine, theirs = np.split(test.odds, [len(training)])
    weighed = shift.importance(mine, theirs, params.max_importance)
    excess = test.auc.known if test.p < ALPHA else 0.5
    rules = shift_rules(params.max_shift_auc, params.severity)
    report = Shift(
        reference=len(seen),
        training=len(training),
        left_out=len(names) - len(seen) - len(rejected),
        unreadable=tuple(Unreadable(row.path, row.reason, row.exception) for row in rejected),
        auc=test.auc,
        p=test.p,
        effective=round(weighed.effective, 1),
        covered=round(weighed.covered, 3),
        measures=covariates(independent(training), seen, rng),
        strange=_strangest(seen, theirs),
        unseen=_strangest(training, -mine),
        rules=expectations.check({"shift": pd.DataFrame([{"auc": excess}])}, rules, root / DOCS) if rules else (),
        page=PAGE.as_posix(),
    )

    if reweight:
        _reweight(root, training, weighed)
    files.write_text(root / PAGE, _page(report, reference, trained.raw, params.most_shown, spec.grey_bits))
    return report


def _reweight(root: Path, training: pd.DataFrame, weighed: shift.Importance) -> None:
    """Write each training image's new weight; training images that were not compared keep 1."""
    if weighed.covered < LEAST_COVERED:
        raise RequestError(
            f"training holds about {weighed.covered:.0%} of what the reference shows, and weights need "
            f"{LEAST_COVERED:.0%}: they cannot stand for images that are not there. Label images of that kind instead"
        )
    write_weights(root / IMPORTANCE, training["id"].tolist(), weighed.weights)


def _training(trained: Trained) -> tuple[pd.DataFrame, Floats]:
    """Return the training images that count, at most `MOST`, and their features in the same order."""
    table = in_use(files.read_table(trained.screened), TRAIN).drop_duplicates("id")
    table = in_hash_order(table)[:MOST]
    return table.reset_index(drop=True), read_features(trained.features).of(table["id"])


def _look(
    folder: Path, names: Sequence[str], forward: Forward, spec: Preprocessing, compute: ComputeParams
) -> tuple[pd.DataFrame, Floats, list[Rejected]]:
    """Pass the pictures through decoder, preprocessing and backbone as extraction does, in constant memory."""
    rejected: list[Rejected] = []
    facts: list[SeenRow] = []

    def good() -> Iterator[torch.Tensor]:
        read = decoding.parallel(lambda name: _read(folder, name, spec), names, compute.threads, 2 * compute.batch_size)
        for result in track(read, len(names), "looking at the reference"):
            if isinstance(result, Rejected):
                rejected.append(result)
            else:
                facts.append(result[0])
                yield normalise(result[1], spec)

    batches = [forward(torch.stack(batch))[WHOLE] for batch in decoding.batched(good(), compute.batch_size)]
    return pd.DataFrame(facts), np.concatenate(batches or [np.empty((0, 0), np.float32)]), rejected


def _read(folder: Path, name: str, spec: Preprocessing) -> Rejected | tuple[SeenRow, torch.Tensor]:
    try:
        data = decoding.read_bytes(folder / name)
        facts, decoded = decoding.examine(data, spec.grey_bits)
    except UndecodableError as error:
        return Rejected(name, error.reason, error.exception)
    except OSError as error:
        return Rejected(name, f"cannot be read: {error.strerror}", type(error).__name__)
    row = {"id": hashlib.sha256(data).hexdigest(), "path": name, "label": "", "source": "", **facts._asdict()}
    return row, centre_crop(resized(decoded.image, spec), spec)


def _strangest(table: pd.DataFrame, odds: npt.NDArray[np.float64]) -> tuple[Stranger, ...]:
    """List images by their log-odds of belonging to their own side, the most telling first."""
    rows = table[["id", "path", "label"]].assign(odds=odds.round(4))
    rows = rows.sort_values(["odds", "path"], ascending=[False, True])
    return tuple(Stranger(*row) for row in rows[rows["odds"] > 0].itertuples(index=False, name=None))


def _page(report: Shift, reference: Path, raw: Path, most: int, grey_bits: int | None) -> str:
    def shown(strangers: Sequence[Stranger], folder: Path) -> list[tuple[Stranger, Picture | None]]:
        album = Album(folder, SIDE, BUDGET // 2, grey_bits)
        return [(stranger, album.add(stranger.path, stranger.id)) for stranger in strangers[:most]]

    return render(
        "against.html",
        found=report,
        strange=shown(report.strange, reference),
        unseen=shown(report.unseen, raw),
        confidence=CONFIDENCE,
    )
