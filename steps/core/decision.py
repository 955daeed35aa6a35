"""Decisions, pure and explained: figures and rules in, a verdict with all its reasons out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEAD, FINE_TUNED = "head", "fine_tuned"


@dataclass(frozen=True)
class Choice:
    """Which of the two models goes forward, and why, in words."""

    chosen: str
    reason: str


def choose(validation: Mapping[str, Mapping[str, float]], moved: bool) -> Choice:
    """Choose between head and fine-tuned on validation figures alone; the test split never has a say.

    Fine-tuning has to be better on balanced accuracy, or equal there and better on log-loss: a tie goes to the
    head, which is cheaper, refitted on more labels, and leaves the backbone as it was. `moved` is False where no
    epoch was better than the start: the two differ by rounding alone then, and rounding decides nothing.
    """
    head, tuned = validation[HEAD], validation[FINE_TUNED]
    key = "balanced_accuracy"
    figures = f"{tuned[key]:.3f} against the head's {head[key]:.3f} on {int(head['n'])} validation images"
    if moved and (tuned[key], -tuned["log_loss"]) > (head[key], -head["log_loss"]):
        tie = "" if tuned[key] > head[key] else f", with the lower log-loss ({tuned['log_loss']:.3f})"
        return Choice(FINE_TUNED, f"fine-tuning reached a balanced accuracy of {figures}{tie}")
    return Choice(HEAD, f"fine-tuning was no better: balanced accuracy {figures}")


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger becomes champion; a refusal lists every reason, not the first."""

    promote: bool
    reasons: tuple[str, ...]


def decide(challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, floor: float, margin: float) -> Verdict:
    """Promote a challenger that clears the floor and beats the champion; both judged on the same test images.

    `challenger` and `champion` are what `metrics.judge` returns; `floor` is the least balanced accuracy,
    `margin` by how much it must exceed the champion's.
    """
    refusals = [*_below_floor(challenger, floor), *_not_better(challenger, champion, margin)]
    if refusals:
        return Verdict(False, tuple(refusals))
    value = challenger["balanced_accuracy"]["value"]
    if champion is None:
        return Verdict(True, (f"balanced accuracy {value:.3f} clears the floor of {floor}; no champion before it",))
    return Verdict(True, (f"balanced accuracy {value:.3f}, the champion's is {_value(champion):.3f}",))


def _value(judged: Mapping[str, Any]) -> float:
    return float(judged["balanced_accuracy"]["value"])


def _below_floor(challenger: Mapping[str, Any], floor: float) -> Sequence[str]:
    if _value(challenger) >= floor:
        return []
    return [f"balanced accuracy {_value(challenger):.3f} is under the floor of {floor} (promote.floor)"]


def _not_better(challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, margin: float) -> Sequence[str]:
    if champion is None or _value(challenger) > _value(champion) + margin:
        return []
    return [
        f"balanced accuracy {_value(challenger):.3f} does not beat the champion's {_value(champion):.3f} "
        f"by more than {margin} on the same {challenger['n']} test images (promote.margin)"
    ]
