"""Checkpoints after every epoch: a killed run continues from the last one, to the same weights.

One safetensors file per stage in the project's ignored cache, named after the lineage digest: what other code, values
or inputs have left behind is never found. A stage that ends removes its own, so that a run that is forced computes.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from steps.runtime import files
from steps.runtime.scratch import project_cache
from steps.runtime.stage import Lineage
from steps.training.fine_tuning import Progress

KEY = "progress"


def save(lineage: Lineage, progress: Progress) -> None:
    """Keep `progress` for a run of the same lineage, atomically; older ones of the stage go."""
    path = _path(lineage)
    told = json.dumps({"lineage": lineage.digest, "rows": progress.rows, "best": progress.best})
    with files.replacing(path) as temporary:
        tensors = {name: tensor.contiguous() for name, tensor in progress.tensors.items()}
        save_file(tensors, temporary, metadata={KEY: told})
    for other in path.parent.glob(f"{lineage.stage}-*"):
        if other != path:
            other.unlink(missing_ok=True)


def load(lineage: Lineage) -> Progress | None:
    """Return where a run of this very lineage stood; None where there was none, or its file is damaged."""
    try:
        with safe_open(_path(lineage), framework="pt") as file:
            told = json.loads(file.metadata()[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return Progress(told["rows"], told["best"], tensors) if told["lineage"] == lineage.digest else None


def remove(lineage: Lineage) -> None:
    """Forget where the run stood: it has ended."""
    _path(lineage).unlink(missing_ok=True)


def _path(lineage: Lineage) -> Path:
    return project_cache("checkpoints") / f"{lineage.stage}-{lineage.digest}.safetensors"
