"""The registered model: maps pictures to label and probabilities, with exactly the preprocessing of training.

This file and everything it imports from `steps` is packaged with each version under its own module name
(`packaging.py`), so last year's champion keeps running last year's code.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from steps.backbones import familiarity, models
from steps.backbones.inference import probabilities_of
from steps.errors import UndecodableError
from steps.images import decoding, request_images
from steps.images.preprocessing import preprocess
from steps.runtime import files

IMAGE = "image"
BATCH = 32
SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # MLflow's scoring server sets it
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, IMAGE)]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Array(DataType.double), "probabilities"),  # in the order of the classes in model.json
            ColSpec(DataType.boolean, "abstain"),
            ColSpec(DataType.boolean, "unfamiliar", required=False),
            ColSpec(DataType.string, "version"),
        ]
    ),
)


class ImageClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A grafted network behind MLflow's pyfunc interface; `version` names it in every answer."""

    def __init__(self, version: str) -> None:
        self.version = version

    def load_context(self, context: Any) -> None:
        """Rebuild the network from safetensors and JSON; nothing is unpickled."""
        folder = Path(context.artifacts["model"])
        facts = models.read_facts(folder)
        self.classes, self.spec = list(facts.classes), facts.preprocessing
        self.temperature, self.abstain_below = facts.temperature, facts.abstain_below
        self.shift, self.weights = facts.prior_shift, facts.weights
        state = files.read_tensors(folder / models.WEIGHTS)
        self.model = models.rebuild(facts.architecture, facts.num_classes, self.spec.crop, state, facts.cut)
        kept = folder / familiarity.FILE
        self.familiarity = familiarity.from_tensors(files.read_tensors(kept)) if kept.exists() else None

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """Map a frame with a column `image` to one answer per row: label, its probability, all of them (calibrated).

        A row holds what `inputs.picture` accepts. `abstain` is True if the probability is below the limit set by
        evaluation, `unfamiliar` if the picture is farther from the training images than evaluation's limit. Raises
        MlflowException (HTTP 400) that names every row without an image; unlike a type of this package, it is the same
        for all versions that a process loads.
        """
        probabilities: list[list[float]] = []
        unfamiliar: list[bool] = []
        faults: list[str] = []
        for batch in decoding.batched(enumerate(model_input[IMAGE].tolist()), BATCH):
            pixels = self._pixels(batch, faults)
            if not faults:
                features, logits = familiarity.outputs(self.model, torch.stack(pixels))
                probabilities += probabilities_of(logits, self.temperature, self.shift).tolist()
                unfamiliar += self.familiarity.unfamiliar(features).tolist() if self.familiarity else []
        if faults:
            text = "\n  ".join([f"{len(faults)} of {len(model_input)} rows hold no image (counted from 0):", *faults])
            raise MlflowException(text, error_code=INVALID_PARAMETER_VALUE)
        return self._answers(probabilities, unfamiliar)

    def _pixels(self, batch: Sequence[tuple[int, object]], faults: list[str]) -> list[torch.Tensor]:
        paths, pixels = os.environ.get(SERVING) != "true", []
        for row, value in batch:
            try:
                pixels.append(preprocess(request_images.picture(value, paths, self.spec.grey_bits), self.spec))
            except UndecodableError as error:
                faults.append(f"row {row}: {error.reason}")
        return pixels

    def _answers(self, probabilities: list[list[float]], unfamiliar: list[bool]) -> pd.DataFrame:
        best = [int(row.argmax()) for row in np.array(probabilities).reshape(-1, len(self.classes)) * self.weights]
        probability = [row[i] for row, i in zip(probabilities, best, strict=True)]
        return pd.DataFrame(
            {
                "label": [self.classes[i] for i in best],
                "probability": probability,
                "probabilities": probabilities,
                "abstain": [value < self.abstain_below for value in probability],
                **({"unfamiliar": unfamiliar} if self.familiarity else {}),
                "version": self.version,
            }
        )
