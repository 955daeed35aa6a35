"""How much of a backbone to train: decided from measured size, measured similarity, and a budget. Pure, explained.

Four quadrants: few labels and a similar source, the head alone; many and similar, the later blocks too; few and
different, a head on earlier features; many and different, everything. If the weights are shown to be worth nothing
and there are many labels, everything from scratch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Interval

from steps.runtime.binding import Share
from steps.runtime.cuts import WHOLE
from steps.runtime.figure import Figure
from steps.training.histories import Scores

HEAD_ONLY, LATER_BLOCKS, EARLY_FEATURES, EVERYTHING = "head_only", "later_blocks", "early_features", "everything"
FROM_SCRATCH = "from_scratch"  # the architecture alone, from random weights
STRATEGIES = (HEAD_ONLY, LATER_BLOCKS, EARLY_FEATURES, EVERYTHING, FROM_SCRATCH)


@dataclass(frozen=True)
class StrategyRules:
    """The limits that divide the axes; see params.yaml."""

    strategy: Literal["auto", "head_only", "later_blocks", "early_features", "everything", "from_scratch"]
    least_labels: Annotated[int, Interval(ge=1, le=1_000_000)]
    settled: Share
    headroom: Share
    later_share: Share
    budget_flops: Annotated[float, Gt(0)] | None


@dataclass(frozen=True)
class Evidence:
    """Measurements on the training split, by heads that had not seen the images they answer for."""

    labels_per_class: int  # of the smallest class
    error: float  # 1 - balanced accuracy of the head on the whole backbone, from all labels
    last_doubling: Figure  # balanced accuracy: all labels less half of them
    earlier: Mapping[str, Figure]  # cut -> balanced accuracy there less that of the whole backbone
    worth: Figure  # balanced accuracy of the best cut less that of a linear model without the weights
    blocks: Mapping[str, float]  # every block that holds parameters, input side first -> FLOPs of its forward pass
    images: int  # per training epoch


@dataclass(frozen=True)
class Plan:
    """The plan: a head behind `cut`, and fine-tuning of the `blocks` nearest the output before the cut."""

    strategy: str
    cut: str
    blocks: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CurvePoint:
    """A point of the learning curve: labels per class (a mean, rounded), and the head's figures with that many."""

    labels_per_class: float
    accuracy: float
    balanced_accuracy: float
    log_loss: float
    n: int


@dataclass(frozen=True)
class Size:
    """The size of the data: labels of the smallest class, the learning curve, its last and its next doubling."""

    labels_per_class: int
    curve: tuple[CurvePoint, ...]
    last_doubling: Figure
    next_doubling: Figure


@dataclass(frozen=True, kw_only=True)
class CutScores:
    """How well the features of a cut tell the classes apart; `against_whole` is None for the whole backbone."""

    cut: str
    accuracy: float
    balanced_accuracy: float
    log_loss: float
    n: int
    c: float
    against_whole: Figure | None
    logme: float
    h_score: float
    source_divergence: float | None  # nats; None if the block keeps no statistics


@dataclass(frozen=True)
class Worth:
    """What the weights are worth: a linear model on the perceptual hash, and how far the best cut exceeds it."""

    perceptual_hash: Scores
    best_cut_less: Figure


@dataclass(frozen=True)
class StrategyCost:
    """The cost of a training epoch of one strategy."""

    strategy: str
    cut: str
    blocks: int
    epoch_flops: float
    chosen: bool


@dataclass(frozen=True)
class Cost:
    """The FLOPs of one image's forward pass, and the cost of each strategy."""

    image_flops: float
    strategies: tuple[StrategyCost, ...]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """strategy.json: a `Plan`, its reasons in words, and the measurements behind it."""

    strategy: str
    cut: str
    blocks: int
    pretrained: bool
    reasons: tuple[str, ...]
    size: Size
    similarity: tuple[CutScores, ...]
    worth: Worth
    cost: Cost


def plan_training(evidence: Evidence, rules: StrategyRules) -> Plan:
    """Return the strategy that the rules derive from the evidence, or the one that they name, within the budget."""
    large, size = _size(evidence, rules)
    cut, similarity = _similarity(evidence)
    worthless, worth = _worth(evidence, large)
    reasons: tuple[str, ...] = (size, similarity, worth)
    strategy: str = rules.strategy
    if strategy != "auto":
        reasons = (f"params.yaml asks for {strategy}", *reasons)
    else:
        strategy = _quadrant(evidence, rules, large, cut is not None, worthless)
        reasons += tuple(_why_not(evidence, rules, large, strategy))
    plan = _plan(strategy, cut, large, evidence, rules, reasons)
    return _within_budget(plan, evidence, rules)


def _size(evidence: Evidence, rules: StrategyRules) -> tuple[bool, str]:
    n, gain = evidence.labels_per_class, evidence.last_doubling.known
    enough, settled = n >= rules.least_labels, gain <= rules.settled
    words = (
        f"{n} labels in the smallest class (many: at least {rules.least_labels}), and the last doubling of labels "
        f"brought the head {_points(evidence.last_doubling)} (settled: at most {100 * rules.settled:g} points)"
    )
    return enough and settled, f"the data is {'large' if enough and settled else 'small'}: {words}"


