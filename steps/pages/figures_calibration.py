"""Figures of the chapter on calibration: reliability of the probabilities, and what abstaining gains."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from steps.pages.figures import COLOURS, WIDTH, Row, _axes, _figure, styled

Found = Mapping[str, Any]  # of one model, as `calibration.verified` returns it


def drawn(found: Found | None) -> Iterator[tuple[str, Figure, str]]:
    """Yield the chapter's figures with their names and words; none where the model was not calibrated."""
    if found is None:
        return
    figure = reliability(found["before"]["reliability"], found["after"]["reliability"])
    yield ("calibration_reliability", figure, "Share of right answers by the probability given, before and after")
    figure = coverage_risk(found["curve"], found["coverage"]["value"])
    yield ("calibration_risk", figure, "Share of wrong answers by the share of images answered, surest first")


@styled
def reliability(before: Sequence[Row], after: Sequence[Row]) -> Figure:
    """Draw the share that was right against the mean probability of each bin; the dashed line is honesty."""
    figure = _figure(WIDTH, 250)
    axes = _axes(figure, 52, 26, WIDTH - 68, 178)
    low = min(min(row["confidence"], row["accuracy"]["value"]) for row in (*before, *after))
    axes.plot([low, 1], [low, 1], color=COLOURS["soft"], lw=1.2, ls=(0, (4, 3)))
    for rows, colour, name in ((before, "second", "before"), (after, "accent", "after")):
        places = [(row["confidence"], row["accuracy"]["value"]) for row in rows]
        axes.plot(*zip(*places, strict=True), "o-", color=COLOURS[colour], label=name)
    for row in after:
        ends = (row["accuracy"]["low"], row["accuracy"]["high"])
        axes.plot([row["confidence"]] * 2, ends, color=COLOURS["accent"], lw=3, alpha=0.25)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, frameon=False, fontsize=10, handlelength=1.4)
    axes.set_title("right", loc="left", fontsize=11, color=COLOURS["soft"])
    axes.set_xlabel("probability given")
    _shares(axes)
    return figure


@styled
def coverage_risk(curve: Sequence[Row], coverage: float) -> Figure:
    """Draw the share of wrong answers if only the surest images are answered; the dashed line is the threshold's."""
    figure = _figure(WIDTH, 220)
    axes = _axes(figure, 52, 26, WIDTH - 68, 148)
    shares = [row["coverage"] for row in curve]
    low, high = ([row["risk"][end] for row in curve] for end in ("low", "high"))
    axes.fill_between(shares, low, high, color=COLOURS["accent"], alpha=0.18, lw=0)
    axes.plot(shares, [row["risk"]["value"] for row in curve], "o-", color=COLOURS["accent"])
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
