"""Evaluate: validation chooses and calibrates, the test split judges, in eager float32; every look is recorded."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from steps.backbones import familiarity, models
from steps.backbones.backbone import Grafted, digest
from steps.backbones.familiarity import Familiarity
from steps.errors import ParamsError
from steps.evaluation import calibration
from steps.evaluation.comparison import compare, transfer
from steps.evaluation.intervals import Sample, groups_of, sampled, share
from steps.evaluation.judgement import BINS, judge
from steps.evaluation.protocol import EvaluateParams
from steps.evaluation.results import (
    CalibrationReport,
    Comparison,
    Evaluation,
    Judgement,
    SliceJudgement,
    SplitGap,
    Transfer,
    Unfamiliar,
)
from steps.evaluation.slices import COLUMNS, judge_slices, unjudged, unknown_limits
from steps.evaluation.split_gap import split_gap
from steps.images.dataset import Images
from steps.images.manifest import TEST, TRAIN, VAL, in_use
from steps.registry import look_ledger
from steps.runtime import artefacts, files, stage
from steps.runtime.arrays import Floats, Ints
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.progress import track
from steps.runtime.seeding import numpy_generator
from steps.training.choice import FINE_TUNED, HEAD, choose
from steps.training.histories import BaselinesHistory, FineTuneHistory, HeadHistory, TrainedFacts
from steps.training.rivals import bounded
from steps.training.same_labels import Cached, Learnt, same_labels, stand_in


def evaluate(
    params: EvaluateParams,
    seed: int,
    compute: ComputeParams,
    raw: Path,
    screened: Path,
    preprocessing: Path,
    backbone: Path,
    head: Path,
    head_history: Path,
    fine_tuned: Path,
    fine_tune_history: Path,
    features: Path,
    baselines: Path,
    baselines_history: Path,
    evaluation: Path,
    predictions: Path,
    measures: Path,
) -> None:
    """Write every test prediction of both models, and the figures with intervals computed from them.

    Temperature and threshold come from validation images, through the head fitted on train alone (the refitted one
    has seen them) and through the fine-tuned network of its best epoch. Transfer is judged by models that learned from
    the labels the baselines had (`same_labels`), by the head if the network was trained from scratch. `measures`
    receives each network's measure of familiarity. Raises
    ParamsError for a slice that the manifest does not have, RegistryError if the ledger of looks was tampered with.
    """
    classes = list(artefacts.read(TrainedFacts, head / models.FACTS).classes)
    fitted, tuned = artefacts.read(HeadHistory, head_history), artefacts.read(FineTuneHistory, fine_tune_history)
    rivals = artefacts.read(BaselinesHistory, baselines_history)
    networks = {HEAD: models.load_head_model(backbone, head), FINE_TUNED: models.load_fine_tuned(backbone, fine_tuned)}
    unrefitted = Grafted(networks[HEAD].backbone, models.load_head(head, refitted=False)).eval()
    table = files.read_table(screened)
    _check_columns(params, table)
    spec = models.read_preprocessing(preprocessing)
    images = Images(raw, in_use(table), classes, spec, compute)
    validation = {HEAD: fitted.validation, FINE_TUNED: tuned.validation}
    configure(compute)

    choice = choose(validation, moved=tuned.best_epoch > 0, trained=tuned.trained)
    transferred = choice.chosen if tuned.pretrained else HEAD  # random weights have nothing to transfer
    cached = Cached(images.table, images.classes, features, head)
    alike = stand_in(transferred, cached, fitted, rivals, seed)
    weights = {name: digest(network.state_dict()) for name, network in networks.items()}
    weights |= {"same_labels": digest(alike)} if alike else {}
    look_ledger.record(weights.values(), images.part(TEST)["id"])
    held, unseen = _outputs({HEAD: unrefitted, FINE_TUNED: networks[FINE_TUNED]}, images, VAL)
    tested, logits = _outputs(networks, images, TEST)
    known, _ = _outputs(networks, replace(images, table=bounded(images.table, familiarity.MOST)), TRAIN)
    familiar = {name: familiarity.fitted(known[name], held[name], params.unfamiliar_rate) for name in networks}
    judged = _judge_all(params, seed, images, unseen, logits, *_shifts(images, tuned))
    learnt = same_labels(alike, logits[FINE_TUNED], cached, rivals)  # answers for equal class shares, like the rivals'
    part = images.part(TEST)

    files.write_json(
        evaluation,
        Evaluation(
            chosen=choice.chosen,
            reason=choice.reason,
            classes=tuple(classes),
            backbone=models.read_card(backbone).name,
            confidence=params.confidence,
            validation=validation,
            weights=weights,
            test=judged.test,
            calibration=judged.calibration,
            slices=judged.slices,
            unjudged=unjudged(part, _columns(params), params.slice_least, params.slice_limits),
            comparisons=(judged.comparison,),
            transfer=_transfer(params, seed, images, learnt, _rivals(files.read_table(baselines), images)),
            split_gap=_split_gap(params, images, judged.unseen[choice.chosen], judged.test[choice.chosen]),
            unfamiliar={name: _unfamiliar(params, images, familiar[name], tested[name]) for name in networks},
        ),
    )
    files.write_tensors(
        measures, {key: row for name in networks for key, row in familiar[name].tensors(f"{name}.").items()}
    )
    files.write_table(predictions, _rows(images, judged.probabilities, judged.predicted))


def _columns(params: EvaluateParams) -> tuple[str, ...]:
    return (*COLUMNS, *params.slice_columns)


def _check_columns(params: EvaluateParams, table: pd.DataFrame) -> None:
    known = _columns(params)
    faults = [
        f"evaluate.slice_columns: the manifest has no column {name!r} (it has: {', '.join(table.columns)})"
        for name in params.slice_columns
        if name not in (*COLUMNS, *table.columns)
    ]
    if not faults:
        faults = [f"evaluate.slice_limits: {reason}" for reason in unknown_limits(table, known, params.slice_limits)]
    if faults:
        raise ParamsError(faults)


def _outputs(
    networks: dict[str, Grafted], images: Images, split: str
) -> tuple[dict[str, torch.Tensor], dict[str, Floats]]:
    """Return features [n, width] and logits [n, classes] of each model on a split; each image is decoded once."""
    collected: dict[str, list[tuple[torch.Tensor, Floats]]] = {name: [] for name in networks}
    total = len(images.part(split))
    for pixels, _, _ in track(images.batches(split), total, f"evaluating, {split}", images.compute.batch_size):
        for name, network in networks.items():
            collected[name].append(familiarity.outputs(network, pixels))
    features = {name: torch.cat([row for row, _ in parts]) for name, parts in collected.items()}
    return features, {name: np.concatenate([row for _, row in parts]) for name, parts in collected.items()}


def _unfamiliar(params: EvaluateParams, images: Images, measure: Familiarity, tested: torch.Tensor) -> Unfamiliar:
    part = images.part(TEST)
    cluster = sampled(images.targets(part).numpy(), groups_of(part)).cluster
    flagged = share(measure.unfamiliar(tested), cluster, params.confidence)
    return Unfamiliar(known=len(measure.known), threshold=measure.threshold, test=flagged)


def _shifts(images: Images, tuned: FineTuneHistory) -> tuple[Floats, dict[str, Floats]]:
    """Return the logarithms of the class shares of training and validation, and what restores them in each model.

    Every head is fitted for equal shares, the network too unless it was trained on with `fine_tune.balance: none`.
    """
    seen = images.part(TRAIN, VAL)
    shift = calibration.prior_shift(
        images.targets(seen).numpy(), seen["weight"].to_numpy(np.float64), len(images.classes)
    )
    as_seen = tuned.balance.by == "none" and tuned.best_epoch > 0
    return shift, {HEAD: shift, FINE_TUNED: np.zeros(len(shift)) if as_seen else shift}


@dataclass(frozen=True)
class _Judged:
    """The results of both models on the test split, by name.

    `probabilities` [n, classes] are calibrated, `predicted` [n] are the answers.
    """

    test: dict[str, Judgement]
    calibration: dict[str, CalibrationReport]
    slices: dict[str, tuple[SliceJudgement, ...]]
    comparison: Comparison
    probabilities: dict[str, Floats]
    predicted: dict[str, Ints]
    unseen: dict[str, Ints]  # answers to the validation images


def _judge_all(
    params: EvaluateParams,
    seed: int,
    images: Images,
    unseen: dict[str, Floats],
    logits: dict[str, Floats],
    prior: Floats,
    shifts: dict[str, Floats],
) -> _Judged:
    """Calibrate each model on its logits of unseen validation images, and judge it by those of the test images."""
    part, targets = images.part(TEST), images.targets(images.part(TEST)).numpy()
    validated = images.targets(images.part(VAL)).numpy()
    groups = groups_of(part)
    sample = sampled(targets, groups)
    reports: dict[str, CalibrationReport] = {}
    test: dict[str, Judgement] = {}
    slices: dict[str, tuple[SliceJudgement, ...]] = {}
    probabilities: dict[str, Floats] = {}
    predicted: dict[str, Ints] = {}
    answered_val: dict[str, Ints] = {}
    for name, of_test in logits.items():
        generator = numpy_generator(seed, "evaluate", name)
        scale = calibration.fit_scale(
            unseen[name], validated, shifts[name], prior, params.temperature_spread, params.answers == "balanced"
        )
        reports[name] = _calibrated(params, scale, unseen[name], validated, of_test, targets, sample, generator)
        probabilities[name], predicted[name] = scale.probabilities(of_test), scale.answered(of_test)
        answered_val[name] = scale.answered(unseen[name])
        test[name] = judge(
            targets,
            probabilities[name],
            images.classes,
            params.confidence,
            params.bootstrap_draws,
            generator,
            groups,
            predicted[name],
        )
        slices[name] = judge_slices(
            part,
            predicted[name] == targets,
            sample.cluster,
            _columns(params),
            params.slice_least,
            params.slice_limits,
            params.confidence,
        )
    generator = numpy_generator(seed, "evaluate", "comparison")
    tuned, head = probabilities[FINE_TUNED], probabilities[HEAD]
    answered = predicted[FINE_TUNED], predicted[HEAD]
    comparison = compare((FINE_TUNED, HEAD), targets, tuned, head, sample, params, generator, answered)
    return _Judged(test, reports, slices, comparison, probabilities, predicted, answered_val)


def _split_gap(params: EvaluateParams, images: Images, answered: Ints, judged: Judgement) -> SplitGap:
    part = images.part(VAL)
    targets = images.targets(part).numpy()
    cluster = sampled(targets, groups_of(part)).cluster
    return split_gap(share(answered == targets, cluster, params.confidence), judged.accuracy)


def _rivals(answers: pd.DataFrame, images: Images) -> dict[str, list[npt.NDArray[np.int64]]]:
    """Return each baseline's answers on the test images, as class indices, one array per draw."""
    part = images.part(TEST)
    rivals: dict[str, list[npt.NDArray[np.int64]]] = {}
    for (name, _), rows in answers[answers["split"] == TEST].groupby(["model", "draw"], sort=True):
        of_path = dict(zip(rows["path"], rows["predicted"], strict=True))
        predicted = np.searchsorted(images.classes, [of_path[path] for path in part["path"]])
        rivals.setdefault(str(name), []).append(predicted.astype(np.int64))
    return rivals


