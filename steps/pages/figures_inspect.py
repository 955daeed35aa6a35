"""Figures of the chapter on inspection: the images on a map of their features, the accuracy on corrupted pictures."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from steps.evaluation.results import CorruptedAccuracy
from steps.pages.figures import COLOURS, WIDTH, Dot, _axes, _figure, accuracy_intervals, shorten, styled
from steps.runtime.arrays import Floats

SHAPES = ("o", "^", "s", "D", "P", "X", "v", "*", "<", "p")
TINTS = ("accent", "second", "ink")
MOST_NAMED = len(SHAPES)  # classes with their own marker; the smaller ones share a faint dot
LEGEND_ROW = 22  # points
OTHERS = "other classes"


@styled
def feature_map(places: Floats, labels: Sequence[str], wrong: Sequence[bool]) -> Figure:
    """Draw images as markers, one kind per class, at positions [n, 2]; wrong answers are ringed.

    The axes carry no numbers: neither principal components nor t-SNE have a unit that a reader could use.
    """
    named = [label for label, _ in Counter(labels).most_common(MOST_NAMED)]
    kinds = {label: (SHAPES[i], COLOURS[TINTS[i % len(TINTS)]]) for i, label in enumerate(sorted(named))}
    shown = np.array([label if label in kinds else OTHERS for label in labels])
    rows = -(-(len(set(shown)) + any(wrong)) // 2)
    figure = _figure(WIDTH, 300 + LEGEND_ROW * rows)
    axes = _axes(figure, 4, 4, WIDTH - 8, 292)
    for label in [*([OTHERS] if OTHERS in shown else []), *sorted(kinds)]:
        shape, colour = kinds.get(label, (".", COLOURS["soft"]))
        axes.plot(*places[shown == label].T, shape, color=colour, ms=4.5, mew=0, alpha=0.75, label=shorten(label))
    if any(wrong):
        axes.plot(*places[np.array(wrong)].T, "o", ms=10, mfc="none", mec=COLOURS["bad"], mew=1.4, label="wrong")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.01), ncols=2, frameon=False, fontsize=10, markerscale=1.6)
    return figure


def worse_pictures(rows: Sequence[CorruptedAccuracy]) -> tuple[Figure, str]:
    """Draw the accuracy with its interval on unchanged and corrupted pictures; return the same in words, too.

    `rows` come from `robustness.look`, the unchanged pictures first.
    """
    dots = [
        Dot(
            ", ".join(filter(None, (row.kind, row.strength))),
            chosen=not row.strength,
            value=row.accuracy.known,
            low=row.accuracy.low,
            high=row.accuracy.high,
        )
        for row in rows
    ]
    words = "; ".join(f"{dot.name} {dot.value:.0%}" for dot in dots)
    figure = accuracy_intervals(dots, dots[0].value, dots[0].name)
    return figure, f"Accuracy on validation images as they are and made worse: {words}"
