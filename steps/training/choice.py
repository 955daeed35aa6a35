"""The choice between head and fine-tuned network, by validation figures alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from steps.training.histories import Scores

HEAD, FINE_TUNED = "head", "fine_tuned"


@dataclass(frozen=True)
class Choice:
    """Which of the two models goes forward, and why, in words."""

    chosen: str
    reason: str


def choose(validation: Mapping[str, Scores], moved: bool, trained: bool = True) -> Choice:
    """Choose between head and fine-tuned on validation figures alone; the test split is never used.

    Fine-tuning has to be better on balanced accuracy, or equal there and better on log-loss: a tie goes to the
    head, which is cheaper, refitted on more labels, and leaves the backbone as it was. `moved` is False if no
    epoch was better than the start: then the two differ only by rounding, which decides nothing. `trained` is False if
    the strategy trains the head alone: then there is nothing to compare it with.
    """
    if not trained:
        return Choice(HEAD, "the strategy trains the head alone; nothing was fine-tuned")
    head, tuned = validation[HEAD], validation[FINE_TUNED]
    reached, before = tuned.balanced_accuracy, head.balanced_accuracy
    figures = f"{100 * reached:.1f} % against the head's {100 * before:.1f} % on {head.n:,} validation images"
    if moved and (reached, -tuned.log_loss) > (before, -head.log_loss):
        tie = "" if reached > before else f", with the lower log-loss ({tuned.log_loss:.3f})"
        return Choice(FINE_TUNED, f"fine-tuning reached a balanced accuracy of {figures}{tie}")
    return Choice(HEAD, f"fine-tuning was no better: balanced accuracy {figures}")
