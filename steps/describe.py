"""The model card: what a user has to know before using a version, in Hugging Face's format, as tracked text."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Predicate

from steps.backbones import models
from steps.checks.reports import Validation
from steps.evaluation.results import Evaluation
from steps.images.manifest import VAL
from steps.pages import findings
from steps.pages.rendering import render
from steps.runtime import artefacts, files, stage
from steps.runtime.binding import Because
from steps.runtime.stage import digest_of
from steps.training.histories import FineTuneHistory, HeadHistory
from steps.training.strategy import Strategy

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

LICENCES = "one word as Hugging Face spells it, such as apache-2.0, or other"
WEAKEST = 3  # classes that the card names


@dataclass(frozen=True, kw_only=True)
class DescribeParams:
    """Facts that only people know; if empty, the card says that nobody has stated them."""

    licence: Annotated[str, Predicate(lambda licence: " " not in licence), Because(LICENCES)]
    intended_use: str
    out_of_scope: str


def describe(
    params: DescribeParams,
    backbone: Path,
    screened: Path,
    validation: Path,
    strategy: Path,
    fine_tune: Path,
    train_head: Path,
    evaluation: Path,
    model_card: Path,
) -> None:
    """Write the card of the chosen model; the same inputs give the same bytes, and nothing is looked up online.

    `backbone` holds a card.json, `screened` is Parquet, the others are the stages' JSON.
    """
    from huggingface_hub import ModelCard

    judged, checks = artefacts.read(Evaluation, evaluation), artefacts.read(Validation, validation)
    tuned = artefacts.read(FineTuneHistory, fine_tune)
    data = digest_of(sorted(files.read_table(screened)["id"]))
    body = render(
        "model_card.md",
        params=params,
        judged=judged,
        checks=checks,
        test=judged.judgement,
        names=findings.compared(tuned),
        data=data,
        chosen=judged.chosen,
        classes=judged.classes,
        card=models.read_card(backbone),
        plan=artefacts.read(Strategy, strategy),
        tuned=tuned,
        head=artefacts.read(HeadHistory, train_head),
        counts={"validation" if name == VAL else name: of for name, of in checks.counts.items()},
        figures=findings.figures(judged.test, findings.compared(tuned)),
        weakest=findings.hardest_first(judged.judgement)[:WEAKEST],
    )
    facts = _facts(params, judged, data)

    files.write_text(model_card, str(ModelCard(f"---\n{facts.to_yaml()}\n---\n\n{body}")))


def _facts(params: DescribeParams, judged: Evaluation, data: str) -> "ModelCardData":
    """Return the card's machine-readable part: every figure of the chosen model, its interval among the arguments."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name="test split",
            dataset_split="test",
            dataset_revision=data,
            metric_type=name,
            metric_value=figure.value,
            metric_args={
                "low": figure.low,
                "high": figure.high,
                "method": figure.method,
                "confidence": judged.confidence,
            },
        )
        for name, figure in judged.judgement.figures.items()
        if figure.value is not None
    ]
    return ModelCardData(
        license=params.licence or None,
        library_name="regraft",
        pipeline_tag="image-classification",
        tags=["image-classification", "transfer-learning", "regraft"],
        model_name=f"{findings.NAMES[judged.chosen]} on {judged.backbone}",
        eval_results=results,
    )


if __name__ == "__main__":
    stage.main(describe)
