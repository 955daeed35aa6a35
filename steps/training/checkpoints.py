"""Checkpoints after every epoch: a killed run continues from the last one, to the same weights.

One safetensors file per stage in the project's ignored cache, named after the lineage digest: checkpoints of other
code, values or inputs are never found. A stage removes its own when it ends, so that a forced run computes.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from steps.runtime import files
from steps.runtime.scratch import project_cache
from steps.runtime.stage import Lineage
from steps.training.fine_tuning import Progress
from steps.training.histories import Epoch

KEY = "progress"


def save(lineage: Lineage, progress: Progress) -> None:
    """Save `progress` for a run of the same lineage, atomically; older ones of the stage are removed."""
    path = _path(lineage)
    epochs = [vars(epoch) for epoch in progress.epochs]
    facts = json.dumps({"lineage": lineage.digest, "epochs": epochs, "best": progress.best})
    with files.replacing(path) as temporary:
        tensors = {name: tensor.contiguous() for name, tensor in progress.tensors.items()}
        save_file(tensors, temporary, metadata={KEY: facts})
    for checkpoint in path.parent.glob(f"{lineage.stage}-*"):
        if checkpoint != path:
            checkpoint.unlink(missing_ok=True)


def load(lineage: Lineage) -> Progress | None:
    """Return the progress of a run of this very lineage; None if there is none, or its file is damaged."""
    try:
        with safe_open(_path(lineage), framework="pt") as file:
            facts = json.loads(file.metadata()[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if facts["lineage"] != lineage.digest:
            return None
        return Progress(tuple(Epoch(**epoch) for epoch in facts["epochs"]), facts["best"], tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def remove(lineage: Lineage) -> None:
    """Remove the checkpoint of a run that has ended."""
    _path(lineage).unlink(missing_ok=True)


def _path(lineage: Lineage) -> Path:
    return project_cache("checkpoints") / f"{lineage.stage}-{lineage.digest}.safetensors"
