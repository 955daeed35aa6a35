"""The champion is judged anew: its package answers today's test images, from their raw bytes, beside the challenger."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.adapters import files, packages, params
from steps.adapters.packages import Package

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

ACCEPTED, RAW = "data/screened.parquet", "data/raw"
EVALUATION, PREDICTIONS = "data/reports/evaluation.json", "data/predictions.parquet"
TIMED, ROUNDS = 32, 5  # images in a round, and rounds: of these the median


@dataclass(frozen=True)
class Rematch:
    """What `core.paired` returns of challenger and champion, and seconds of the one over seconds of the other."""

    comparison: dict[str, Any]
    recalls: list[dict[str, Any]]
    latency_ratio: float | None


def rematch(
    mlflow: "MlflowClient", root: Path, name: str, kind: str, challenger: str, champion: str, timed: bool
) -> Rematch:
    """Compare two versions on the test images of today; the challenger's answers are those that `evaluate` wrote.

    Time is measured where `timed` asks for it. Raises RegistryError where a package is gone, or is not
    what was signed.
    """
    import numpy as np

    from steps.adapters.images import batched
    from steps.core import paired
    from steps.core.manifest import TEST
    from steps.core.seeding import numpy_generator
    from steps.evaluate import EvaluateParams

    document = params.read(root)
    rules = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    answers = files.read_table(root / PREDICTIONS)
    mine = answers[(answers["model"] == kind) & (answers["split"] == TEST)].sort_values("path")
    images = [root / RAW / path for path in mine["path"]]
    package = packages.load(mlflow, name, champion)  # to be held: its files live as long as it does
    theirs = [label for some in batched(images, 256) for label in package.model.predict(_frame(some))["label"]]
    classes = files.read_json(root / EVALUATION)["classes"]
    targets = np.searchsorted(classes, mine["label"].tolist())
    right = ((mine["predicted"] == mine["label"]).to_numpy(), np.array(theirs) == mine["label"].to_numpy())
    generator = numpy_generator(document["seed"], "promote", champion)
    return Rematch(
        paired.compare(targets, *right, rules.confidence, rules.bootstrap_draws, generator),
        paired.per_class(targets, *right, classes),
        latency_ratio(packages.load(mlflow, name, challenger), package, images[:TIMED]) if timed else None,
    )


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
