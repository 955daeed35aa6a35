"""The four quadrants, the head that has nothing left to win, the override and the budget."""

from dataclasses import replace

import pytest

from steps.runtime.figure import Figure
from steps.training.strategy import (
    EARLY_FEATURES,
    EVERYTHING,
    FROM_SCRATCH,
    HEAD_ONLY,
    LATER_BLOCKS,
    STRATEGIES,
    Evidence,
    StrategyRules,
    epoch_flops,
    expected,
    later,
    plan_training,
)

RULES = StrategyRules(strategy="auto", least_labels=50, settled=0.02, headroom=0.05, later_share=0.5, budget_flops=None)
BLOCKS = {"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0}


def estimate(value: float, width: float = 0.01) -> Figure:
    return Figure(value, value - width, value + width, "smoothed bootstrap")


def evidence(
    labels: int = 100, doubling: float = 0.0, better: float = -0.05, error: float = 0.3, worth: float = 0.2
) -> Evidence:
    earlier = {"a": estimate(-0.2), "b": estimate(better)}
    return Evidence(labels, error, estimate(doubling), earlier, estimate(worth), BLOCKS, images=7)


@pytest.mark.parametrize(
    ("measured", "wanted", "cut", "blocks"),
    [
        (evidence(labels=20), HEAD_ONLY, "", 0),
        (evidence(doubling=0.03), HEAD_ONLY, "", 0),  # the head itself still wants labels
        (evidence(), LATER_BLOCKS, "", 2),
        (evidence(labels=20, better=0.05), EARLY_FEATURES, "b", 0),
        (evidence(better=0.05), EVERYTHING, "", 4),
        (evidence(better=0.005), LATER_BLOCKS, "", 2),  # an interval that holds 0 shows no difference
        (evidence(error=0.05), HEAD_ONLY, "", 0),
        (evidence(worth=-0.05), FROM_SCRATCH, "", 4),
        (evidence(worth=-0.05, better=0.05), FROM_SCRATCH, "", 4),
        (evidence(worth=-0.005), LATER_BLOCKS, "", 2),  # not shown to be worth something is not worth nothing
        (evidence(worth=-0.05, labels=20), HEAD_ONLY, "", 0),  # random weights need the labels most of all
        (evidence(worth=-0.05, error=0.05), HEAD_ONLY, "", 0),
    ],
)
def test_size_and_similarity_pick_the_quadrant(measured: Evidence, wanted: str, cut: str, blocks: int) -> None:
    plan = plan_training(measured, RULES)
    assert (plan.strategy, plan.cut, plan.blocks) == (wanted, cut, blocks)


def test_the_reasons_say_what_was_measured() -> None:
    size, similarity, worth, left = plan_training(evidence(error=0.04), RULES).reasons
    assert size.startswith("the data is large: 100 labels in the smallest class")
    assert "+0.0 points (-1.0 to +1.0)" in size
    assert similarity.startswith("the task is similar to the source: the best earlier cut, b,")
    assert worth.startswith("the weights are worth something: the best cut differs from a linear model")
    assert "errs on 4.0 %, not more than 5 %" in left


@pytest.mark.parametrize(
    ("better", "words"),
    [
        (-0.05, "the task is similar to the source"),
        (0.05, "the task is different from the source"),
        (0.005, "the task is not shown to be different from the source"),
        (-0.005, "the task is not shown to be different from the source"),
        (0.0, "the task is not shown to be different from the source"),
    ],
)
def test_similar_is_said_only_where_it_is_shown(better: float, words: str) -> None:
    plan = plan_training(evidence(better=better), RULES)
    assert plan.reasons[1].startswith(words)
    assert ("is then the default" in plan.reasons[1]) is ("not shown" in words)


@pytest.mark.parametrize(
    ("measured", "wanted", "advised"),
    [
        (evidence(worth=-0.05), "worth nothing here", False),
        (evidence(worth=0.005), "not shown to be worth anything", True),
        (evidence(worth=0.005, labels=20), "not shown to be worth anything", False),
        (evidence(worth=0.05), "worth something", False),
    ],
)
def test_the_reasons_say_when_training_from_scratch_is_worth_a_try(
    measured: Evidence, wanted: str, advised: bool
) -> None:
    reason = plan_training(measured, RULES).reasons[2]
    assert reason.startswith(f"the weights are {wanted}")
    assert ("from_scratch, by name, is worth a try" in reason) == advised


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_named_in_params_is_taken_whatever_was_measured(name: str) -> None:
    plan = plan_training(evidence(), replace(RULES, strategy=name))
    assert plan.strategy == name
    assert plan.reasons[0] == f"params.yaml asks for {name}"
    assert (plan.cut == "b") == (name == EARLY_FEATURES), "the best of the earlier cuts, though it is no better"


def test_with_one_cut_alone_similarity_is_said_to_be_unknown() -> None:
    plan = plan_training(replace(evidence(), earlier={}), RULES)
    assert plan.strategy == LATER_BLOCKS
    assert "similarity was not measured" in plan.reasons[1]
    assert plan_training(replace(evidence(), earlier={}), replace(RULES, strategy=EARLY_FEATURES)).cut == ""


def test_an_epoch_costs_every_block_forward_and_the_trained_ones_backward_twice() -> None:
    assert epoch_flops(evidence(), "", 0) == 0
    assert epoch_flops(evidence(), "", 1) == 7 * (100 + 2 * 40)
    assert epoch_flops(evidence(), "", 4) == 7 * 300
    assert epoch_flops(evidence(), "b", 1) == 7 * (30 + 2 * 20)


@pytest.mark.parametrize(
    ("budget", "strategy", "blocks"),
    [(2100, EVERYTHING, 4), (2000, LATER_BLOCKS, 3), (1300, LATER_BLOCKS, 1), (100, HEAD_ONLY, 0)],
)
def test_a_budget_trains_fewer_blocks_and_says_so(budget: float, strategy: str, blocks: int) -> None:
    plan = plan_training(evidence(better=0.05), replace(RULES, budget_flops=budget))
    assert (plan.strategy, plan.blocks) == (strategy, blocks)
    assert epoch_flops(evidence(), plan.cut, plan.blocks) <= budget
    assert (f"{blocks} blocks, not 4" in plan.reasons[-1]) == (blocks < 4)


def test_from_scratch_over_the_budget_falls_back_on_the_weights_and_says_why() -> None:
    plan = plan_training(evidence(), replace(RULES, strategy=FROM_SCRATCH, budget_flops=1300))
    assert (plan.strategy, plan.blocks) == (LATER_BLOCKS, 1)
    assert plan.reasons[-1].endswith("random ones cannot stay frozen")
    assert plan_training(evidence(), replace(RULES, strategy=FROM_SCRATCH, budget_flops=2100)).strategy == FROM_SCRATCH


def test_the_costs_of_all_strategies_stand_side_by_side_and_one_is_chosen() -> None:
    plan = plan_training(evidence(), RULES)
    costs = expected(evidence(), plan, RULES)
    assert [cost.strategy for cost in costs] == list(STRATEGIES)
    assert [cost.strategy for cost in costs if cost.chosen] == [LATER_BLOCKS]
    assert costs[0].epoch_flops == 0 < costs[1].epoch_flops < costs[3].epoch_flops
    assert costs[3].epoch_flops == costs[4].epoch_flops, "an epoch from scratch trains everything, too"


@pytest.mark.parametrize(("depth", "share", "wanted"), [(9, 0.5, 4), (1, 0.5, 1), (2, 1.0, 1), (9, 0.0, 1)])
def test_later_blocks_are_at_least_one_and_never_all_where_there_are_two(depth: int, share: float, wanted: int) -> None:
    assert later(depth, share) == wanted
