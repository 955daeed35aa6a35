"""Evaluate: validation chooses and calibrates, the test split judges, in eager float32; every look is recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from steps.backbones import models
from steps.backbones.backbone import Grafted, digest
from steps.backbones.inference import predict_logits
from steps.errors import ParamsError
from steps.evaluation import calibration
from steps.evaluation.comparison import compare, transfer
from steps.evaluation.intervals import Sample, groups_of, sampled
from steps.evaluation.judgement import BINS, judge
from steps.evaluation.protocol import EvaluateParams
from steps.evaluation.slices import COLUMNS, judge_slices, unjudged, unknown_limits
from steps.images.dataset import Images
from steps.images.manifest import TEST, UNLABELLED, VAL
from steps.registry import look_ledger
from steps.runtime import artefacts, files, stage
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.progress import track
from steps.runtime.seeding import numpy_generator
from steps.training.choice import FINE_TUNED, HEAD, choose
from steps.training.histories import BaselinesHistory, FineTuneHistory, HeadHistory, TrainedFacts
from steps.training.same_labels import Cached, Learnt, same_labels, stand_in

Floats = npt.NDArray[np.float64]


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
) -> None:
    """Write every test prediction of both models, and the figures with intervals that follow from them.

    Temperature and threshold come from validation images, through the head fitted on train alone (the refitted one
    has seen them) and through the fine-tuned network of its best epoch. Transfer is judged by models that learned from
    the labels the baselines had (`same_labels`), by the head where the network was trained from scratch. Raises
    ParamsError for a slice that the manifest does not know, RegistryError where the ledger of looks was tampered with.
    """
    classes = list(artefacts.read(TrainedFacts, head / models.FACTS).classes)
    fitted, tuned = artefacts.read(HeadHistory, head_history), artefacts.read(FineTuneHistory, fine_tune_history)
    rivals = artefacts.read(BaselinesHistory, baselines_history)
    networks = {HEAD: models.load_head_model(backbone, head), FINE_TUNED: models.load_fine_tuned(backbone, fine_tuned)}
    unrefitted = Grafted(networks[HEAD].backbone, models.load_head(head, refitted=False)).eval()
    table = files.read_table(screened)
    _check_columns(params, table)
    spec = models.read_preprocessing(preprocessing)
    images = Images(raw, table[table["split"] != UNLABELLED], classes, spec, compute)
    validation = {HEAD: fitted.validation, FINE_TUNED: tuned.validation}
    configure(compute)

    choice = choose(validation, moved=tuned.best_epoch > 0)
    transferred = choice.chosen if tuned.pretrained else HEAD  # random weights have nothing to transfer
    cached = Cached(images.table, images.classes, features, head)
    alike = stand_in(transferred, cached, fitted, rivals, seed)
    weights = {name: digest(network.state_dict()) for name, network in networks.items()}
    weights |= {"same_labels": digest(alike)} if alike else {}
    look_ledger.record(weights.values(), images.part(TEST)["id"])
    unseen = _logits({HEAD: unrefitted, FINE_TUNED: networks[FINE_TUNED]}, images, VAL)
    found = _logits(networks, images, TEST)
    judged, probabilities = judge_all(params, seed, images, unseen, found)
    learnt = same_labels(alike, probabilities[FINE_TUNED], cached, rivals)
    judged["transfer"] = _transfer(params, seed, images, learnt, _rivals(files.read_table(baselines), images))

    files.write_json(
        evaluation,
        {
            "chosen": choice.chosen,
            "reason": choice.reason,
            "classes": classes,
            "backbone": models.read_card(backbone).name,
            "confidence": params.confidence,
            "validation": validation,
            "weights": weights,
            **judged,
        },
    )
    files.write_table(predictions, _rows(images, probabilities))


def _check_columns(params: EvaluateParams, table: pd.DataFrame) -> None:
    known = [*COLUMNS, *params.slice_columns]
    faults = [
        f"evaluate.slice_columns: the manifest has no column {name!r} (it has: {', '.join(table.columns)})"
        for name in params.slice_columns
        if name not in (*COLUMNS, *table.columns)
    ]
    if not faults:
        faults = [f"evaluate.slice_limits: {told}" for told in unknown_limits(table, known, params.slice_limits)]
    if faults:
        raise ParamsError(faults)


def _logits(networks: dict[str, Grafted], images: Images, split: str) -> dict[str, Floats]:
    """Return logits [n, classes] of each model on a split; each image is decoded once."""
    collected: dict[str, list[Any]] = {name: [] for name in networks}
    total = len(images.part(split))
    for pixels, _, _ in track(images.batches(split), total, f"evaluating, {split}", images.compute.batch_size):
        for name, network in networks.items():
            collected[name].append(predict_logits(network, pixels))
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def judge_all(
    params: EvaluateParams, seed: int, images: Images, unseen: dict[str, Floats], found: dict[str, Floats]
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Calibrate each model on its logits of unseen validation images, and judge it by those of the test images."""
    part, targets = images.part(TEST), images.targets(images.part(TEST)).numpy()
    validated = images.targets(images.part(VAL)).numpy()
    groups = groups_of(part)
    sample = sampled(targets, groups)
    columns = (*COLUMNS, *params.slice_columns)
    told: dict[str, Any] = {"test": {}, "calibration": {}, "slices": {}}
    told["unjudged"] = unjudged(part, columns, params.slice_least, params.slice_limits)
    probabilities = {}
    for name, logits in found.items():
        generator = numpy_generator(seed, "evaluate", name)
        told["calibration"][name] = _calibrated(params, unseen[name], validated, logits, targets, sample, generator)
        answers = calibration.tempered(logits, told["calibration"][name]["temperature"])
        told["test"][name] = judge(
            targets, answers, images.classes, params.confidence, params.bootstrap_draws, generator, groups
        )
        told["slices"][name] = judge_slices(
            part,
            answers.argmax(axis=1) == targets,
            sample.cluster,
            columns,
            params.slice_least,
            params.slice_limits,
            params.confidence,
        )
        probabilities[name] = answers
    generator = numpy_generator(seed, "evaluate", "comparison")
    tuned, head = probabilities[FINE_TUNED], probabilities[HEAD]
    told["comparisons"] = [compare((FINE_TUNED, HEAD), targets, tuned, head, sample, params, generator)]
    return told, probabilities


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
) -> dict[str, Any]:
    part = images.part(TEST)
    targets = images.targets(part).numpy()
    sample, generator = sampled(targets, groups_of(part)), numpy_generator(seed, "evaluate", "transfer")
    told = transfer(targets, learnt.answers, rivals, sample, params, generator)
    said = f"{told['sentence']}, {learnt.words}" if told["verdict"] else told["sentence"]
    facts = {
        "model": learnt.model,
        "accuracy": float((learnt.answers.argmax(axis=1) == targets).mean()),
        "labels": learnt.labels,
        "labels_of": learnt.labels_of,
    }
    return {**told, "sentence": said, **facts}


def _calibrated(
    params: EvaluateParams,
    unseen: Floats,
    validated: npt.NDArray[np.int64],
    logits: Floats,
    targets: npt.NDArray[np.int64],
    sample: Sample,
    generator: np.random.Generator,
) -> dict[str, Any]:
    temperature = calibration.fit_temperature(unseen, validated, params.temperature_spread)
    threshold = calibration.abstention(calibration.tempered(unseen, temperature), validated, params.target_accuracy)
    return calibration.verified(
        logits, targets, temperature, threshold, BINS, sample, params.confidence, params.bootstrap_draws, generator
    )


def _rows(images: Images, found: dict[str, Floats]) -> pd.DataFrame:
    part = images.part(TEST)[["id", "path", "split", "label"]]
    tables = [
        part.assign(
            model=name,
            predicted=[images.classes[i] for i in probabilities.argmax(axis=1)],
            probabilities=list(probabilities),
        )
        for name, probabilities in found.items()
    ]
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    stage.main(evaluate)
