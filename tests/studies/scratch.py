"""How far does the rival from scratch get? `python -m tests.studies.scratch` trains it on digits, as the stage does.

Whatever momentum the architecture's BatchNorm has, and however few labels there are: the verdict on transfer is worth
no more than its rival.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
import yaml
from rich.console import Console
from rich.table import Table

from steps.backbones import models
from steps.baselines import SCRATCH, BaselinesParams, baselines
from steps.commands import origins
from steps.embedded.digits import write_digits
from steps.images.manifest import TEST, TRAIN, VAL
from steps.images.preprocessing import Preprocessing
from steps.runtime import artefacts, files
from steps.runtime.compute import ComputeParams
from steps.runtime.params import bind
from steps.runtime.stage import Lineage
from steps.training.histories import BaselinesHistory, FromScratch
from tests.made import spec

HOME = Path(__file__).parents[2]
PER_CLASS, VALIDATION = 15, 5  # labels of each class


def rival(
    root: Path, architecture: str, side: int, per_class: int = PER_CLASS, **changes: Any
) -> tuple[float, FromScratch]:
    """Train the architecture on digits of `side` pixels; return its test accuracy (mean of draws) and its trainings."""
    _world(root, architecture, spec(side, side), per_class)
    section = yaml.safe_load((HOME / "params.yaml").read_text(encoding="utf-8"))["baselines"]
    out = root / "out"
    baselines(
        bind(BaselinesParams, {**section, **changes}, "baselines"),
        seed=0,
        compute=ComputeParams(threads=1, batch_size=32),
        lineage=Lineage(stage="baselines", digest="ab" * 32, code="", params={}, inputs={}),
        raw=root / "raw",
        screened=root / "screened.parquet",
        preprocessing=root / "preprocessing.json",
        card=root / "backbone" / models.CARD,
        predictions=out / "baselines.parquet",
        history=out / "baselines.json",
    )
    rows = pd.read_parquet(out / "baselines.parquet")
    answers = rows[rows["model"] == SCRATCH]
    history = artefacts.read(BaselinesHistory, out / "baselines.json").scratch
    assert history is not None
    return float((answers["predicted"] == answers["label"]).mean()), history


def _world(root: Path, architecture: str, preprocessing: Preprocessing, per_class: int) -> None:
    """Write the images, the screened table, the preprocessing and the card that the stage reads."""
    write_digits(root / "raw", seed=0)
    rows = []
    for path in sorted((root / "raw" / "train").rglob("*.png")) + sorted((root / "raw" / "test").rglob("*.png")):
        name = path.relative_to(root / "raw")
        rows.append({"id": files.sha256_of(path), "path": name.as_posix(), "label": name.parts[1], "weight": 1.0})
    table = pd.DataFrame(rows)
    number = table.groupby("label").cumcount()
    is_test = table["path"].str.startswith("test")
    table["split"] = TRAIN
    table.loc[number < VALIDATION, "split"] = VAL
    table.loc[is_test, "split"] = TEST
    files.write_table(root / "screened.parquet", table[is_test | (number < VALIDATION + per_class)])
    embedded, _ = origins.embedded()
    card = {**vars(embedded), "architecture": architecture, "preprocessing": preprocessing}
    models.write_card(root / "backbone", models.Card(**card))
    files.write_json(root / "preprocessing.json", preprocessing)


def main(
    architectures: Annotated[list[str] | None, typer.Argument()] = None, side: int = 64, per_class: int = PER_CLASS
) -> None:
    """Print the rival's accuracy on 600 test digits for each architecture."""
    rows = Table("architecture", "labels per class", "test accuracy", "rate", "epochs", "best epoch")
    for architecture in architectures or ["mobilenet_v3_small", "mnasnet0_5", "resnet18"]:
        with tempfile.TemporaryDirectory() as folder:
            accuracy, history = rival(Path(folder), architecture, side, per_class)
        best = history.draws[0]
        figures = (f"{accuracy:.1%}", f"{best.rate:g}", str(best.epochs), str(best.best_epoch))
        rows.add_row(architecture, str(per_class), *figures)
    Console().print(rows)


if __name__ == "__main__":
    typer.run(main)
