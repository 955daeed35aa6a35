"""A verdict follows from its figures, and names every reason."""

from hypothesis import given
from hypothesis import strategies as st

from steps.training.choice import FINE_TUNED, HEAD, choose
from steps.training.histories import Scores

shares = st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
losses = st.sampled_from([0.1, 0.5, 2.0])


def figures(balanced: float, loss: float) -> Scores:
    return Scores(0.123, balanced, loss, 40)


@given(shares, losses, shares, losses)
def test_fine_tuning_goes_forward_only_where_it_is_better(head: float, hl: float, tuned: float, tl: float) -> None:
    found = choose({HEAD: figures(head, hl), FINE_TUNED: figures(tuned, tl)}, moved=True)
    better = tuned > head or (tuned == head and tl < hl)
    assert found.chosen == (FINE_TUNED if better else HEAD)
    assert f"{100 * tuned:.1f} % against the head's {100 * head:.1f} % on 40 validation images" in found.reason
    assert ("lower log-loss" in found.reason) == (better and tuned == head)


def test_a_network_that_never_left_its_start_is_no_gain_by_a_rounding_error() -> None:
    """At epoch 0 it is the head fitted on train alone; NumPy and torch differ by 1e-10 in its log-loss."""
    found = choose({HEAD: figures(0.9, 0.5), FINE_TUNED: figures(0.9, 0.5 - 1e-10)}, moved=False)
    assert found.chosen == HEAD


def test_where_nothing_was_trained_there_is_nothing_to_compare() -> None:
    found = choose({HEAD: figures(0.815, 0.5), FINE_TUNED: figures(0.815, 0.5)}, moved=False, trained=False)
    assert found.chosen == HEAD
    assert found.reason == "the strategy trains the head alone; nothing was fine-tuned"


def test_a_tie_goes_to_the_head() -> None:
    found = choose({HEAD: figures(0.9, 0.5), FINE_TUNED: figures(0.9, 0.5)}, moved=True)
    assert found.chosen == HEAD
    assert found.reason.startswith("fine-tuning was no better: balanced accuracy 90.0 % against the head's 90.0 %")
