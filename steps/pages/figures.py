"""The report's figures: plain numbers in, matplotlib figures out. No pyplot, no global state, no files.

Sizes are in points from the top left. Each figure is drawn at about the width of a telephone, so that its
letters stay legible there; space for labels is computed from the number of characters, never measured, because
the reader's browser sets the text in its own font.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from operator import attrgetter
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from steps.training.histories import Epoch, LinearTrial, Trial
from steps.training.strategy import CurvePoint

# Figures use no other colours; a page can restyle them by the custom property of each name.
COLOURS = {
    "paper": "#fbfaf6",
    "ink": "#1d2521",
    "soft": "#5a645e",
    "line": "#dcddd4",
    "accent": "#1f7a4d",
    "second": "#b05a1c",
    "bad": "#b3261e",
}
WIDTH = 350
NEARBY = 0.2  # of accuracy: a baseline further below the intervals is not drawn
LETTER = 6.6  # points per character cell at the font size below, rather too wide than too narrow
JOINERS = "\u200c\u200d"  # invisible, but Persian and Hindi are misspelt without them
STYLE = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so the layout is the same on every machine
    "font.size": 11,
    "text.parse_math": False,  # a class may well be called "$5"
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.facecolor": "none",
    "axes.labelcolor": COLOURS["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "grid.color": COLOURS["line"],
    "xtick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["soft"],
    "ytick.color": COLOURS["line"],
    "ytick.labelcolor": COLOURS["ink"],
    "xtick.labelsize": 10,
    "ytick.labelsize": 11,
}

P = ParamSpec("P")
Row = Mapping[str, Any]


def styled(build: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure builder under `STYLE` alone, whatever the user's own matplotlib settings are."""

    @wraps(build)
    def under_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return build(*args, **kwargs)

    return under_style


def cells(text: str) -> int:
    """Count the character cells of a text: two for a wide (East Asian) character, one for any other."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def printable(text: str) -> str:
    """Replace control characters, which XML cannot hold and which can turn a line around, by U+FFFD."""
    return "".join(c if unicodedata.category(c)[0] != "C" or c in JOINERS else "\ufffd" for c in text)


def shorten(text: str, limit: int = 16) -> str:
    """Fit an untrusted label into `limit` cells by cutting its middle: names often differ only at the end."""
    shown = printable(text)
    if cells(shown) <= limit:
        return shown
    head, tail = shown, shown
    while cells(head) > limit // 2:
        head = head[:-1]
    while cells(tail) > limit - limit // 2 - 1:
        tail = tail[1:]
    return f"{head.rstrip()}…{tail.lstrip()}"


@styled
def class_balance(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> Figure:
    """Draw one panel of horizontal bars per split: images per class; `counts[split][label]`."""
    names = [shorten(label) for label in classes]
    left, gap, tall = _room(names), 14, 20 * len(classes)
    figure = _figure(WIDTH, tall + 26)
    wide = (WIDTH - left - gap * (len(counts) - 1)) / len(counts)
    for column, (split, of_class) in enumerate(counts.items()):
        axes = _axes(figure, left + column * (wide + gap), 24, wide, tall)
        _bars(axes, [of_class.get(label, 0) for label in classes], names if column == 0 else [])
        axes.set_title(split, loc="left", fontsize=11, color=COLOURS["soft"])
    return figure


def _bars(axes: Axes, values: Sequence[int], names: Sequence[str]) -> None:
    axes.barh(range(len(values)), values, height=0.62, color=COLOURS["accent"])
    for row, value in enumerate(values):
        axes.annotate(f"{value:,}", (value, row), (4, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set(xlim=(0, max([*values, 1]) * 1.5), ylim=(len(values) - 0.5, -0.5), xticks=[])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)


@styled
def head_path(path: Sequence[LinearTrial | Trial], chosen: float) -> Figure:
    """Draw the head's validation balanced accuracy against C, its inverse regularisation; marks the chosen C."""
    figure = _figure(WIDTH, 200)
    axes = _axes(figure, 52, 14, WIDTH - 68, 142)
    points = _points(sorted(path, key=attrgetter("c")), "c", "val_balanced_accuracy")
    axes.plot(*zip(*points, strict=True), "o-", color=COLOURS["accent"])
    _mark(axes, points, chosen, f"C = {chosen:g}")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(LogLocator(numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda c, _: f"{c:g}"))
    axes.set_xlabel("C: weaker regularisation to the right")
    _scale(axes, share=True)
    return figure


