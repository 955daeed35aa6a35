"""The registered model: raw image bytes in, label and probabilities out, with the very preprocessing of training.

This file and all it imports from `steps` travel with each version under a module name of their own (`package.py`),
so a champion of last year goes on running last year's code.
"""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import torch
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from steps.adapters import files, images, models
from steps.core.inference import predict_probabilities
from steps.core.preprocessing import preprocess

IMAGE = "image"
BATCH = 32
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, IMAGE)]),
    outputs=Schema([
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Array(DataType.double), "probabilities"),  # in the order of the classes in model.json
    ]),
)  # fmt: skip


class ImageClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A grafted network behind MLflow's pyfunc interface."""

    def load_context(self, context: Any) -> None:
        """Rebuild the network of safetensors and JSON; nothing is unpickled."""
        folder = Path(context.artifacts["model"])
        facts = files.read_json(folder / models.FACTS)
        self.classes = facts["classes"]
        self.spec = models.read_preprocessing_dict(facts["preprocessing"])
        state = files.read_tensors(folder / models.WEIGHTS)
        self.model = models.rebuild(facts["architecture"], facts["num_classes"], self.spec.crop, state, facts["cut"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """Map a frame with a binary column `image` to label, its probability, and all probabilities, row by row.

        Raises UndecodableError (a DataError) where a row is no image.
        """
        encoded = model_input[IMAGE].tolist()
        rows: list[list[float]] = []
        for batch in images.batched(encoded, BATCH):
            pixels = torch.stack([preprocess(images.decode(data), self.spec) for data in batch])
            rows += predict_probabilities(self.model, pixels).tolist()
        best = [max(range(len(row)), key=row.__getitem__) for row in rows]
        return pd.DataFrame({
            "label": [self.classes[i] for i in best],
            "probability": [row[i] for row, i in zip(rows, best, strict=True)],
            "probabilities": rows,
        })  # fmt: skip
