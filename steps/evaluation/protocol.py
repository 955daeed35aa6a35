"""The evaluation's protocol: confidence of intervals and verdicts, and which slices are evaluated."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from steps.evaluation.comparison import VerdictRules
from steps.runtime.binding import Share


@dataclass(frozen=True, kw_only=True)
class EvaluateParams(VerdictRules):
    """Confidence of intervals and verdicts; how probabilities are calibrated; which slices are evaluated."""

    temperature_spread: Annotated[float, Interval(ge=0.01, le=10)]
    answers: Literal["balanced", "likely"]
    target_accuracy: Annotated[float, Interval(gt=0, le=1)]
    unfamiliar_rate: Annotated[float, Interval(ge=0, le=0.2)]
    slice_columns: tuple[str, ...]
    slice_least: Annotated[int, Ge(1)]
    slice_limits: dict[str, Share]