@styled
def learning_curve(points: Sequence[CurvePoint]) -> Figure:
    """Draw cross-validated balanced accuracy against labels per class, on a scale where each doubling is a step."""
    figure = _figure(WIDTH, 190)
    axes = _axes(figure, 52, 14, WIDTH - 68, 132)
    coordinates = _points(points, "labels_per_class", "balanced_accuracy")
    axes.plot(*zip(*coordinates, strict=True), "o-", color=COLOURS["accent"])
    axes.set_xscale("log", base=2)
    axes.set_xticks([x for x, _ in coordinates], [f"{x:g}" for x, _ in coordinates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labels per class")
    _mark(axes, coordinates, coordinates[-1][0], "all labels")
    _scale(axes, share=True)
    return figure


@styled
def fine_tuning_curve(epochs: Sequence[Epoch], best: int) -> Figure:
    """Draw validation balanced accuracy (above) and both log losses (below) by epoch; marks the best epoch."""
    figure = _figure(WIDTH, 350)
    upper, lower = _axes(figure, 52, 26, WIDTH - 68, 110), _axes(figure, 52, 182, WIDTH - 68, 124)
    for axes, key, colour, name in (
        (upper, "val_balanced_accuracy", "accent", ""),
        (lower, "val_log_loss", "accent", "validation"),
        (lower, "train_loss", "second", "training"),
    ):
        if points := _points(epochs, "epoch", key):
            axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[colour], label=name)
    _mark(upper, _points(epochs, "epoch", "val_balanced_accuracy"), best, f"epoch {best}")
    for axes, title in ((upper, "balanced accuracy, validation"), (lower, "log loss")):
        axes.set_title(title, loc="left", fontsize=11, color=COLOURS["soft"])
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        _scale(axes, share=axes is upper)
        axes.set_xlim(-0.4, max(epoch.epoch for epoch in epochs) + 0.4)
    lower.set_xlabel("epoch (0: the head as it was grafted on)")
    lower.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, frameon=False, fontsize=10, handlelength=1.4)
    return figure


