"""Evaluate: validation chooses between head and fine-tuned; the test split judges both, in eager float32."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steps.adapters import files, models, stage
from steps.adapters.compute import ComputeParams, configure
from steps.adapters.loaders import Images
from steps.adapters.progress import track
from steps.core.backbone import Grafted
from steps.core.decision import FINE_TUNED, HEAD, choose
from steps.core.inference import predict_probabilities
from steps.core.manifest import TEST, UNLABELLED
from steps.core.metrics import judge
from steps.core.seeding import numpy_generator


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """How sure an interval is meant to be, and how many bootstrap draws back it."""

    confidence: float
    bootstrap_draws: int

    def faults(self) -> Iterator[str]:
        """Yield values that make no interval."""
        if not 0.5 <= self.confidence <= 0.999:
            yield f"confidence is {self.confidence}; 0.5 to 0.999"
        if not 100 <= self.bootstrap_draws <= 1_000_000:
            yield f"bootstrap_draws is {self.bootstrap_draws}; 100 to 1000000"


def evaluate(
    params: EvaluateParams,
    seed: int,
    compute: ComputeParams,
    raw: Path,
    accepted: Path,
    preprocessing: Path,
    backbone: Path,
    head: Path,
    head_history: Path,
    fine_tuned: Path,
    fine_tune_history: Path,
    evaluation: Path,
    predictions: Path,
) -> None:
    """Write every test prediction of both models, and the figures with intervals that follow from them.

    Validation figures come from training, where the heads had not seen that split; the refitted head has.
    """
    classes = files.read_json(head / models.FACTS)["classes"]
    networks = {
        HEAD: models.load_head_model(backbone, head),
        FINE_TUNED: models.load_fine_tuned(backbone, fine_tuned),
    }
    table = files.read_table(accepted)
    spec = models.read_preprocessing(preprocessing)
    images = Images(raw, table[table["split"] != UNLABELLED], classes, spec, compute)
    validation = {
        HEAD: files.read_json(head_history)["validation"],
        FINE_TUNED: files.read_json(fine_tune_history)["validation"],
    }
    configure(compute)

    found = _predict(networks, images)
    choice = choose(validation, moved=files.read_json(fine_tune_history)["best_epoch"] > 0)
    targets = images.targets(images.part(TEST)).numpy()
    test = {
        name: judge(
            targets, probabilities, classes, params.confidence, params.bootstrap_draws,
            numpy_generator(seed, "evaluate", name),
        )
        for name, probabilities in found.items()
    }  # fmt: skip

    files.write_json(evaluation, {
        "chosen": choice.chosen, "reason": choice.reason, "classes": classes,
        "backbone": models.read_card(backbone).name, "confidence": params.confidence,
        "validation": validation, "test": test,
    })  # fmt: skip
    files.write_table(predictions, _rows(images, found))


def _predict(networks: dict[str, Grafted], images: Images) -> dict[str, "np.ndarray[Any, np.dtype[np.float64]]"]:
    """Return probabilities [n, classes] of each model on the test split; each image is decoded once."""
    collected: dict[str, list[Any]] = {name: [] for name in networks}
    total = len(images.part(TEST))
    for pixels, _, _ in track(images.batches(TEST), total, "evaluating", images.compute.batch_size):
        for name, network in networks.items():
            collected[name].append(predict_probabilities(network, pixels))
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def _rows(images: Images, found: dict[str, "np.ndarray[Any, np.dtype[np.float64]]"]) -> pd.DataFrame:
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
