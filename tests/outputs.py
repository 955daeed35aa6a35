"""What the stages of a small pipeline write, made up, of any classes and mistakes; and two outcomes of promotion."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from steps.checks.reports import (
    Account,
    Evidence,
    FieldAgreement,
    Nothing,
    Obeyed,
    Observation,
    Pictured,
    Screening,
    SupportedFinding,
    Validation,
)
from steps.checks.rule import RuleResult
from steps.describe import DescribeParams, describe
from steps.pages.outcome import PROMOTED, REFUSED, Outcome
from steps.report import ReportParams, report

CLASSES = ["ants", "bees", "蜜蜂 Größe"]
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!-- outcome -->", "$x_{ & {{ 7*7 }}"]
PARAMS = ReportParams(sample_images=2, wrong_answers=3, thumbnail=64)
UNSTATED = DescribeParams(licence="", intended_use="", out_of_scope="")
PREPROCESSING = {"resize": 256, "antialias": True, "mean": [0.485, 0.456, 0.406]}
SPLITS = {"train": 4, "val": 2, "test": 4}  # images of each class


@dataclass(frozen=True)
class Inputs:
    """The paths that `report` takes, all under one folder, and short ways to change them and run."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        ends = {"raw": "", "backbone": "", "screened": ".parquet", "predictions": ".parquet"}
        return self.root / f"{name}{ends.get(name, '.json')}"

    def change(self, name: str, **values: Any) -> None:
        path = getattr(self, name)
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def card(self, params: DescribeParams = UNSTATED) -> Path:
        """Write the model card; return where it is."""
        names = ("backbone", "screened", "validation", "strategy", "fine_tune", "evaluation")
        describe(params, *(getattr(self, name) for name in names), model_card=self.root / "model_card.md")
        return self.root / "model_card.md"

    def images(self) -> pd.DataFrame:
        return pd.read_parquet(self.screened)

    def page(self, params: ReportParams = PARAMS) -> Path:
        """Write the report; return where it is."""
        names = (
            "raw",
            "backbone",
            "screened",
            "validation",
            "strategy",
            "screening",
            "train_head",
            "fine_tune",
            "evaluation",
            "predictions",
            "baselines",
            "inspection",
        )
        page = self.root / "reports" / "report.html"
        report(params, *(getattr(self, name) for name in names), page=page)
        return page


def figure(value: float | None, low: float | None, high: float | None, method: str) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "method": method}


def judged(classes: Sequence[str], accuracy: float, confusion: list[list[int]]) -> dict[str, Any]:
    n = sum(map(sum, confusion))
    return {
        "n": n,
        "accuracy": figure(accuracy, accuracy - 0.052, accuracy + 0.031, "Wilson"),
        "balanced_accuracy": figure(accuracy - 0.01, accuracy - 0.06, accuracy + 0.02, "bootstrap"),
        "log_loss": figure(0.2144, None, None, "bootstrap"),
        "per_class": [
            {
                "label": label,
                "n": sum(row),
                "recall": figure(0.75, 0.31, 0.95, "Wilson"),
                "precision": figure(None, None, None, "Wilson"),
            }
            for label, row in zip(classes, confusion, strict=True)
        ],
        "confusion": confusion,
    }


def difference(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"difference": value, "value": value, "low": low, "high": high, "method": "smoothed bootstrap"}


def honest(classes: Sequence[str]) -> dict[str, Any]:
    """What evaluation.json holds of the chapters transfer, comparisons, calibration and slices."""
    share = figure(0.9, 0.8, 0.97, "Wilson")
    bins = [{"confidence": c, "accuracy": figure(c - 0.1, c - 0.3, c, "Wilson"), "n": 20} for c in (0.6, 0.8, 0.95)]
    of_time = {"log_loss": figure(0.21, 0.15, 0.3, "log-t"), "reliability": bins}
    curve = [
        {"coverage": c, "threshold": 1 - c / 2, "risk": figure(c / 10, 0.0, c / 5, "Wilson")} for c in (0.2, 0.6, 1.0)
    ]
    row = {
        "draws": 3,
        "accuracy": 0.8,
        **difference(0.12, 0.05, 0.19),
        "mcnemar_p": 0.0002,
        "verdict": "better",
        "needed_n": None,
        "sentence": "helps by 5.0 to 19.0 points",
    }
    part = {"accuracy": share, "limit": None, "breached": False, "p_adjusted": 0.4, "n": 12}
    return {
        "transfer": {
            "verdict": "helps",
            "sentence": row["sentence"],
            "against": "scratch",
            "baselines": [{**row, "against": name} for name in ("majority", "pixels", "scratch")],
        },
        "comparisons": [
            {
                "a": "fine_tuned",
                "b": "head",
                "n": 12,
                **difference(0.01, -0.02, 0.05),
                "only_a": 2,
                "only_b": 1,
                "mcnemar_p": 1.0,
                "verdict": "no evidence",
                "needed_n": 900,
                "sentence": "no evidence yet (needs about 888 more test images)",
                "balanced_accuracy": difference(0.01, None, None),
                "log_loss": difference(-0.02, -0.1, 0.06),
            }
        ],
        "calibration": {
            "fine_tuned": {
                "temperature": 1.43,
                "abstain_below": 0.62,
                "target_reached": True,
                "coverage": share,
                "accuracy_answered": share,
                "curve": curve,
                "before": {**of_time, "calibration_error": figure(0.08, 0.02, 0.12, "triangle bound")},
                "after": {**of_time, "calibration_error": figure(0.03, 0.0, 0.07, "triangle bound")},
                "change": {
                    "log_loss": difference(-0.01, -0.03, 0.02),
                    "calibration_error": difference(-0.05, -0.08, -0.01),
                },
            }
        },
        "slices": {
            "fine_tuned": [{**part, "column": "source", "value": label} for label in classes]
            + [{**part, "column": "brightness", "value": f"part {i}"} for i in range(15)]
        },
    }


