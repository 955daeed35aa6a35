"""Train head: to convergence, on the cached features. No image and no backbone is loaded here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from steps.backbones import models
from steps.backbones.heads import State
from steps.images.manifest import TRAIN, VAL, in_use
from steps.runtime import artefacts, files, stage
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.feature_file import Features, read_features
from steps.runtime.seeding import derive
from steps.runtime.stage import Lineage
from steps.training.head_training import Kind, fit_head
from steps.training.histories import HeadHistory, TrainedFacts
from steps.training.linear_probe import Fitted, Labelled, Strengths
from steps.training.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class TrainHeadParams:
    """The kind of head, and the strengths to try; validation log-loss picks one."""

    kind: Kind
    inverse_regularisation: Strengths


def train_head(
    params: TrainHeadParams,
    seed: int,
    compute: ComputeParams,
    lineage: Lineage,
    screened: Path,
    features: Path,
    strategy: Path,
    head: Path,
    history: Path,
) -> None:
    """Fit a head for each strength on train at the strategy's cut, choose on val, refit on both; write both files."""
    table = in_use(files.read_table(screened))
    classes = sorted(table["label"].unique())
    cut = artefacts.read(Strategy, strategy).cut
    known = read_features(features, cut)
    configure(compute)

    train, val = (_select(table, split, classes, known) for split in (TRAIN, VAL))
    fitted = fit_head(
        params.kind, train, val, len(classes), params.inverse_regularisation, derive(seed, "train_head") % 2**32
    )

    files.write_tensors(head / models.WEIGHTS, _tensors(fitted))
    files.write_json(head / models.FACTS, TrainedFacts(tuple(classes), cut, lineage))
    files.write_json(
        history,
        HeadHistory(
            classes=tuple(classes),
            n_train=len(train.targets),
            n_val=len(val.targets),
            kind=params.kind,
            path=fitted.path,
            chosen_c=fitted.chosen_c,
            validation=fitted.validation,
        ),
    )


def _select(table: pd.DataFrame, split: str, classes: list[str], known: Features) -> Labelled:
    part = table[table["split"] == split]
    return Labelled(
        features=known.of(part["id"]),
        targets=np.searchsorted(classes, part["label"].tolist()),
        weights=part["weight"].to_numpy(np.float64),
    )


def _tensors(fitted: Fitted[State]) -> State:
    states = {"train_only": fitted.train_only, "refitted": fitted.refitted}
    return {f"{kind}.{name}": tensor for kind, state in states.items() for name, tensor in state.items()}


if __name__ == "__main__":
    stage.main(train_head)
