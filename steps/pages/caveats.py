"""What could overturn a result: the warnings of all stages in one order, the gravest consequence first.

The report's first screen, a run's last lines and the version in MLflow all show this order. Pure and light: each run
imports it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from steps.checks.rule import RuleResult
from steps.checks.rules import KEY_OF
from steps.evaluation.results import HURTS, Evaluation

SLICES, TRANSFER = "slices", "transfer"
CONSEQUENCES = (  # what a warning may mean, the gravest first, and the keys of the rules that say so
    ("test images resemble training images: the test figures may be too high", ("leakage", "like_images")),
    (
        "the label may be read off something other than the subject: the figures may not hold in use",
        ("shortcuts", "sources"),
    ),
    ("the test images may not be what the model will see", ("coverage", "population", "domain_shift")),
    ("the backbone may not see images as it was trained to", ("preprocessing", "observed", "wanted")),
    ("labels may be wrong, in training and in the test", ("conflicting_labels", "label_errors", "alike_labels")),
    ("a model without the pretrained weights may be the better choice", (TRANSFER,)),
    ("these images are answered worse than the figure of all images says", (SLICES,)),
    ("the figures rest on fewer images than they should", ("minimum", "imbalance", "quarantine", "lost_classes")),
    ("a rule about the data does not hold", ("",)),  # one of another release, whose key is not known
)
RANK = {key: rank for rank, (_, keys) in enumerate(CONSEQUENCES) for key in keys}


@dataclass(frozen=True)
class Caveat:
    """One warning: what was observed, what that may mean for the result, and the remedy."""

    what: str
    consequence: str
    remedy: str

    @property
    def sentence(self) -> str:
        """Return the warning with its consequence."""
        return f"{self.what}; {self.consequence}"


def caveats(rules: Iterable[RuleResult], judged: Evaluation) -> tuple[Caveat, ...]:
    """Return the outstanding warnings of the data gates (`rules`) and of the evaluation, the gravest first."""
    keyed = [*_of_gates(rules), *_of_evaluation(judged)]
    ranked = [(RANK[key], what, remedy) for key, what, remedy in keyed]
    return tuple(
        Caveat(what, CONSEQUENCES[rank][0], remedy) for rank, what, remedy in sorted(ranked, key=lambda row: row[0])
    )


Keyed = Iterator[tuple[str, str, str]]  # key, what was observed, remedy


def _of_gates(rules: Iterable[RuleResult]) -> Keyed:
    for rule in rules:
        if not rule.passed:
            yield KEY_OF.get(rule.name, ""), f"{rule.name}: {rule.observed} (limit: {rule.limit})", rule.remedy


def _of_evaluation(judged: Evaluation) -> Keyed:
    if judged.transfer.verdict == HURTS:
        yield TRANSFER, f"transfer: {judged.transfer.sentence}", "Try another backbone; `regraft rank` compares them."
    for row in judged.slices.get(judged.chosen, ()):
        if row.breached:
            what = f"slice {row.column} = {row.value}: accuracy {100 * row.accuracy.known:.1f} % on {row.n:,} images"
            yield SLICES, what, "Add training images of this kind, or state in the model card that it is not for them."
