"""What could overturn a result: the warnings of all stages in one order, the gravest consequence first.

The report's first screen, a run's last lines and the version in MLflow all show this order. Pure and light: each run
imports it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from steps.checks.feature_rules import LIKE_SPLITS
from steps.checks.reports import SplitShift
from steps.checks.rule import RuleResult
from steps.checks.rules import KEY_OF
from steps.evaluation.results import HURTS, Evaluation
from steps.images.manifest import VAL
from steps.training.choice import HEAD

SLICES, TRANSFER, GAP, SPLITS = "slices", "transfer", "gap", "splits"
REMEDY_OF_SPLITS = "Make the splits anew from all images, or train on images like those of the split, too."
CONSEQUENCES = (  # what a warning may mean, the gravest first, and the keys of the rules that say so
    ("one of the two figures does not speak for use, perhaps neither", (GAP, SPLITS)),
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


def caveats(rules: Iterable[RuleResult], splits: Iterable[SplitShift], judged: Evaluation) -> tuple[Caveat, ...]:
    """Return the outstanding warnings of the data gates and of the evaluation, the gravest first.

    `splits` are compared with training: they say more than the rule about them does.
    """
    keyed = [*_of_gap(judged), *_of_splits(splits), *_of_gates(rules), *_of_evaluation(judged)]
    ranked = [(RANK[key], what, remedy) for key, what, remedy in keyed]
    return tuple(
        Caveat(what, CONSEQUENCES[rank][0], remedy) for rank, what, remedy in sorted(ranked, key=lambda row: row[0])
    )


Keyed = Iterator[tuple[str, str, str]]  # key, what was observed, remedy


def _of_gap(judged: Evaluation) -> Keyed:
    """Yield that validation and test accuracy differ by more than chance explains.

    The head's validation figure is that of the head before its refit with more labels, which explains a better test
    figure.
    """
    gap = judged.split_gap
    if gap is None or not (gap.difference.above(0) or (gap.difference.below(0) and judged.chosen != HEAD)):
        return
    low, high = gap.difference.ends
    what = (
        f"accuracy is {gap.validation.known:.1%} on validation and {gap.test.known:.1%} on test images: "
        f"{100 * gap.difference.known:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), more than chance explains"
    )
    yield GAP, what, REMEDY_OF_SPLITS


def _of_splits(splits: Iterable[SplitShift]) -> Keyed:
    """Yield which split is not like training, and the likely kind of difference."""
    for row in splits:
        if row.kind:
            moved = [f"{m.measure} {_short(m.second)} against {_short(m.first)}" for m in row.measures if m.significant]
            what = (
                f"{'validation' if row.split == VAL else row.split} images are not like training images "
                f"(AUC {row.auc.known:.2f}, p = {row.p:.1g}): probably {row.kind}"
            )
            yield SPLITS, "; ".join([what, *([", ".join(moved)] if moved else [])]), REMEDY_OF_SPLITS


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _of_gates(rules: Iterable[RuleResult]) -> Keyed:
    for rule in rules:
        if not rule.passed and rule.name != LIKE_SPLITS:
            yield KEY_OF.get(rule.name, ""), f"{rule.name}: {rule.observed} (limit: {rule.limit})", rule.remedy


def _of_evaluation(judged: Evaluation) -> Keyed:
    if judged.transfer.verdict == HURTS:
        yield TRANSFER, f"transfer: {judged.transfer.sentence}", "Try another backbone; `regraft rank` compares them."
    for row in judged.slices.get(judged.chosen, ()):
        if row.breached:
            what = f"slice {row.column} = {row.value}: accuracy {100 * row.accuracy.known:.1f} % on {row.n:,} images"
            yield SLICES, what, "Add training images of this kind, or state in the model card that it is not for them."
