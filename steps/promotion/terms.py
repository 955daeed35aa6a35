"""The params, artefacts and result of promotion and export. Imports nothing heavy: every command imports it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from steps.evaluation.results import Judgement, PairedComparison
from steps.pages.caveats import Caveat
from steps.promotion.gate import GateRules

RAW, SCREENED = "data/raw", "data/screened.parquet"
EVALUATION, PREDICTIONS = "data/reports/evaluation.json", "data/predictions.parquet"
RECEIPT, VALIDATION, SCREENING = (
    "data/reports/register.json",
    "data/reports/validation.json",
    "data/reports/screen.json",
)
LOOKED_AT = (SCREENED, EVALUATION, PREDICTIONS, VALIDATION, SCREENING)  # in addition to the registry and params.yaml
REQUIRED = "required"


@dataclass(frozen=True, kw_only=True)
class PromoteParams(GateRules):
    """The rules that a challenger must meet, and whether a person must approve."""

    approval: Literal["auto", "required"]
    wait_minutes: Annotated[float, Ge(0)]

    def rules(self) -> dict[str, Any]:
        """Return the values that an answer depends on: all but how long a run waits for a person."""
        return {name: value for name, value in vars(self).items() if name != "wait_minutes"}


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    """How closely an exported model must agree or, for int8, how good it must be, and on how many images."""

    most_images: Annotated[int, Interval(ge=1, le=100_000)]
    calibration_images: Annotated[int, Interval(ge=1, le=100_000)]
    tolerance: Annotated[float, Interval(gt=0, lt=0.1)]  # of a probability
    max_loss: Annotated[float, Interval(gt=0, lt=1)]


SECTIONS = {"promote": PromoteParams, "export": ExportParams}  # the sections of params.yaml that no stage reads


@dataclass(frozen=True)
class Promotion:
    """A decision and the versions that it is about; `changed`: whether production changed just now."""

    model_name: str
    champion: str | None  # the version in production after the decision
    challenger: str  # the version that was judged
    previous: str | None
    changed: bool
    reasons: tuple[str, ...]
    run_id: str
    judged: Judgement  # the challenger's test figures
    verdict: str  # promote | refuse | propose
    comparison: PairedComparison | None  # if the decision used one
    caveats: tuple[Caveat, ...]  # what could overturn the result, the gravest first
    notes: tuple[str, ...] = ()  # those of the reasons that say what was compared: a reader needs them first


def confirmed(version: str, reasons: Sequence[str]) -> tuple[str, ...]:
    """Return the reasons of a run whose model is the champion itself; `reasons` are those that made it champion."""
    nothing = f"the model of this run is version {version}, the champion itself: nothing was compared"
    return (nothing, *(f"why it is champion: {reason}" for reason in reasons))


def confirming(promotion: Promotion) -> Promotion:
    """Return a promotion as reported by a later run with nothing to do: production does not change again."""
    if not promotion.changed:
        return promotion
    reasons = confirmed(promotion.challenger, promotion.reasons)
    return replace(promotion, previous=promotion.champion, changed=False, reasons=reasons, comparison=None, notes=())