def _similarity(evidence: Evidence) -> tuple[str | None, str]:
    """Return the earlier cut that is shown to be better than the whole backbone, None if there is none."""
    if not evidence.earlier:
        return None, "similarity was not measured: the features were extracted at one cut only"
    best = max(evidence.earlier, key=lambda name: evidence.earlier[name].known)
    against = evidence.earlier[best]
    difference = f"the best earlier cut, {best}, differs from the whole backbone by {_points(against)}"
    if against.above(0):
        return best, f"the task is different from the source: {difference}, so the last blocks lose what it needs"
    if against.below(0):
        return None, f"the task is similar to the source: {difference}, so the last blocks serve it"
    return None, (
        f"the task is not shown to be different from the source: {difference}; "
        "the whole backbone is then the default, as for a similar task"
    )


def _worth(evidence: Evidence, large: bool) -> tuple[bool, str]:
    """Return whether the weights are shown to be worthless: features no better than a picture's coarsest pattern."""
    difference = f"the best cut differs from a linear model on the perceptual hash by {_points(evidence.worth)}"
    if evidence.worth.above(0):
        return False, f"the weights are worth something: {difference}"
    if evidence.worth.high is not None and evidence.worth.high <= 0:
        return True, f"the weights are worth nothing here: {difference}"
    advice = "; from_scratch, by name, is worth a try" if large else ""
    return False, f"the weights are not shown to be worth anything: {difference}{advice}"


def _quadrant(evidence: Evidence, rules: StrategyRules, large: bool, different: bool, worthless: bool) -> str:
    if large and worthless and evidence.error > rules.headroom:
        return FROM_SCRATCH
    if different:
        return EVERYTHING if large else EARLY_FEATURES
    return LATER_BLOCKS if large and evidence.error > rules.headroom else HEAD_ONLY


def _why_not(evidence: Evidence, rules: StrategyRules, large: bool, strategy: str) -> Iterator[str]:
    error, limit = f"{100 * evidence.error:.1f} %", f"{100 * rules.headroom:g} %"
    if strategy == HEAD_ONLY and large:
        yield f"the head errs on {error}, not more than {limit}: too little is left for fine-tuning to win"
    if strategy in (LATER_BLOCKS, FROM_SCRATCH):
        yield f"the head errs on {error}, more than {limit}: there is something left for training to win"


def _plan(
    strategy: str, cut: str | None, large: bool, evidence: Evidence, rules: StrategyRules, why: tuple[str, ...]
) -> Plan:
    names = list(evidence.blocks)
    if strategy == EARLY_FEATURES:
        cut = cut or max(evidence.earlier, key=lambda name: evidence.earlier[name].known, default=WHOLE)
        depth = names.index(cut) + 1 if cut else len(names)
        return Plan(strategy, cut, later(depth, rules.later_share) if large else 0, why)
    blocks = {HEAD_ONLY: 0, LATER_BLOCKS: later(len(names), rules.later_share)}  # of the others: all
    return Plan(strategy, WHOLE, blocks.get(strategy, len(names)), why)


def later(depth: int, share: float) -> int:
    """Return how many of `depth` blocks count as the later ones: at least one, and never all if there are two."""
    return max(1, min(depth - 1, round(share * depth)))


def _within_budget(plan: Plan, evidence: Evidence, rules: StrategyRules) -> Plan:
    budget = rules.budget_flops
    cost = epoch_flops(evidence, plan.cut, plan.blocks)
    if budget is None or plan.blocks == 0 or cost <= budget:
        return plan
    blocks = next((k for k in range(plan.blocks - 1, 0, -1) if epoch_flops(evidence, plan.cut, k) <= budget), 0)
    reason = f"an epoch would cost {cost:.2g} FLOPs, budget_flops is {budget:.2g}: {blocks} blocks, not {plan.blocks}"
    if plan.strategy == FROM_SCRATCH:
        reason += ", and those from the backbone's weights: random ones cannot stay frozen"
    strategy = plan.strategy if plan.strategy == EARLY_FEATURES else LATER_BLOCKS if blocks else HEAD_ONLY
    return Plan(strategy, plan.cut, blocks, (*plan.reasons, reason))


def epoch_flops(evidence: Evidence, cut: str, blocks: int) -> float:
    """Return the FLOPs of one training epoch: every block forward, the trained ones backward too (twice a forward).

    0 if no block is trained: the head learns from cached features.
    """
    costs = list(evidence.blocks.values())
    depth = list(evidence.blocks).index(cut) + 1 if cut else len(costs)
    if blocks == 0:
        return 0.0
    return evidence.images * (sum(costs[:depth]) + 2 * sum(costs[depth - blocks : depth]))


def expected(evidence: Evidence, plan: Plan, rules: StrategyRules) -> tuple[StrategyCost, ...]:
    """Return the cost of an epoch of each strategy, the chosen one marked."""
    costs = []
    for strategy in STRATEGIES:
        alternative = plan if strategy == plan.strategy else _plan(strategy, None, False, evidence, rules, ())
        flops = epoch_flops(evidence, alternative.cut, alternative.blocks)
        costs.append(StrategyCost(strategy, alternative.cut, alternative.blocks, flops, strategy == plan.strategy))
    return tuple(costs)


def _points(difference: Figure) -> str:
    points = f"{100 * difference.known:+.1f} points"
    if difference.low is None or difference.high is None:
        return points
    return f"{points} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
