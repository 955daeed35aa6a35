"""The registered model: pictures in, label and probabilities out, with the very preprocessing of training.

This file and all it imports from `steps` travel with each version under a module name of their own (`packaging.py`),
so a champion of last year goes on running last year's code.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from steps.backbones import models
from steps.backbones.inference import predict_probabilities
from steps.errors import UndecodableError
from steps.images import decoding, inputs
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
            ColSpec(DataType.string, "version"),
        ]
    ),
)


class ImageClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A grafted network behind MLflow's pyfunc interface; `version` names it in every answer."""

    def __init__(self, version: str) -> None:
        self.version = version

    def load_context(self, context: Any) -> None:
        """Rebuild the network of safetensors and JSON; nothing is unpickled."""
        folder = Path(context.artifacts["model"])
        facts = models.read_facts(folder)
        self.classes, self.spec = list(facts.classes), facts.preprocessing
        self.temperature, self.abstain_below = facts.temperature, facts.abstain_below
        state = files.read_tensors(folder / models.WEIGHTS)
        self.model = models.rebuild(facts.architecture, facts.num_classes, self.spec.crop, state, facts.cut)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """Map a frame with a column `image` to one answer per row: label, its probability, all of them (calibrated).

        A row holds what `inputs.picture` takes. `abstain` is True where the probability is below the limit that
        evaluation set. Raises MlflowException, a 400 to a client, naming every row that is no image; its type, unlike
        one of this package, is the same for all versions that a process loads.
        """
        rows: list[list[float]] = []
        faults: list[str] = []
        for batch in decoding.batched(enumerate(model_input[IMAGE].tolist()), BATCH):
            pixels = self._pixels(batch, faults)
            if not faults:
                rows += predict_probabilities(self.model, torch.stack(pixels), self.temperature).tolist()
        if faults:
            told = "\n  ".join([f"{len(faults)} of {len(model_input)} rows hold no image (counted from 0):", *faults])
            raise MlflowException(told, error_code=INVALID_PARAMETER_VALUE)
        return self._answers(rows)

    def _pixels(self, batch: Sequence[tuple[int, object]], faults: list[str]) -> list[torch.Tensor]:
        paths, pixels = os.environ.get(SERVING) != "true", []
        for row, value in batch:
            try:
                pixels.append(preprocess(inputs.picture(value, paths), self.spec))
            except UndecodableError as error:
                faults.append(f"row {row}: {error.reason}")
        return pixels

    def _answers(self, rows: list[list[float]]) -> pd.DataFrame:
        best = [max(range(len(row)), key=row.__getitem__) for row in rows]
        probability = [row[i] for row, i in zip(rows, best, strict=True)]
        return pd.DataFrame(
            {
                "label": [self.classes[i] for i in best],
                "probability": probability,
                "probabilities": rows,
                "abstain": [value < self.abstain_below for value in probability],
                "version": self.version,
            }
        )
