"""A verdict follows from its figures, and names every reason."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.core.decision import FINE_TUNED, HEAD, choose, decide

shares = st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
losses = st.sampled_from([0.1, 0.5, 2.0])


def figures(balanced: float, loss: float) -> dict[str, float]:
    return {"accuracy": 0.123, "balanced_accuracy": balanced, "log_loss": loss, "n": 40}


def judged(value: float, n: int = 60) -> dict[str, Any]:
    return {"n": n, "accuracy": {"value": 0.123}, "balanced_accuracy": {"value": value, "low": 0.0, "high": 1.0}}


@given(shares, losses, shares, losses)
def test_fine_tuning_goes_forward_only_where_it_is_better(head: float, hl: float, tuned: float, tl: float) -> None:
    found = choose({HEAD: figures(head, hl), FINE_TUNED: figures(tuned, tl)}, moved=True)
    better = tuned > head or (tuned == head and tl < hl)
    assert found.chosen == (FINE_TUNED if better else HEAD)
    assert f"{tuned:.3f} against the head's {head:.3f} on 40 validation images" in found.reason
    assert ("lower log-loss" in found.reason) == (better and tuned == head)


def test_a_network_that_never_left_its_start_is_no_gain_by_a_rounding_error() -> None:
    """At epoch 0 it is the head fitted on train alone; NumPy and torch differ by 1e-10 in its log-loss."""
    found = choose({HEAD: figures(0.9, 0.5), FINE_TUNED: figures(0.9, 0.5 - 1e-10)}, moved=False)
    assert found.chosen == HEAD


def test_a_tie_goes_to_the_head() -> None:
    found = choose({HEAD: figures(0.9, 0.5), FINE_TUNED: figures(0.9, 0.5)}, moved=True)
    assert found.chosen == HEAD
    assert found.reason.startswith("fine-tuning was no better: balanced accuracy 0.900 against the head's 0.900")


@given(shares, st.none() | shares, shares, st.sampled_from([0.0, 0.1, 0.25]))
def test_a_challenger_is_promoted_only_if_no_rule_speaks_against_it(
    value: float, champion: float | None, floor: float, margin: float
) -> None:
    found = decide(judged(value), None if champion is None else judged(champion), floor, margin)
    under = value < floor
    beaten = champion is not None and value <= champion + margin
    assert found.promote == (not under and not beaten)
    assert len(found.reasons) == max(1, under + beaten)
    assert any("promote.floor" in reason for reason in found.reasons) == under
    assert any("promote.margin" in reason for reason in found.reasons) == beaten


@pytest.mark.parametrize(
    ("challenger", "champion", "promote", "reasons"),
    [
        (0.9, None, True, ["balanced accuracy 0.900 clears the floor of 0.5; no champion before it"]),
        (0.9, 0.8, True, ["balanced accuracy 0.900, the champion's is 0.800"]),
        (0.4, None, False, ["balanced accuracy 0.400 is under the floor of 0.5 (promote.floor)"]),
        (0.4, 0.6, False, [
            "balanced accuracy 0.400 is under the floor of 0.5 (promote.floor)",
            "balanced accuracy 0.400 does not beat the champion's 0.600 by more than 0.02 "
            "on the same 60 test images (promote.margin)",
        ]),
    ],
)  # fmt: skip
def test_the_reasons_are_sentences_with_the_figures(
    challenger: float, champion: float | None, promote: bool, reasons: list[str]
) -> None:
    found = decide(judged(challenger), None if champion is None else judged(champion), 0.5, 0.02)
    assert (found.promote, list(found.reasons)) == (promote, reasons)


def test_the_floor_itself_is_enough_and_the_margin_itself_is_not() -> None:
    assert decide(judged(0.5), None, 0.5, 0.0).promote
    assert not decide(judged(0.75), judged(0.5), 0.5, 0.25).promote
    assert not decide(judged(0.75), judged(0.75), 0.5, 0.0).promote