def write_images(raw: Path, classes: Sequence[str]) -> pd.DataFrame:
    rows, generator = [], np.random.default_rng(0)
    for place, label in enumerate(classes):
        for split, count in SPLITS.items():
            for number in range(count):
                path = raw / split / f"class {place}" / f"<b>{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
                identity = hashlib.sha256(path.read_bytes()).hexdigest()
                rows.append({"id": identity, "path": path.relative_to(raw).as_posix(), "label": label, "split": split})
    return pd.DataFrame(rows)


def predicted(images: pd.DataFrame, classes: Sequence[str], wrong: int) -> pd.DataFrame:
    """Predictions of both models; the fine-tuned one gets the first `wrong` test images of the first class wrong."""
    rows = []
    for model in ("head", "fine_tuned"):
        left = wrong if model == "fine_tuned" else wrong + 1
        for image in images[images["split"] != "train"].to_dict("records"):
            truth = classes.index(image["label"])
            miss = image["split"] == "test" and truth == 0 and left > 0
            left -= miss
            chances = np.full(len(classes), 0.1 / len(classes))
            chances[1 if miss else truth] += 0.9 - 0.1 * left * miss
            rows.append(
                {**image, "model": model, "predicted": classes[int(chances.argmax())], "probabilities": chances}
            )
    return pd.DataFrame(rows)


def rivals(classes: Sequence[str]) -> dict[str, Any]:
    found = {"accuracy": 0.5, "balanced_accuracy": 0.5, "log_loss": 0.7, "n": 6}
    run = {"draw": 0, "rate": 0.001, "epochs": 3, "best_epoch": 2, "validation": found}
    return {
        "classes": classes,
        "train": 8,
        "train_of": 12,
        "val": 6,
        "test": 12,
        "majority": {"label": classes[0], "validation": found},
        "pixels": {"side": 16, "chosen_c": 0.01, "path": [], "validation": found},
        "scratch": {
            "architecture": "convnet",
            "parameters": 1000,
            "rates": [run],
            "chosen_rate": 0.001,
            "draws": [run, {**run, "draw": 1}],
        },
    }


def inspected() -> dict[str, Any]:
    """Nothing to show; what a chapter makes of more is in test_report_inspect."""
    return {
        "chosen": "fine_tuned",
        "block": None,
        "wrong": [],
        "wrong_total": 0,
        "right": [],
        "map": None,
        "svg": {},
        "pool": 0,
        "asked": 0,
        "label_next": [],
        "robustness": None,
    }


def validated(images: pd.DataFrame, classes: Sequence[str]) -> Validation:
    n = len(classes)
    return Validation(
        accepted=True,
        rules=(
            RuleResult("enough to learn from", True, "4", (), "fail", "at least 3", "training images", "Add images."),
            RuleResult(
                "classes are balanced",
                passed=False,
                observed="2.5",
                where=(),
                severity="warn",
                limit="at most 2",
                what="largest over smallest",
                remedy="Collect more of the rare class.",
            ),
        ),
        quarantined=1,
        decisions=Obeyed(keep=0, relabel=0, drop=0, absent=()),
        dropped=(),
        left_out={},
        counts={split: dict.fromkeys(classes, n) for split, n in SPLITS.items()} | {"unlabelled": {"": 5}},
        effective_classes={split: float(n) for split in SPLITS},
        copies=(),
        population=(),
        sources=(),
        coverage=(),
        groups=Nothing(),
        shortcuts=(),
        observed=Observation(
            done="as declared",
            accounts=(Account("as declared", 1.0, 0.02), Account("scaled twice", 0.003, 7604.1)),
            wanted=(
                SupportedFinding("colour order", "cannot be told", "the pictures are grey", {}, ()),
                SupportedFinding(
                    "mean and std",
                    "as declared",
                    "every other account fits worse",
                    {},
                    (Evidence("mean and std of none", "BatchNorm", 0.05, 0.25, -30.2, "against"),),
                ),
            ),
            source_divergence={"features.1": None, "features.2": 0.034},
            shown=tuple(Pictured(*row) for row in images[["path", "id"]].head(2).itertuples(index=False)),
        ),
        preprocessing=tuple(FieldAgreement(field, value, value, True) for field, value in PREPROCESSING.items()),
    )


