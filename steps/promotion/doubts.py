"""Doubts about the test split itself: they stand before the verdict, because they could overturn it."""

from collections.abc import Iterator

from steps.checks.reports import Screening, SplitShift
from steps.evaluation.results import Evaluation
from steps.images.manifest import VAL

NAMES = {VAL: "validation"}


def doubts(screened: Screening | None, evaluation: Evaluation) -> tuple[str, ...]:
    """Return a sentence for each: validation and test accuracy apart, a split unlike training; the gravest first."""
    shifts = [row for row in screened.splits if row.kind] if screened else []
    return (*_gap(evaluation), *(_shift(row) for row in shifts))


def _gap(evaluation: Evaluation) -> Iterator[str]:
    gap = evaluation.split_gap
    if gap is None or not (gap.difference.above(0) or gap.difference.below(0)):
        return
    low, high = gap.difference.ends
    yield (
        f"accuracy is {gap.validation.known:.1%} on validation and {gap.test.known:.1%} on test images: "
        f"{100 * gap.difference.known:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), more than chance explains"
    )


def _shift(row: SplitShift) -> str:
    moved = ", ".join(
        f"{m.measure} {_short(m.second)} against {_short(m.first)}" for m in row.measures if m.significant
    )
    return (
        f"{NAMES.get(row.split, row.split)} images are not like training images (AUC {row.auc.known:.2f}, "
        f"p = {row.p:.1g}): probably {row.kind}{f'; {moved}' if moved else ''}"
    )


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
