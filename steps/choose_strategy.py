"""Choose strategy: how much of the backbone to train, from measurements on cached features of the training split.

The test split is not used, and no image and no weight is loaded here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Interval

from steps.backbones import models
from steps.backbones.cost import block_flops
from steps.evaluation.comparison import Confidence, balanced_difference
from steps.evaluation.intervals import Sample, sampled
from steps.evaluation.learning_curve import next_doubling
from steps.images.manifest import TRAIN, in_use
from steps.runtime import files, stage
from steps.runtime.arrays import Floats
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.cuts import WHOLE
from steps.runtime.feature_file import feature_cuts, read_features
from steps.runtime.figure import Figure
from steps.runtime.seeding import numpy_generator
from steps.training import transferability
from steps.training.linear_probe import Labelled, Strengths
from steps.training.strategy import (
    FROM_SCRATCH,
    Cost,
    CurvePoint,
    CutScores,
    Evidence,
    Size,
    Strategy,
    StrategyRules,
    Worth,
    expected,
    plan_training,
)
from steps.training.transferability import Divided, Held, divided, probe

SHARES = (0.25, 0.5, 1.0)  # of the labels: the learning curve
DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class ChooseStrategyParams(StrategyRules):
    """A strategy by name or `auto`, how it is measured, and where the axes of size and similarity are divided."""

    folds: Annotated[int, Interval(ge=2, le=20)]
    most_images: Annotated[int, Interval(ge=100, le=1_000_000)]
    inverse_regularisation: Strengths
    confidence: Confidence


def choose_strategy(
    params: ChooseStrategyParams,
    seed: int,
    compute: ComputeParams,
    screened: Path,
    validation: Path,
    backbone: Path,
    features: Path,
    strategy: Path,
) -> None:
    """Write the chosen strategy, its reasons in words, the measurements behind it and the cost of each strategy."""
    card = models.read_card(backbone)
    table = in_use(files.read_table(screened), TRAIN).drop_duplicates("id")
    cuts = feature_cuts(features)
    blocks = block_flops(card.architecture, card.num_classes, card.preprocessing.crop, card.cut_after(WHOLE))
    configure(compute)

    sample = divided(table, params.most_images, params.folds, seed)
    at = {cut: _at(features, cut, sample) for cut in [name for name in (*blocks, WHOLE) if name in cuts]}
    curve = [(share, _probe(at[WHOLE], sample, params, share)) for share in SHARES]
    held = {cut: curve[-1][1] if cut == WHOLE else _probe(rows, sample, params) for cut, rows in at.items()}
    plain = _probe(_labelled(transferability.hash_bits(sample.table["phash"].tolist()), sample), sample, params)
    best = max(held.values(), key=lambda of_cut: of_cut.scores().balanced_accuracy)
    compare = _Comparison(params.confidence, sampled(sample.targets, sample.groups), seed)
    evidence = Evidence(
        labels_per_class=int(table["label"].value_counts().min()),
        error=1 - held[WHOLE].scores().balanced_accuracy,
        last_doubling=compare.better(curve[-1][1], curve[-2][1], "doubling"),
        earlier={cut: compare.better(of_cut, held[WHOLE], cut) for cut, of_cut in held.items() if cut != WHOLE},
        worth=compare.better(best, plain, "worth"),
        blocks=blocks,
        images=len(table),
    )
    plan = plan_training(evidence, params)

    divergence = _source_divergence(validation)
    files.write_json(
        strategy,
        Strategy(
            strategy=plan.strategy,
            cut=plan.cut,
            blocks=plan.blocks,
            pretrained=plan.strategy != FROM_SCRATCH,
            reasons=(*plan.reasons, *_one_group(sample)),
            size=Size(
                labels_per_class=evidence.labels_per_class,
                curve=_points(curve, sample),
                last_doubling=evidence.last_doubling,
                next_doubling=_forecast(curve, at[WHOLE], sample, params, seed),
            ),
            similarity=_similarity(held, at, sample, evidence, divergence),
            worth=Worth(plain.scores(), evidence.worth),
            cost=Cost(sum(evidence.blocks.values()), expected(evidence, plan, params)),
        ),
    )


def _one_group(sample: Divided) -> Iterator[str]:
    """Yield that nothing was held out by group, if there is only one."""
    if len(sample.targets) > len(np.unique(sample.groups)) == 1:
        yield (
            "all training images are of one group, so heads were asked about images with siblings in training: these "
            "figures flatter, and say nothing about other groups"
        )


def _at(features: Path, cut: str, sample: Divided) -> Labelled:
    return _labelled(read_features(features, cut).of(sample.table["id"]), sample)


def _labelled(rows: Floats, sample: Divided) -> Labelled:
    return Labelled(rows, sample.targets, sample.table["weight"].to_numpy(np.float64))


def _probe(data: Labelled, sample: Divided, params: ChooseStrategyParams, share: float = 1.0, draw: int = 0) -> Held:
    return probe(data, sample.classes, sample.folds, params.inverse_regularisation, share, draw)


@dataclass(frozen=True)
class _Comparison:
    confidence: float
    sample: Sample
    seed: int

    def better(self, first: Held, second: Held, name: str) -> Figure:
        """Return by how much the balanced accuracy of `first` exceeds that of `second` on the same images."""
        generator = numpy_generator(self.seed, "choose_strategy", name)
        gain = first.correct - second.correct
        return balanced_difference(gain, first.targets, self.sample, self.confidence, DRAWS, generator)


def _points(curve: list[tuple[float, Held]], sample: Divided) -> tuple[CurvePoint, ...]:
    trained = len(sample.targets) * (1 - 1 / len(sample.folds)) / sample.classes
    return tuple(CurvePoint(round(share * trained, 1), **vars(held.scores())) for share, held in curve)


def _forecast(
    curve: list[tuple[float, Held]], data: Labelled, sample: Divided, params: ChooseStrategyParams, seed: int
) -> Figure:
    """Forecast from every quarter and every half of the labels; the curve shows only the first of each."""
    correct = [
        np.stack([first.correct, *(_probe(data, sample, params, share, k).correct for k in range(1, round(1 / share)))])
        for share, first in curve
    ]
    generator = numpy_generator(seed, "choose_strategy", "forecast")
    together = sampled(sample.targets, sample.groups)
    return next_doubling(correct, sample.targets, together, params.confidence, DRAWS, generator)


def _source_divergence(validation: Path) -> dict[str, float | None]:
    """Read block -> nats between the block's activations and the statistics of its BatchNorms.

    Reads no class of the report: an edit in the room of the checks would make this stage stale.
    """
    return dict(files.read_json(validation)["observed"]["source_divergence"])


def _similarity(
    held: dict[str, Held],
    at: dict[str, Labelled],
    sample: Divided,
    evidence: Evidence,
    divergence: Mapping[str, float | None],
) -> tuple[CutScores, ...]:
    last = list(evidence.blocks)[-1]
    return tuple(
        CutScores(
            cut=cut,
            **vars(of_cut.scores()),
            c=of_cut.c,
            against_whole=evidence.earlier.get(cut),
            logme=transferability.logme(at[cut].features, sample.targets),
            h_score=transferability.h_score(at[cut].features, sample.targets),
            source_divergence=divergence[cut or last],
        )
        for cut, of_cut in held.items()
    )


if __name__ == "__main__":
    stage.main(choose_strategy)
