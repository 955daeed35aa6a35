"""Baselines: what the same labels on the same split give without transfer, as rivals for transfer to beat.

Nothing here depends on the backbone's weights or the head: only new data, or a value of this section, costs anything.
All of them learn from the training split alone; validation is used to choose, never to fit.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Interval, MinLen
from torch import nn

from steps.backbones import models
from steps.backbones.backbone import Grafted
from steps.backbones.cost import block_flops
from steps.backbones.inference import predict_probabilities
from steps.images.dataset import Images
from steps.images.manifest import TEST, TRAIN, VAL, in_use
from steps.runtime import files, stage
from steps.runtime.arrays import Floats
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.cuts import WHOLE
from steps.runtime.progress import track
from steps.runtime.scratch import Scratch
from steps.runtime.seeding import derive
from steps.runtime.stage import Lineage
from steps.training import checkpoints
from steps.training.batches import Boundary, LeastArea, augmentation, mixing, refuse_single_images, tracked
from steps.training.fine_tuning import fine_tune_model
from steps.training.histories import BaselinesHistory, FromScratch, Majority, Pixels, ScratchRun
from steps.training.linear_probe import Labelled, Strengths, fit_probe
from steps.training.metrics import scores
from steps.training.rivals import Duration, bounded, class_shares, lengthened, schedule, small_pixels

STEP = 3  # forward and backward pass, in forward passes
MAJORITY, PIXELS, SCRATCH = "majority", "pixels", "scratch"


@dataclass(frozen=True, kw_only=True)
class BaselinesParams:
    """How small the pixels are, and how long and how often the architecture is trained from random weights."""

    most_images: Annotated[int, Interval(ge=10, le=1_000_000)]
    side: Annotated[int, Interval(ge=1, le=64)]
    inverse_regularisation: Strengths
    scratch: bool
    rates: Annotated[tuple[Annotated[float, Interval(gt=0, lt=1)], ...], MinLen(1)]
    epochs: Annotated[int, Interval(ge=1, le=1000)]
    patience: Annotated[int, Interval(ge=1, le=1000)]
    least_steps: Annotated[int, Interval(ge=0, le=1_000_000)]
    budget_flops: Annotated[float, Interval(gt=0)]
    draws: Annotated[int, Interval(ge=1, le=20)]
    small_set: Annotated[int, Interval(ge=0, le=1_000_000)]
    least_area: LeastArea
    horizontal_flip: bool


def baselines(
    params: BaselinesParams,
    seed: int,
    compute: ComputeParams,
    lineage: Lineage,
    raw: Path,
    screened: Path,
    preprocessing: Path,
    card: Path,
    predictions: Path,
    history: Path,
) -> None:
    """Write every baseline's answers for the test split, and its validation figures.

    `card` is the backbone's card.json: it names the architecture, and no weights are read. A killed run of the same
    lineage resumes after the last whole epoch of the network that it was training. Raises ParamsError if a batch is
    too small for BatchNorm to learn from.
    """
    table = in_use(files.read_table(screened))
    classes, known = sorted(table["label"].unique()), int((table["split"] == TRAIN).sum())
    spec = models.read_preprocessing(preprocessing)
    images = Images(raw, bounded(table, params.most_images), classes, spec, compute, Scratch())
    configure(compute)

    answers: dict[str, list[Floats]] = {}  # test probabilities [n, classes] of each baseline, one array per draw
    majority, answers[MAJORITY] = _majority(images)
    pixels, answers[PIXELS] = _pixels(images, params)
    scratch = None
    if params.scratch:
        scratch, answers[SCRATCH] = _scratch(images, models.read_card(card.parent), params, seed, lineage)

    files.write_json(
        history,
        BaselinesHistory(
            classes=tuple(classes),
            train=len(images.part(TRAIN)),
            train_of=known,
            most_images=params.most_images,
            val=len(images.part(VAL)),
            test=len(images.part(TEST)),
            scratch=scratch,
            majority=majority,
            pixels=pixels,
        ),
    )
    files.write_table(predictions, _rows(images, answers))
    for attempt in _attempts(params, len(images.part(TRAIN))):
        checkpoints.remove(attempt.lineage(lineage))


def _majority(images: Images) -> tuple[Majority, list[Floats]]:
    train, val = images.part(TRAIN), images.part(VAL)
    weights = train["weight"].to_numpy(np.float64)
    shares = class_shares(images.targets(train).numpy(), weights, len(images.classes))
    validation = scores(images.targets(val).numpy(), np.tile(shares, (len(val), 1)))
    answers = np.tile(shares, (len(images.part(TEST)), 1))
    return Majority(images.classes[int(shares.argmax())], validation), [answers]


def _pixels(images: Images, params: BaselinesParams) -> tuple[Pixels, list[Floats]]:
    train, val, test = (_shrunk(images, split, params.side) for split in (TRAIN, VAL, TEST))
    probe = fit_probe(train, val, len(images.classes), params.inverse_regularisation)
    facts = Pixels(params.side, probe.chosen_c, probe.path, probe.validation)
    return facts, [probe.train_only.probabilities(test.features)]


def _shrunk(images: Images, split: str, side: int) -> Labelled:
    part = images.part(split)
    batches = track(images.batches(split), len(part), f"pixels of {split}", images.compute.batch_size)
    features = [small_pixels(pixels, side) for pixels, _, _ in batches]
    return Labelled(np.concatenate(features), images.targets(part).numpy(), part["weight"].to_numpy(np.float64))


@dataclass(frozen=True)
class _Attempt:
    """One training from scratch: the draw (random weights, order, crops) and the index of its rate among the rates."""

    draw: int
    place: int

    def lineage(self, of_stage: Lineage) -> Lineage:
        """Return the name of this training within the stage: each has a checkpoint of its own."""
        return replace(of_stage, stage=f"{of_stage.stage}_{self.draw}_{self.place}")


def _attempts(params: BaselinesParams, images: int) -> list[_Attempt]:
    draws = params.draws if images < params.small_set else 1
    return [_Attempt(draw, index) for draw in range(draws) for index in range(len(params.rates))]


def _scratch(
    images: Images, card: models.Card, params: BaselinesParams, seed: int, lineage: Lineage
) -> tuple[FromScratch, list[Floats]]:
    """Train with every rate once, choose the rate on validation, and train with it from other random weights too."""
    kept = Scratch()
    attempts = _attempts(params, len(images.part(TRAIN)))

    def train(attempt: _Attempt) -> tuple[Grafted, ScratchRun]:
        return _train(_Training(images, card, params, derive(seed, "baselines", attempt.draw), kept), attempt, lineage)

    tried = {attempt: train(attempt) for attempt in attempts if attempt.draw == 0}
    chosen = min(tried, key=lambda attempt: tried[attempt][1].validation.log_loss)
    drawn = [tried[chosen], *(train(further) for further in attempts if further.draw and further.place == chosen.place)]
    networks = [network for network, _ in drawn]
    facts = FromScratch(
        architecture=card.architecture,
        parameters=sum(parameter.numel() for parameter in networks[0].parameters()),
        rates=tuple(run for _, run in tried.values()),
        chosen_rate=params.rates[chosen.place],
        draws=tuple(run for _, run in drawn),
    )
    return facts, _answers(networks, images)


@dataclass(frozen=True)
class _Training:
    images: Images
    card: models.Card
    params: BaselinesParams
    seed: int
    kept: Scratch  # of validation pictures: the same for all trainings

    def duration(self) -> Duration:
        """Return how long one training takes at most: more epochs than params say where they are few steps."""
        params, images, card = self.params, len(self.images.part(TRAIN)), self.card
        forward = sum(
            block_flops(card.architecture, card.num_classes, card.preprocessing.crop, card.cut_after(WHOLE)).values()
        )
        return lengthened(
            Duration(params.epochs, params.patience),
            math.ceil(images / self.images.compute.batch_size),
            STEP * forward * images,
            params.least_steps,
            params.budget_flops,
        )

    def network(self) -> Grafted:
        """Return the network to train, with random weights of its own."""
        model = models.from_scratch(self.card, len(self.images.classes), derive(self.seed, "weights"))
        refuse_single_images(model, self.images.compute)
        return model.to(memory_format=torch.channels_last)

    def boundary(self) -> Boundary:
        """Return the batches; there is no frozen part."""
        spec, classes = self.images.spec, len(self.images.classes)
        return Boundary(
            images=self.images,
            frozen=nn.Identity(),
            augment=augmentation(spec, "crop", self.params.least_area, self.params.horizontal_flip),
            mix=mixing("none", 1.0, classes),
            views=0,
            precision="float32",
            seed=self.seed,
            kept=self.kept,
        )


def _train(training: _Training, attempt: _Attempt, lineage: Lineage) -> tuple[Grafted, ScratchRun]:
    mine, rate = attempt.lineage(lineage), training.params.rates[attempt.place]
    boundary, what = training.boundary(), f"from scratch, draw {attempt.draw}, rate {rate:g}"
    duration = training.duration()
    with torch.random.fork_rng(devices=[]):
        model = training.network()
        outcome = fine_tune_model(
            model,
            train=lambda epoch: tracked(boundary.train(epoch), training.images, model, f"{what}, epoch {epoch}"),
            val=boundary.val,
            schedule=schedule(rate, duration.epochs, duration.patience),
            resume=checkpoints.load(mine),
            on_epoch=lambda progress: checkpoints.save(mine, progress),
        )
    validation = outcome.best(len(training.images.part(VAL)))
    return model, ScratchRun(attempt.draw, rate, len(outcome.epochs) - 1, outcome.best_epoch, validation)


def _answers(networks: list[Grafted], images: Images) -> list[Floats]:
    collected: list[list[Floats]] = [[] for _ in networks]
    for pixels, _, _ in images.batches(TEST):
        for answers, network in zip(collected, networks, strict=True):
            answers.append(predict_probabilities(network, pixels))
    return [np.concatenate(answers) for answers in collected]


def _rows(images: Images, answers: dict[str, list[Floats]]) -> pd.DataFrame:
    part = images.part(TEST)[["id", "path", "split", "label"]]
    return pd.concat(
        [
            part.assign(
                model=name,
                draw=draw,
                predicted=[images.classes[i] for i in probabilities.argmax(axis=1)],
                probabilities=list(probabilities),
            )
            for name, of_draws in answers.items()
            for draw, probabilities in enumerate(of_draws)
        ],
        ignore_index=True,
    )


if __name__ == "__main__":
    stage.main(baselines)