SCREENED = Screening(
    searched=18,
    agreement=0.9,
    credible=True,
    wrong_share=0.0,
    wrong_p=1.0,
    suspected=0,
    label_errors=(),
    like=(),
    odd=(),
    rules=(),
    kept=0,
    dropped=(),
    reweighted=0,
)


def make(root: Path, classes: Sequence[str] = CLASSES, wrong: int = 2) -> Inputs:
    inputs, n = Inputs(root), len(classes)
    images = write_images(inputs.raw, classes)
    images.to_parquet(inputs.screened)
    predicted(images, classes, wrong).to_parquet(inputs.predictions)
    confusion = (np.eye(n, dtype=int) * SPLITS["test"]).tolist()
    confusion[0][0] -= wrong
    confusion[0][1] += wrong
    scores = {"accuracy": 0.9, "balanced_accuracy": 0.8912, "log_loss": 0.3, "n": 2 * n}
    contents = {
        "backbone/card.json": {
            "name": "tiny",
            "architecture": "convnet",
            "sha256": "ab" * 32,
            "source": "trained here",
            "licence": "MIT",
            "num_classes": 10,
            "preprocessing": PREPROCESSING,
        },
        "validation.json": validated(images, classes),
        "screening.json": SCREENED,
        "strategy.json": {
            "strategy": "later_blocks",
            "cut": "",
            "blocks": 2,
            "reasons": ["the data is <b>large</b>"],
            "size": {
                "curve": [{"labels_per_class": n, "balanced_accuracy": 0.7 + n / 100} for n in (4, 8, 15.5)],
                "next_doubling": {"value": 0.031, "low": 0.012, "high": 0.05, "method": "power law"},
            },
            "similarity": [
                {"cut": cut, "balanced_accuracy": 0.8, "logme": 0.12, "h_score": 1.5, "source_divergence": divergence}
                for cut, divergence in (("features.1", None), ("", 0.034))
            ],
        },
        "train_head.json": {
            "kind": "linear",
            "classes": classes,
            "n_train": 4 * n,
            "n_val": 2 * n,
            "chosen_c": 0.1,
            "validation": scores,
            "path": [{"c": c, "val_balanced_accuracy": 0.8 + c / 10} for c in (0.01, 0.1, 1.0)],
        },
        "fine_tune.json": {
            "epochs": [
                {"epoch": 0, "train_loss": None, "val_balanced_accuracy": 0.89, "val_log_loss": 0.30},
                {"epoch": 1, "train_loss": 0.4, "val_balanced_accuracy": 0.91, "val_log_loss": 0.25},
            ],
            "best_epoch": 1,
            "trainable_blocks": ["top"],
            "frozen_blocks": ["stem", "middle"],
            "trainable_parameters": 250,
            "frozen_parameters": 750,
            "frozen_digest_before": "cd" * 32,
            "balance": {"by": "weights", "first_epoch": {}},
            "frozen_digest_after": "cd" * 32,
            "validation": {**scores, "balanced_accuracy": 0.9134},
        },
        "evaluation.json": {
            "chosen": "fine_tuned",
            "reason": "it was better on validation",
            "classes": classes,
            "backbone": "tiny",
            "validation": {"head": scores, "fine_tuned": scores},
            "confidence": 0.95,
            "test": {"head": judged(classes, 0.861, confusion), "fine_tuned": judged(classes, 0.928, confusion)},
        },
    }
    contents |= {"baselines.json": rivals(classes), "inspection.json": inspected()}
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content, default=vars))
    return inputs


JUDGED = {
    "n": 153,
    "accuracy": {"value": 0.941, "low": 0.892, "high": 0.968, "method": "Wilson"},
    "balanced_accuracy": {"value": 0.934, "low": 0.891, "high": 0.969, "method": "bootstrap"},
}
COMPARISON = {
    "n": 153,
    "difference": 0.0196,
    "low": -0.0065,
    "high": 0.0458,
    "mcnemar_p": 0.25,
    "only_a": 4,
    "only_b": 1,
    "confidence": 0.95,
}
FIRST = Outcome(
    verdict=PROMOTED,
    headline="version 4 of garden is the new champion",
    reasons=("balanced accuracy 0.934 clears the floor of 0.5; no champion before it",),
    champion_version="4",
    challenger_version="4",
    previous_version=None,
    model_name="garden",
    judged=JUDGED,
    confidence=0.95,
    comparison=None,
    looks=None,
    links=(("Data Docs", "data_docs/index.html"), ("MLflow run", "http://localhost:5000/#/runs/1?a=1&b=2")),
)
REFUSAL = replace(
    FIRST,
    verdict=REFUSED,
    headline="the <b>challenger</b> was not promoted",
    champion_version="3",
    previous_version="3",
    comparison=COMPARISON,
    reasons=("too few images", "class a|b: recall *falls*"),
    links=(),
    looks={
        "state": "over budget",
        "sentence": "27 models were judged on these test images; the best of so many looks "
        "better than it is by up to 1.1 points on average. More than the budget of 20 (promote.look_budget)",
    },
)
