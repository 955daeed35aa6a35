"""Choose strategy: how much of the backbone to train, from measurements on cached features of the training split.

The test split has no say, and no image and no weight is loaded here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steps.adapters import files, models, stage
from steps.adapters.compute import ComputeParams, configure
from steps.core import transferability
from steps.core.cost import block_flops
from steps.core.learning_curve import next_doubling
from steps.core.linear_probe import Labelled
from steps.core.manifest import TRAIN, uniform
from steps.core.metrics import bootstrap
from steps.core.seeding import derive, numpy_generator
from steps.core.strategy import STRATEGIES, WHOLE, Evidence, Plan, Rules, choose, expected
from steps.core.transferability import Folds, Held, folds_of, probe

SHARES = (0.25, 0.5, 1.0)  # of the labels: the learning curve
DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class ChooseStrategyParams:
    """A strategy by name or `auto`, how it is measured, and where the axes of size and similarity are divided."""

    strategy: str
    folds: int
    most_images: int
    inverse_regularisation: tuple[float, ...]
    least_labels: int
    settled: float
    headroom: float
    later_share: float
    budget_flops: float | None
    confidence: float

    def faults(self) -> Iterator[str]:
        """Yield what cannot be meant."""
        if self.strategy not in ("auto", *STRATEGIES):
            yield f"strategy is {self.strategy!r}; one of auto, {', '.join(STRATEGIES)}"
        if not self.inverse_regularisation or min(self.inverse_regularisation) <= 0:
            yield f"inverse_regularisation is {list(self.inverse_regularisation)}; numbers above 0, at least one"
        for name, least, most in (
            ("folds", 2, 20), ("most_images", 100, 1_000_000), ("least_labels", 1, 1_000_000), ("settled", 0, 1),
            ("headroom", 0, 1), ("later_share", 0, 1), ("confidence", 0.5, 0.999),
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                yield f"{name} is {getattr(self, name)}; {least} to {most}"
        if self.budget_flops is not None and self.budget_flops <= 0:
            yield f"budget_flops is {self.budget_flops}; above 0, or null for no limit"


@dataclass(frozen=True)
class Sample:
    """The training images that are measured, in an order that means nothing, and the folds they are divided into."""

    ids: list[str]
    targets: transferability.Ints
    weights: transferability.Floats
    classes: int
    folds: Folds


def choose_strategy(
    params: ChooseStrategyParams,
    seed: int,
    compute: ComputeParams,
    accepted: Path,
    backbone: Path,
    features: Path,
    strategy: Path,
) -> None:
    """Write the chosen strategy, its reasons in words, the measurements behind it and what each would cost."""
    card = models.read_card(backbone)
    table = files.read_table(accepted)
    table = table[table["split"] == TRAIN].drop_duplicates("id")
    cuts = files.feature_cuts(features)
    blocks = block_flops(card.architecture, card.num_classes, card.preprocessing.crop, card.cut_after(WHOLE))
    configure(compute)

    sample = _sample(table, params, seed)
    at = {cut: _at(features, cut, sample) for cut in [name for name in (*blocks, WHOLE) if name in cuts]}
    curve = [(share, _probe(at[WHOLE], sample, params, share)) for share in SHARES]
    held = {cut: curve[-1][1] if cut == WHOLE else _probe(rows, sample, params) for cut, rows in at.items()}
    compare = _Comparison(params.confidence, seed)
    evidence = Evidence(
        labels_per_class=int(table["label"].value_counts().min()),
        error=1 - held[WHOLE].scores()["balanced_accuracy"],
        last_doubling=compare.better(curve[-1][1], curve[-2][1], "doubling"),
        earlier={cut: compare.better(found, held[WHOLE], cut) for cut, found in held.items() if cut != WHOLE},
        blocks=blocks,
        images=len(table),
    )
    rules = _rules(params)
    plan = choose(evidence, rules)

    files.write_json(strategy, {
        "strategy": plan.strategy, "cut": plan.cut, "blocks": plan.blocks, "reasons": list(plan.reasons),
        "size": {**_size(curve, sample, evidence), "next_doubling": _forecast(curve, sample, params, seed)},
        "similarity": _similarity(held, at, sample, evidence),
        "cost": _cost(evidence, plan, rules),
    })  # fmt: skip


def _sample(table: pd.DataFrame, params: ChooseStrategyParams, seed: int) -> Sample:
    """Order the images by the hash of their content, keep at most as many as params say, and divide them."""
    table = table.assign(order=table["id"].map(uniform)).sort_values("order")
    classes = sorted(table["label"].unique())
    targets = np.searchsorted(classes, table["label"].tolist())
    kept = np.sort(transferability.first_share(targets, np.arange(len(table)), params.most_images / len(table)))
    table, targets = table.iloc[kept], targets[kept]
    groups = np.unique(table["group"].where(table["group"] != "", table["id"]).tolist(), return_inverse=True)[1]
    count = max(2, min(params.folds, int(np.bincount(targets).min())))
    folds = folds_of(targets, groups, count, derive(seed, "folds") % 2**32)
    return Sample(table["id"].tolist(), targets, table["weight"].to_numpy(np.float64), len(classes), folds)


def _at(features: Path, cut: str, sample: Sample) -> Labelled:
    ids, rows = files.read_features(features, cut)
    position = {identity: i for i, identity in enumerate(ids)}
    picked = np.asarray(rows[[position[identity] for identity in sample.ids]])
    return Labelled(picked, sample.targets, sample.weights)


def _probe(data: Labelled, sample: Sample, params: ChooseStrategyParams, share: float = 1.0) -> Held:
    return probe(data, sample.classes, sample.folds, params.inverse_regularisation, share)


@dataclass(frozen=True)
class _Comparison:
    confidence: float
    seed: int

    def better(self, one: Held, other: Held, name: str) -> dict[str, Any]:
        """Return by how much the balanced accuracy of `one` exceeds that of `other` on the same images."""
        generator = numpy_generator(self.seed, "choose_strategy", name)
        difference = one.correct - other.correct
        return bootstrap(difference, one.targets, True, self.confidence, DRAWS, generator)


def _rules(params: ChooseStrategyParams) -> Rules:
    names = ("strategy", "least_labels", "settled", "headroom", "later_share", "budget_flops")
    return Rules(**{name: getattr(params, name) for name in names})


def _size(curve: list[tuple[float, Held]], sample: Sample, evidence: Evidence) -> dict[str, Any]:
    trained = len(sample.targets) * (1 - 1 / len(sample.folds)) / sample.classes
    return {
        "labels_per_class": evidence.labels_per_class,
        "curve": [{"labels_per_class": round(share * trained, 1), **held.scores()} for share, held in curve],
        "last_doubling": evidence.last_doubling,
    }


def _forecast(
    curve: list[tuple[float, Held]], sample: Sample, params: ChooseStrategyParams, seed: int
) -> dict[str, Any]:
    correct = np.stack([held.correct for _, held in curve])
    generator = numpy_generator(seed, "choose_strategy", "forecast")
    return next_doubling(correct, sample.targets, params.confidence, DRAWS, generator)


def _similarity(
    held: dict[str, Held], at: dict[str, Labelled], sample: Sample, evidence: Evidence
) -> list[dict[str, Any]]:
    return [
        {
            "cut": cut, **found.scores(), "c": found.c, "against_whole": evidence.earlier.get(cut),
            "logme": transferability.logme(at[cut].features, sample.targets),
            "h_score": transferability.h_score(at[cut].features, sample.targets),
        }
        for cut, found in held.items()
    ]  # fmt: skip


def _cost(evidence: Evidence, plan: Plan, rules: Rules) -> dict[str, Any]:
    return {"image_flops": sum(evidence.blocks.values()), "strategies": expected(evidence, plan, rules)}


if __name__ == "__main__":
    stage.main(choose_strategy)
