"""The figures of calibration draw the bins and the curve that they were given."""

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from steps.pages import figures_calibration as figures
from tests.outputs import CLASSES, honest

FOUND = honest(CLASSES)["calibration"]["fine_tuned"]


def lines(figure: Figure) -> list[tuple[list[float], list[float]]]:
    found = [line.get_data() for line in figure.axes[0].get_lines()]
    return [(list(x), list(y)) for x, y in found]


def test_a_model_that_was_not_calibrated_has_no_figures() -> None:
    assert list(figures.drawn(None)) == []
    assert [name for name, _, _ in figures.drawn(FOUND)] == ["calibration_reliability", "calibration_risk"]


def test_reliability_draws_both_times_their_intervals_and_the_line_of_honesty() -> None:
    after = [replace(row, confidence=row.confidence - 0.05) for row in FOUND.after.reliability]
    found = lines(figures.reliability(FOUND.before.reliability, after))
    assert found[0] == ([0.5, 1], [0.5, 1]), "from the lowest share on"
    assert found[1] == ([0.6, 0.8, 0.95], pytest.approx([0.5, 0.7, 0.85]))
    assert found[2] == (pytest.approx([0.55, 0.75, 0.9]), pytest.approx([0.5, 0.7, 0.85]))
    assert found[3] == (pytest.approx([0.55, 0.55]), pytest.approx([0.3, 0.6]))


def test_the_risk_is_drawn_over_the_share_answered_and_the_threshold_stands_where_it_is() -> None:
    figure = figures.coverage_risk(FOUND.curve, 0.9)
    risk, threshold = lines(figure)
    assert risk == ([0.2, 0.6, 1.0], pytest.approx([0.02, 0.06, 0.1]))
    assert threshold[0] == [0.9, 0.9]
    assert figure.axes[0].get_ylim()[0] == 0