def _transfer(
    params: EvaluateParams, seed: int, images: Images, learnt: Learnt, rivals: dict[str, list[npt.NDArray[np.int64]]]
) -> Transfer:
    part = images.part(TEST)
    targets = images.targets(part).numpy()
    sample, generator = sampled(targets, groups_of(part)), numpy_generator(seed, "evaluate", "transfer")
    verdict = transfer(targets, learnt.answers, rivals, sample, params, generator)
    return Transfer(
        verdict=verdict.verdict,
        sentence=f"{verdict.sentence}, {learnt.words}" if verdict.verdict else verdict.sentence,
        against=verdict.against,
        baselines=verdict.baselines,
        model=learnt.model,
        accuracy=float((learnt.answers.argmax(axis=1) == targets).mean()),
        labels=learnt.labels,
        labels_of=learnt.labels_of,
    )


def _calibrated(
    params: EvaluateParams,
    scale: calibration.Scale,
    unseen: Floats,
    validated: npt.NDArray[np.int64],
    logits: Floats,
    targets: npt.NDArray[np.int64],
    sample: Sample,
    generator: np.random.Generator,
) -> CalibrationReport:
    threshold = calibration.abstention(
        scale.probabilities(unseen), validated, params.target_accuracy, params.confidence, scale.answered(unseen)
    )
    return calibration.verified(
        logits, targets, scale, threshold, BINS, sample, params.confidence, params.bootstrap_draws, generator
    )


def _rows(images: Images, by_model: dict[str, Floats], predicted: dict[str, Ints]) -> pd.DataFrame:
    part = images.part(TEST)[["id", "path", "split", "label"]]
    tables = [
        part.assign(
            model=name, predicted=[images.classes[i] for i in predicted[name]], probabilities=list(probabilities)
        )
        for name, probabilities in by_model.items()
    ]
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    stage.main(evaluate)
