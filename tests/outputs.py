"""What the stages of a small pipeline write, made up, of any classes and mistakes; and two outcomes of promotion."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from steps.backbones import models
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
from steps.evaluation.results import (
    BaselineComparison,
    Calibration,
    CalibrationChange,
    CalibrationReport,
    ClassJudgement,
    Comparison,
    CoverageRisk,
    Evaluation,
    Judgement,
    PairedComparison,
    ReliabilityBin,
    SliceJudgement,
    Transfer,
    Unfamiliar,
)
from steps.pages.inspection import Inspection
from steps.pages.outcome import PROMOTED, REFUSED, Outcome
from steps.report import ReportParams, report
from steps.runtime import files
from steps.runtime.figure import Figure
from steps.training.histories import (
    Balance,
    BaselinesHistory,
    Epoch,
    FineTuneHistory,
    FromScratch,
    HeadHistory,
    LinearTrial,
    Majority,
    Pixels,
    Scores,
    ScratchRun,
)
from steps.training.strategy import Cost, CurvePoint, CutScores, Size, Strategy, StrategyCost, Worth
from tests.made import spec

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
        files.write_json(path, {**files.read_json(path), **values})

    def card(self, params: DescribeParams = UNSTATED) -> Path:
        """Write the model card; return where it is."""
        names = ("backbone", "screened", "validation", "strategy", "fine_tune", "train_head", "evaluation")
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


FIGURE = Figure(0.031, 0.012, 0.05, "power law")
CARD = models.Card(
    name="tiny",
    architecture="convnet",
    num_classes=10,
    sha256="ab" * 32,
    source="trained here",
    licence="MIT",
    preprocessing=spec(256, 224),
    input_statistics=None,
    notes={},
)


def strategy(**changes: Any) -> Strategy:
    """What `choose_strategy` writes."""
    scores = Scores(0.8, 0.8, 0.5, 12)
    return replace(
        Strategy(
            strategy="later_blocks",
            cut="",
            blocks=2,
            pretrained=True,
            reasons=("the data is <b>large</b>",),
            size=Size(
                labels_per_class=16,
                curve=tuple(CurvePoint(n, 0.7, 0.7 + n / 100, 0.6, 12) for n in (4, 8, 15.5)),
                last_doubling=FIGURE,
                next_doubling=FIGURE,
            ),
            similarity=tuple(
                CutScores(
                    cut=cut,
                    **vars(scores),
                    c=0.1,
                    against_whole=FIGURE if cut else None,
                    logme=0.12,
                    h_score=1.5,
                    source_divergence=divergence,
                )
                for cut, divergence in (("features.1", None), ("", 0.034))
            ),
            worth=Worth(scores, FIGURE),
            cost=Cost(1e6, (StrategyCost("later_blocks", "", 2, 1e9, True),)),
        ),
        **changes,
    )


def head_history(classes: Sequence[str]) -> HeadHistory:
    """What `train_head` writes."""
    n = len(classes)
    return HeadHistory(
        classes=tuple(classes),
        n_train=4 * n,
        n_val=2 * n,
        kind="linear",
        path=tuple(
            LinearTrial(
                c=c,
                converged=True,
                val_accuracy=0.8,
                val_balanced_accuracy=0.8 + c / 10,
                val_log_loss=0.3,
                train_accuracy=1.0,
                train_balanced_accuracy=1.0,
                train_log_loss=0.1,
            )
            for c in (0.01, 0.1, 1.0)
        ),
        chosen_c=0.1,
        validation=Scores(0.9, 0.8912, 0.3, 2 * n),
    )


def fine_tune_history(**changes: Any) -> FineTuneHistory:
    """What `fine_tune` writes."""
    history = FineTuneHistory(
        epochs=(Epoch(0, None, 0.9, 0.89, 0.30), Epoch(1, 0.4, 0.9, 0.91, 0.25)),
        best_epoch=1,
        pretrained=True,
        schedule={},
        validation=Scores(0.9, 0.9134, 0.3, 6),
        balance=Balance("weights", {}),
        bn_policy="frozen",
        trainable_blocks=("top",),
        frozen_blocks=("stem", "middle"),
        trainable_parameters=250,
        frozen_parameters=750,
        frozen_digest_before="cd" * 32,
        frozen_digest_after="cd" * 32,
    )
    return replace(history, **changes)


def baselines_history(classes: Sequence[str], **changes: Any) -> BaselinesHistory:
    """What `baselines` writes."""
    scores = Scores(0.5, 0.5, 0.7, 6)
    run = ScratchRun(0, 0.001, 3, 2, scores)
    history = BaselinesHistory(
        classes=tuple(classes),
        train=8,
        train_of=12,
        most_images=8,
        val=6,
        test=12,
        scratch=FromScratch("convnet", 1000, (run,), 0.001, (run, replace(run, draw=1))),
        majority=Majority(classes[0], scores),
        pixels=Pixels(16, 0.01, (), scores),
    )
    return replace(history, **changes)


def unknown(method: str) -> Figure:
    return Figure(None, None, None, method)


def judged(classes: Sequence[str], accuracy: float, confusion: list[list[int]]) -> Judgement:
    return Judgement(
        n=sum(map(sum, confusion)),
        accuracy=Figure(accuracy, accuracy - 0.052, accuracy + 0.031, "Wilson"),
        balanced_accuracy=Figure(accuracy - 0.01, accuracy - 0.06, accuracy + 0.02, "bootstrap"),
        macro_f1=Figure(accuracy - 0.02, accuracy - 0.07, accuracy + 0.01, "posterior"),
        auroc=Figure(0.98, 0.95, 0.99, "DeLong"),
        log_loss=Figure(0.2144, None, None, "bootstrap"),
        brier=Figure(0.11, 0.08, 0.15, "log-t"),
        calibration_error=Figure(0.03, 0.0, 0.07, "triangle bound"),
        per_class=tuple(
            ClassJudgement(label, sum(row), Figure(0.75, 0.31, 0.95, "Wilson"), unknown("Wilson"))
            for label, row in zip(classes, confusion, strict=True)
        ),
        confusion=tuple(map(tuple, confusion)),
    )


def smoothed(value: float, low: float, high: float) -> Figure:
    return Figure(value, low, high, "smoothed bootstrap")


HELPS = BaselineComparison(
    against="scratch",
    draws=3,
    accuracy=0.8,
    difference=0.12,
    low=0.05,
    high=0.19,
    method="smoothed bootstrap",
    mcnemar_p=0.0002,
    verdict="better",
    needed_n=None,
    sentence="helps by 5.0 to 19.0 points",
)
UNASKED = Transfer(
    verdict=None,
    sentence="not asked: no baseline was trained",
    against=None,
    baselines=(),
    model="fine_tuned",
    accuracy=0.9,
    labels=12,
    labels_of=12,
)
SLICE = SliceJudgement(
    column="source",
    value="",
    n=12,
    accuracy=Figure(0.9, 0.8, 0.97, "Wilson"),
    limit=None,
    breached=False,
    p_adjusted=0.4,
)


def honest(classes: Sequence[str]) -> dict[str, Any]:
    """What evaluation.json holds of the chapters transfer, comparisons, calibration and slices."""
    share = Figure(0.9, 0.8, 0.97, "Wilson")
    bins = tuple(ReliabilityBin(c, Figure(c - 0.1, c - 0.3, c, "Wilson"), 20) for c in (0.6, 0.8, 0.95))
    loss = Figure(0.21, 0.15, 0.3, "log-t")
    return {
        "transfer": replace(
            UNASKED,
            verdict="helps",
            sentence=HELPS.sentence,
            against="scratch",
            baselines=tuple(replace(HELPS, against=name) for name in ("majority", "pixels", "scratch")),
        ),
        "comparisons": (
            Comparison(
                a="fine_tuned",
                b="head",
                n=12,
                confidence=0.95,
                difference=0.01,
                low=-0.02,
                high=0.05,
                method="smoothed bootstrap",
                only_a=2,
                only_b=1,
                mcnemar_p=1.0,
                verdict="no evidence",
                needed_n=900,
                sentence="no evidence yet (needs about 888 more test images)",
                balanced_accuracy=Figure(0.01, None, None, "smoothed bootstrap"),
                log_loss=smoothed(-0.02, -0.1, 0.06),
            ),
        ),
        "calibration": {
            "fine_tuned": CalibrationReport(
                temperature=1.43,
                abstain_below=0.62,
                target_reached=True,
                coverage=share,
                accuracy_answered=share,
                before=Calibration(loss, Figure(0.08, 0.02, 0.12, "triangle bound"), bins),
                after=Calibration(loss, Figure(0.03, 0.0, 0.07, "triangle bound"), bins),
                change=CalibrationChange(smoothed(-0.01, -0.03, 0.02), Figure(-0.05, -0.08, -0.01, "box bound")),
                curve=tuple(CoverageRisk(c, 1 - c / 2, Figure(c / 10, 0.0, c / 5, "Wilson")) for c in (0.2, 0.6, 1.0)),
            )
        },
        "unfamiliar": {"fine_tuned": Unfamiliar(known=30, threshold=0.123, test=Figure(0.04, 0.01, 0.2, "Wilson"))},
        "slices": {
            "fine_tuned": (
                *(replace(SLICE, value=label) for label in classes),
                *(replace(SLICE, column="brightness", value=f"part {i}") for i in range(15)),
            )
        },
    }


def evaluated(test: dict[str, Judgement], classes: Sequence[str], chosen: str = "fine_tuned") -> Evaluation:
    """The evaluation of models with these judgements, without the chapters of `honest`."""
    scores = Scores(0.9, 0.8912, 0.3, 2 * len(classes))
    return Evaluation(
        chosen=chosen,
        reason="it was better on validation",
        classes=tuple(classes),
        backbone="tiny",
        confidence=0.95,
        validation=dict.fromkeys(test, scores),
        weights={},
        test=test,
        calibration={},
        slices={},
        unjudged=(),
        comparisons=(),
        transfer=UNASKED,
    )


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


# Nothing to show; what a chapter makes of more is in test_report_inspect
INSPECTED = Inspection(
    chosen="fine_tuned",
    block=None,
    wrong=(),
    wrong_total=0,
    right=(),
    map=None,
    svg={},
    robustness=None,
    pool=0,
    asked=0,
    label_next=(),
)


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
    contents = {
        "backbone/card.json": CARD,
        "validation.json": validated(images, classes),
        "screening.json": SCREENED,
        "strategy.json": strategy(),
        "train_head.json": head_history(classes),
        "fine_tune.json": fine_tune_history(),
        "baselines.json": baselines_history(classes),
        "evaluation.json": evaluated(
            {"head": judged(classes, 0.861, confusion), "fine_tuned": judged(classes, 0.928, confusion)}, classes
        ),
    }
    contents |= {"inspection.json": INSPECTED}
    for name, content in contents.items():
        files.write_json(root / name, content)
    return inputs


JUDGED = replace(
    judged(["ants", "bees"], 0.934, [[70, 4], [5, 74]]),
    accuracy=Figure(0.941, 0.892, 0.968, "Wilson"),
    balanced_accuracy=Figure(0.934, 0.891, 0.969, "bootstrap"),
)
COMPARISON = PairedComparison(
    n=153,
    only_a=4,
    only_b=1,
    p=0.19,
    test="exact sign-flip test",
    confidence=0.95,
    difference=0.0196,
    low=-0.0065,
    high=0.0458,
)
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
    caveats=(),
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
