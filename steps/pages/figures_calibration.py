"""Figures of the chapter on calibration: reliability of the probabilities, and what abstaining gains."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from steps.evaluation.results import CalibrationReport, CoverageRisk, ReliabilityBin
from steps.pages.figures import COLOURS, WIDTH, _axes, _figure, styled


def drawn(report: CalibrationReport | None) -> Iterator[tuple[str, Figure, str]]:
    """Yield the chapter's figures with names and alternative text; none if the model was not calibrated."""
    if report is None:
        return
    figure = reliability(report.before.reliability, report.after.reliability)
    yield ("calibration_reliability", figure, "Share of right answers by the probability given, before and after")
    figure = coverage_risk(report.curve, report.coverage.known)
    yield ("calibration_risk", figure, "Share of wrong answers by the share of images answered, surest first")


@styled
def reliability(before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin]) -> Figure:
    """Draw accuracy against the mean probability of each bin; the dashed line is perfect calibration."""
    figure = _figure(WIDTH, 250)
    axes = _axes(figure, 52, 26, WIDTH - 68, 178)
    low = min(min(row.confidence, row.accuracy.known) for row in (*before, *after))
    axes.plot([low, 1], [low, 1], color=COLOURS["soft"], lw=1.2, ls=(0, (4, 3)))
    for rows, colour, name in ((before, "second", "before"), (after, "accent", "after")):
        points = [(row.confidence, row.accuracy.known) for row in rows]
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[colour], label=name)
    for row in after:
        axes.plot([row.confidence] * 2, row.accuracy.ends, color=COLOURS["accent"], lw=3, alpha=0.25)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, frameon=False, fontsize=10, handlelength=1.4)
    axes.set_title("right", loc="left", fontsize=11, color=COLOURS["soft"])
    axes.set_xlabel("probability given")
    _shares(axes)
    return figure


@styled
def coverage_risk(curve: Sequence[CoverageRisk], coverage: float) -> Figure:
    """Draw the share of wrong answers if only the surest images are answered; the dashed line is the threshold."""
    figure = _figure(WIDTH, 220)
    axes = _axes(figure, 52, 26, WIDTH - 68, 148)
    shares = [row.coverage for row in curve]
    low, high = zip(*(row.risk.ends for row in curve), strict=True)
    axes.fill_between(shares, low, high, color=COLOURS["accent"], alpha=0.18, lw=0)
    axes.plot(shares, [row.risk.known for row in curve], "o-", color=COLOURS["accent"])
    axes.axvline(coverage, color=COLOURS["second"], lw=1.2, ls=(0, (4, 3)))
    axes.set_title("wrong", loc="left", fontsize=11, color=COLOURS["soft"])
    axes.set_xlabel("images answered, the surest first")
    _shares(axes)
    axes.set_ylim(bottom=0)
    return figure


def _shares(axes: Any) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, min_n_ticks=2))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