@styled
def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Draw how often each true class (row) was predicted as each class (column), counts [n, n]; n up to about 30."""
    side = min(64.0, max(22.0, 300 / len(classes)))
    names, square = [shorten(label, 14) for label in classes], side * len(classes)
    left, top = max(_room(names) + 24, 62), _room(names) * 0.75 + 12
    figure = _figure(max(left + square + 0.6 * _room(names), 280), top + square + 4)
    axes = _axes(figure, left, top, square, square)
    letter = min(14.0, 0.4 * side, 1.4 * side / len(f"{max(map(max, counts))}"))
    for row, of_truth in enumerate(counts):
        for column, count in enumerate(of_truth):
            _tile(axes, row, column, count / max(1, sum(of_truth)))
            axes.text(column + 0.5, row + 0.5, f"{count or ''}", ha="center", va="center_baseline", fontsize=letter)
    axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0), ylabel="truth", xlabel="named")
    axes.yaxis.set_label_coords(-(left - 14) / square, 0.5)
    axes.xaxis.set_label_coords(-12 / square, 1 + 4 / square)
    axes.xaxis.label.set_horizontalalignment("right")
    _name_both_ways(axes, names)
    return figure


def _tile(axes: Axes, row: int, column: int, share: float) -> None:
    colour = "line" if share == 0 else "accent" if row == column else "bad"
    # At most 0.45: the count stands on top in the ink of the page and must stay legible, light or dark
    shade = 0.3 if share == 0 else 0.12 + 0.33 * share
    axes.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, color=COLOURS[colour], alpha=shade, lw=0))


def _name_both_ways(axes: Axes, names: Sequence[str]) -> None:
    middles = np.arange(len(names)) + 0.5
    axes.set_yticks(middles, names)
    axes.set_xticks(middles, names, rotation=45, ha="left", rotation_mode="anchor", fontsize=11)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, labelcolor=COLOURS["ink"])
    axes.spines[:].set_visible(False)


@dataclass(frozen=True)
class Dot:
    """A share in [0, 1], with its interval if there is one; the chosen one is drawn in the accent."""

    name: str
    chosen: bool
    value: float
    low: float | None = None
    high: float | None = None


@styled
def accuracy_intervals(dots: Sequence[Dot], baseline: float, baseline_name: str) -> Figure:
    """Draw one row for each dot.

    `baseline` is drawn only near them: further away it would squeeze the intervals into one corner.
    """
    ends = [end for dot in dots for end in (dot.low, dot.value, dot.high) if end is not None]
    lowest, highest = min(ends), max(ends)
    shown = [baseline] if lowest - baseline < NEARBY else []
    left, tall = _room(dot.name for dot in dots), 26 * len(dots)
    figure = _figure(WIDTH, tall + 28 + 20 * len(shown))
    axes = _axes(figure, left, 6, WIDTH - left - 62, tall)
    for row, dot in enumerate(dots):
        _draw(axes, row, dot)
    start, stop = min([lowest, *shown]) - 0.02, max([highest, *shown]) + 0.02
    axes.set(xlim=(max(0.0, start), min(1.0, stop)), ylim=(len(dots) - 0.5, -0.5))
    for share in shown:
        _dashed(axes, share, shorten(baseline_name, 30))
    axes.set_yticks(range(len(dots)), [dot.name for dot in dots])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    return figure


def _dashed(axes: Axes, share: float, name: str) -> None:
    axes.axvline(share, color=COLOURS["second"], lw=1.2, ls=(0, (4, 3)))
    axes.annotate(
        name,
        (share, 0),
        (0, -26),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        color=COLOURS["second"],
        fontsize=10,
        va="center",
        ha="left" if share < sum(axes.get_xlim()) / 2 else "right",
    )


def _draw(axes: Axes, row: int, dot: Dot) -> None:
    colour, weight = (COLOURS["accent"], "bold") if dot.chosen else (COLOURS["soft"], "normal")
    if dot.low is not None and dot.high is not None:
        axes.plot([dot.low, dot.high], [row, row], color=colour, lw=3, alpha=0.5, solid_capstyle="round")
    axes.plot(dot.value, row, "o", color=colour, ms=8, clip_on=False)
    axes.annotate(
        _percent(dot.value),
        (1, row),
        (10, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        weight=weight,
    )


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width / 72, height / 72))


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    across, down = (72 * inches for inches in figure.get_size_inches())
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _room(names: Iterable[str]) -> float:
    return LETTER * max(map(cells, names), default=0) + 10


def _points(rows: Iterable[object], x: str, y: str) -> list[tuple[float, float]]:
    points = ((getattr(row, x), getattr(row, y)) for row in rows)
    return [(across, up) for across, up in points if up is not None and np.isfinite(up)]


def _mark(axes: Axes, points: Sequence[tuple[float, float]], chosen: float, name: str) -> None:
    """Highlight the chosen point with its value above it, inwards if it is the first or the last."""
    positions = [x for x, _ in points]
    align = "left" if chosen == min(positions) else "right" if chosen == max(positions) else "center"
    for x, y in points:
        if x == chosen:
            axes.plot(x, y, "o", color=COLOURS["accent"], ms=10)
            axes.annotate(
                f"{name}: {_percent(y)}",
                (x, y),
                (0, 11),
                textcoords="offset points",
                ha=align,
                weight="bold",
                bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1},
            )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _scale(axes: Axes, share: bool) -> None:
    axes.margins(x=0.08, y=0.3)  # the words of a mark stand above the highest point
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    if share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
