"""Train head: a linear head to convergence on the cached features. No image and no backbone is loaded here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from steps.adapters import files, models, stage
from steps.adapters.compute import ComputeParams, configure
from steps.adapters.stage import Lineage
from steps.core.linear_probe import Labelled, Linear, Probe, fit_probe
from steps.core.manifest import TRAIN, UNLABELLED, VAL


@dataclass(frozen=True, kw_only=True)
class TrainHeadParams:
    """The inverse L2 strengths to try; validation log-loss picks one."""

    inverse_regularisation: tuple[float, ...]

    def faults(self) -> Iterator[str]:
        """Yield an empty or impossible path."""
        if not self.inverse_regularisation or min(self.inverse_regularisation) <= 0:
            yield f"inverse_regularisation is {list(self.inverse_regularisation)}; numbers above 0, at least one"


def train_head(
    params: TrainHeadParams,
    compute: ComputeParams,
    lineage: Lineage,
    accepted: Path,
    features: Path,
    strategy: Path,
    head: Path,
    history: Path,
) -> None:
    """Fit the path on train at the strategy's cut, choose on val, refit on both; write the head and its history."""
    table = files.read_table(accepted)
    table = table[table["split"] != UNLABELLED]
    classes = sorted(table["label"].unique())
    cut = files.read_json(strategy)["cut"]
    ids, rows = files.read_features(features, cut)
    configure(compute)

    position = {identity: i for i, identity in enumerate(ids)}
    train, val = (_select(table, split, classes, position, rows) for split in (TRAIN, VAL))
    probe = fit_probe(train, val, len(classes), params.inverse_regularisation)

    _write(head, probe, classes, cut, lineage)
    files.write_json(history, {
        "classes": classes, "n_train": len(train.targets), "n_val": len(val.targets),
        "path": probe.path, "chosen_c": probe.chosen_c, "validation": probe.validation,
    })  # fmt: skip


def _select(
    table: pd.DataFrame,
    split: str,
    classes: list[str],
    position: dict[str, int],
    rows: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
) -> Labelled:
    part = table[table["split"] == split]
    return Labelled(
        features=rows[[position[identity] for identity in part["id"]]],
        targets=np.searchsorted(classes, part["label"].tolist()),
        weights=part["weight"].to_numpy(np.float64),
    )


def _write(folder: Path, probe: Probe, classes: list[str], cut: str, lineage: Lineage) -> None:
    tensors = {**_named("train_only", probe.train_only), **_named("refitted", probe.refitted)}
    files.write_tensors(folder / models.WEIGHTS, tensors)
    files.write_json(folder / models.FACTS, {"classes": classes, "cut": cut, "lineage": lineage.to_dict()})


def _named(name: str, head: Linear) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.from_numpy(head.weight), f"{name}.bias": torch.from_numpy(head.bias)}


if __name__ == "__main__":
    stage.main(train_head)
