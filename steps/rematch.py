"""The champion is judged anew: its package answers today's test images, from their raw bytes, beside the challenger."""

import time
from collections.abc import Sequence
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
    """Challenger (a) and champion (b), as `core.gate.Facts` has them, and the time of a over that of b."""

    comparison: dict[str, Any]
    recalls: list[dict[str, Any]]
    latency_ratio: float | None


def rematch(
    mlflow: "MlflowClient", root: Path, name: str, kind: str, challenger: str, champion: str, timed: bool
) -> Rematch:
    """Compare two versions on the test images of today; the challenger's answers are those that `evaluate` wrote.

    Time is measured where `timed` asks for it. Raises RegistryError where a package is gone, or is not
    what was signed, IntegrityError where a test image is not what ingest saw.
    """
    import numpy as np

    from steps.adapters import looks
    from steps.adapters.images import batched
    from steps.core.comparison import compare_answers, per_class
    from steps.core.intervals import sampled
    from steps.core.manifest import TEST
    from steps.core.seeding import numpy_generator
    from steps.evaluate import EvaluateParams, groups_of

    document = params.read(root)
    rules = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    answers = files.read_table(root / PREDICTIONS)
    part = files.read_table(root / ACCEPTED)
    mine = answers[(answers["model"] == kind) & (answers["split"] == TEST)].sort_values("path")
    part = part.set_index("path", drop=False).loc[mine["path"]]
    rows = list(zip(mine["path"], mine["id"], strict=True))
    package = packages.load(mlflow, name, champion)  # to be held: its files live as long as it does
    looks.record([weights_of(package)], mine["id"])
    frames = (frame_of(root / RAW, some) for some in batched(rows, 256))
    theirs = [label for frame in frames for label in package.model.predict(frame)["label"]]
    classes = files.read_json(root / EVALUATION)["classes"]
    targets = np.searchsorted(classes, mine["label"].tolist())
    right = ((mine["predicted"] == mine["label"]).to_numpy(), np.array(theirs) == mine["label"].to_numpy())
    generator = numpy_generator(document["seed"], "promote", champion)
    found = compare_answers(targets, *right, sampled(targets, groups_of(part)), rules.verdicts, generator)
    figure = found["balanced_accuracy"]
    ratio = None
    if timed:
        ratio = latency_ratio(packages.load(mlflow, name, challenger), package, frame_of(root / RAW, rows[:TIMED]))
    return Rematch(
        {
            **{key: found[key] for key in ("n", "only_a", "only_b", "mcnemar_p", "confidence")},
            "difference": figure["value"], "low": figure["low"], "high": figure["high"],
        },
        per_class(targets, *right, classes),
        ratio,
    )  # fmt: skip


def weights_of(package: Package) -> str:
    """Return the digest of a package's weights: who it is in the ledger of looks."""
    from steps.core.backbone import digest

    return digest(package.model.unwrap_python_model().model.state_dict())


def latency_ratio(challenger: Package, champion: Package, frame: "pd.DataFrame") -> float:
    """Return the challenger's time for these images over the champion's: median of rounds in which both take turns."""
    import numpy as np

    rounds = [[_seconds(package.model, frame) for package in (challenger, champion)] for _ in range(ROUNDS + 1)]
    ours, theirs = np.median(rounds[1:], axis=0)  # the first round warms up
    return float(ours / theirs)


def _seconds(model: Any, frame: "pd.DataFrame") -> float:
    start = time.perf_counter()
    model.predict(frame)
    return time.perf_counter() - start


def frame_of(raw: Path, rows: Sequence[tuple[str, str]]) -> "pd.DataFrame":
    """Return the bytes of images (path, SHA-256) as a package takes them; IntegrityError where they have changed."""
    import pandas as pd

    from steps.adapters.images import read_original

    return pd.DataFrame({"image": [read_original(raw, *row) for row in rows]})
