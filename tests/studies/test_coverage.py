"""The simulation of our intervals is itself put to test: its truths are true, and a bad interval is seen."""

import numpy as np
import pytest

from steps.evaluation import calibration, intervals
from steps.runtime.figure import Figure
from tests.studies import coverage, crowds


def test_the_world_is_as_hard_as_asked_and_the_model_means_what_it_says() -> None:
    targets, _, odds, _ = coverage.calibrated(0.9).draw(200_000, np.random.default_rng(3))
    answers = coverage.answers(odds)
    assert ((odds > 0) == targets).mean() == pytest.approx(0.9, abs=0.003)
    assert answers.max(axis=1).mean() == pytest.approx(0.9, abs=0.003)
    error = calibration.calibration_error(answers, targets, 10, intervals.sampled(targets), 0.95)
    assert error.known < 0.005


def test_every_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rows = list(coverage.coverage(0.8, 1.0, 60))
    assert {row["figure"] for row in rows} == {*coverage.FIGURES, *coverage.OF_SET}
    assert all(row["coverage"] >= 0.85 for row in rows), "60 sets; the whole table takes 10,000"


def test_an_interval_that_is_too_narrow_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, truth = coverage.FIGURES["log-loss"]

    def narrow(drawn: coverage.Set) -> Figure:
        value = measure(drawn).known
        return Figure(value, value - 1e-6, value + 1e-6, "too narrow")

    monkeypatch.setitem(coverage.FIGURES, "log-loss", (narrow, truth))
    (row,) = coverage.coverage(0.8, 1.0, 20, "log-loss")
    assert row["coverage"] < 0.2


def test_alike_models_raise_few_alarms_and_unlike_ones_are_told_apart() -> None:
    assert coverage.paired(0.8, 0.3, 0.3, 40)["verdict"] <= 0.15
    found = coverage.paired(0.98, 0.0, 1.0, 20)
    assert found["difference"] > 0.2 and found["verdict"] == 1.0


@pytest.mark.parametrize("crowd", [crowds.Crowd(20, 5), crowds.Crowd(4, 100, 10, 0.5)])
def test_a_crowd_is_as_hard_as_asked_and_its_groups_are_alike(crowd: crowds.Crowd) -> None:
    targets, groups, answers = crowd.draw(crowd.sharpness(0.8), 400, np.random.default_rng(0))
    right = answers.argmax(axis=1) == targets
    assert right.mean() == pytest.approx(0.8, abs=0.01)
    assert np.bincount(groups).tolist() == [crowd.size] * (len(targets) // crowd.size)
    assert answers.max(axis=1).mean() == pytest.approx(0.8, abs=0.01), "it means what it says"
    assert (intervals.design_effect(right.astype(float), groups) > 2) == (crowd.size > 1)


@pytest.mark.exhaustive
def test_in_crowds_the_intervals_hold_the_truth_and_no_slice_is_accused_for_nothing() -> None:
    for crowd in (crowds.Crowd(20, 5), crowds.Crowd(2, 200, 10, 0.5)):
        held = crowds.crowded(crowd, 0.8, 60)
        accused = held.pop("slices")
        assert min(held.values()) >= 0.85 and accused <= 0.15, "60 sets; the whole table takes 10,000"
