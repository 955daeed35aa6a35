"""The evaluation's protocol: how sure intervals and verdicts are meant to be, and which slices are looked at."""

from collections.abc import Iterator
from dataclasses import dataclass

from steps.evaluation.comparison import VerdictRules


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """How sure intervals and verdicts are meant to be; how probabilities are calibrated; which slices are looked at."""

    confidence: float
    bootstrap_draws: int
    power: float
    temperature_spread: float
    target_accuracy: float
    slice_columns: tuple[str, ...]
    slice_least: int
    slice_limits: dict  # type: ignore[type-arg]

    @property
    def verdicts(self) -> VerdictRules:
        """Return what a comparison of two models needs to know."""
        return VerdictRules(self.confidence, self.power, self.bootstrap_draws)

    def faults(self) -> Iterator[str]:
        """Yield values that make no interval, no prior or no limit."""
        if not 0.5 <= self.confidence <= 0.999:
            yield f"confidence is {self.confidence}; 0.5 to 0.999"
        if not 100 <= self.bootstrap_draws <= 1_000_000:
            yield f"bootstrap_draws is {self.bootstrap_draws}; 100 to 1000000"
        if not 0.5 <= self.power <= 0.999:
            yield f"power is {self.power}; 0.5 to 0.999"
        if not 0.01 <= self.temperature_spread <= 10:
            yield f"temperature_spread is {self.temperature_spread}; 0.01 to 10"
        if not 0 < self.target_accuracy <= 1:
            yield f"target_accuracy is {self.target_accuracy}; above 0, at most 1"
        if self.slice_least < 1:
            yield f"slice_least is {self.slice_least}; at least 1"
        for name, limit in self.slice_limits.items():
            if not isinstance(name, str):
                yield f"slice_limits.{name} is no text; write it in quotes"
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1:
                yield f"slice_limits.{name} is {limit!r}; an accuracy from 0 to 1"
