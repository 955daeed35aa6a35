"""The champion is judged anew: its package answers today's test images, from their raw bytes, beside the challenger."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.adapters import files, packages, params
from steps.adapters.packages import Package
from steps.paired import Paired, paired

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

ACCEPTED, RAW = "data/screened.parquet", "data/raw"
EVALUATION, PREDICTIONS = "data/reports/evaluation.json", "data/predictions.parquet"
TIMED, ROUNDS = 32, 5  # images in a round, and rounds: of these the median


@dataclass(frozen=True)
class Rematch:
    """Challenger (a) against champion (b), and the time of a over that of b."""

    paired: Paired
    latency_ratio: float | None


def rematch(
    mlflow: "MlflowClient", root: Path, name: str, kind: str, challenger: str, champion: str, timed: bool
) -> Rematch:
    """Compare two versions on the test images of today; the challenger's answers are those that `evaluate` wrote.

    Time is measured where `timed` asks for it. Raises RegistryError where a package is gone, or is not
    what was signed.
    """
    import numpy as np

    from steps.adapters import looks
    from steps.adapters.images import batched
    from steps.core.manifest import TEST

    answers = files.read_table(root / PREDICTIONS)
    part = files.read_table(root / ACCEPTED)
    mine = answers[(answers["model"] == kind) & (answers["split"] == TEST)].sort_values("path")
    part = part.set_index("path", drop=False).loc[mine["path"]]
    images = [root / RAW / path for path in mine["path"]]
    package = packages.load(mlflow, name, champion)  # to be held: its files live as long as it does
    looks.record([weights_of(package)], mine["id"])
    theirs = [label for some in batched(images, 256) for label in package.model.predict(_frame(some))["label"]]
    right = ((mine["predicted"] == mine["label"]).to_numpy(), np.array(theirs) == mine["label"].to_numpy())
    return Rematch(
        paired(params.read(root), part, *right, ("promote", champion)),
        latency_ratio(packages.load(mlflow, name, challenger), package, images[:TIMED]) if timed else None,
    )


def weights_of(package: Package) -> str:
    """Return the digest of a package's weights: who it is in the ledger of looks."""
    from steps.core.backbone import digest

    return digest(package.model.unwrap_python_model().model.state_dict())


def latency_ratio(challenger: Package, champion: Package, images: list[Path]) -> float:
    """Return the challenger's time for these images over the champion's: median of rounds in which both take turns."""
    import numpy as np

    frame = _frame(images)
    rounds = [[_seconds(package.model, frame) for package in (challenger, champion)] for _ in range(ROUNDS + 1)]
    ours, theirs = np.median(rounds[1:], axis=0)  # the first round warms up
    return float(ours / theirs)


def _seconds(model: Any, frame: "pd.DataFrame") -> float:
    start = time.perf_counter()
    model.predict(frame)
    return time.perf_counter() - start


def _frame(images: list[Path]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({"image": [path.read_bytes() for path in images]})
