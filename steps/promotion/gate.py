"""The gate to production, pure: what was measured and the rules in, a verdict with all its reasons out.

Each rule only ever adds refusals, so one more rule never lets a model through that was refused before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from annotated_types import Ge, Gt, Interval

from steps.checks.rule import RuleResult
from steps.checks.rules import KEY_OF
from steps.evaluation.results import Judgement, PairedComparison, SliceJudgement
from steps.runtime.binding import Share, nearest
from steps.runtime.figure import Figure

if TYPE_CHECKING:  # it loads SciPy
    from steps.evaluation.falls import Change

VALUE, LOW = "value", "low"
SUPERIOR: Final = "superior"
NON_INFERIOR: Final = "non_inferior"
ALL = "all"
Proper = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """What a challenger has to earn; None switches a rule off. params.yaml says what each one means."""

    floor: Proper | None
    floor_by: Literal["value", "low"]
    comparison: Literal["superior", "non_inferior"] | None
    margin: Proper
    max_recall_drop: Share | None
    max_slice_drop: Share | None
    max_breached_slices: Annotated[int, Ge(0)] | None
    max_calibration_error: Proper | None
    max_latency_ratio: Annotated[float, Gt(0)] | None
    max_bytes: Annotated[int, Gt(0)] | None
    look_budget: Annotated[int, Ge(1)]
    look_limit: int | None
    blocking_warnings: tuple[str, ...]

    def faults(self) -> Iterator[str]:
        """Yield rules that contradict one another."""
        if self.comparison == NON_INFERIOR and self.margin == 0:
            yield f"margin is 0; {NON_INFERIOR} needs to know how much worse is still as good"
        if self.look_budget > (self.look_limit or self.look_budget):
            yield f"look_budget is {self.look_budget} and look_limit {self.look_limit}; at least 1, and not above it"
        yield from (fault for word in self.blocking_warnings for fault in _key_faults(word))


def _key_faults(word: str) -> Iterator[str]:
    keys = [ALL, *sorted({*KEY_OF.values()} - {""})]
    if word in KEY_OF:
        key = f"its key is {KEY_OF[word]!r}" if KEY_OF[word] else "it has no severity, and never warns"
        yield f"blocking_warnings has {word!r}, the sentence of a rule; {key}"
    elif word not in keys:
        yield f"blocking_warnings has {word!r}, the key of no check{nearest(word, keys)}"


@dataclass(frozen=True, kw_only=True)
class ChallengerFacts:
    """All that the rules look at; what was not measured is None or empty, and no rule speaks of it.

    `comparison` is the challenger (a) less its opponent (b) on the same images. `recalls` and `slice_changes` are the
    changes of classes and slices from the opponent to the challenger, `size` is in bytes. `looks` says why these test
    images may decide nothing more, if that is so. `checks` are the rules of the data gates as their reports list them.
    """

    challenger: Judgement
    comparison: PairedComparison | None = None
    opponent: str = "the champion"
    recalls: "Sequence[Change]" = ()
    slice_changes: "Sequence[Change]" = ()
    slices: Sequence[SliceJudgement] = ()
    calibration_error: Figure | None = None
    latency_ratio: float | None = None
    size: int | None = None
    looks: str | None = None
    checks: Sequence[RuleResult] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger becomes champion; a refusal lists every reason, not the first."""

    promote: bool
    reasons: tuple[str, ...]


def decide(facts: ChallengerFacts, rules: GateRules) -> Verdict:
    """Promote a challenger that breaks no rule."""
    refusals = [reason for rule in RULES for reason in rule(facts, rules)]
    return Verdict(False, tuple(refusals)) if refusals else Verdict(True, (_earned(facts, rules),))


def _earned(facts: ChallengerFacts, rules: GateRules) -> str:
    cleared = "" if rules.floor is None else f" clears the floor of {_share(rules.floor)}"
    told = f"balanced accuracy {_figure(facts.challenger.balanced_accuracy)}{cleared}"
    if facts.comparison is None:
        return f"{told}; no champion before it"
    return f"{told}; {_difference(facts.comparison, facts.opponent)}"


def _floor(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    figure = facts.challenger.balanced_accuracy
    value = figure.value if rules.floor_by == VALUE else figure.low
    if rules.floor is None or (value is not None and value >= rules.floor):
        return
    what = f"balanced accuracy {_figure(figure)}"
    if rules.floor_by == LOW:
        what = f"the lower end of balanced accuracy {_figure(figure)}"
    yield f"{what} is under the floor of {_share(rules.floor)} (promote.floor)"


def _comparison(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    found = facts.comparison
    if found is None or rules.comparison is None or _holds(found, rules):
        return
    wanted = f"better by more than {_points(rules.margin)}"
    if rules.comparison == NON_INFERIOR:
        wanted = f"at most {_points(rules.margin)} worse"
    yield f"{_difference(found, facts.opponent)}: that it is {wanted} is not shown (promote.comparison, promote.margin)"


def _holds(found: PairedComparison, rules: GateRules) -> bool:
    """Return whether the interval of the difference meets the rule; "better" also requires McNemar's exact test.

    Where images come in groups the interval knows of them and the test does not; where two differ alike on every
    image, or on none, there may be no interval, and the test and the figure speak.
    """
    least = found.difference if found.low is None else found.low
    if rules.comparison == NON_INFERIOR:
        return least > -rules.margin
    return least > rules.margin and found.mcnemar_p < 1 - found.confidence


def _recalls(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    yield from _falls(facts, facts.recalls, "recall", rules.max_recall_drop, "promote.max_recall_drop")


def _slice_changes(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    yield from _falls(facts, facts.slice_changes, "accuracy", rules.max_slice_drop, "promote.max_slice_drop")


def _falls(
    facts: ChallengerFacts, found: "Sequence[Change]", figure: str, limit: float | None, rule: str
) -> Iterator[str]:
    if facts.comparison is None or limit is None:
        return
    from steps.evaluation.falls import shown

    for one, p in shown(found, limit, 1 - facts.comparison.confidence):
        yield (
            f"{one.part}: {figure} falls by {100 * one.drop:.1f} points against {facts.opponent}, of {one.n:,} images "
            f"{one.lost:,} lost and {one.won:,} won: that it falls by more than {_points(limit)} is shown, "
            f"Holm's p = {p:.2g} ({rule})"
        )


def _slices(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    breached = [part for part in facts.slices if part.breached]
    if rules.max_breached_slices is None or len(breached) <= rules.max_breached_slices:
        return
    for part in breached:
        limit = "" if part.limit is None else f", where {_share(part.limit)} is the least"
        yield (
            f"slice {part.column} = {part.value}: accuracy {_figure(part.accuracy)} on {part.n:,} images"
            f"{limit} (promote.max_breached_slices)"
        )


def _calibration(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    limit, found = rules.max_calibration_error, facts.calibration_error
    if limit is None or found is None or not found.above(limit):  # its value is above zero by mere chance
        return
    yield f"expected calibration error {_figure(found)}, at most {_share(limit)} (promote.max_calibration_error)"


def _latency(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    limit, found = rules.max_latency_ratio, facts.latency_ratio
    if limit is not None and found is not None and found > limit:
        yield (
            f"it takes {found:.2f} times as long as {facts.opponent} on the same images, at most {limit:g} times "
            "(promote.max_latency_ratio)"
        )


def _size(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    if rules.max_bytes is not None and facts.size is not None and facts.size > rules.max_bytes:
        yield f"its files hold {facts.size:,} bytes, at most {rules.max_bytes:,} (promote.max_bytes)"


def _looks(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    if rules.look_limit is not None and facts.looks:
        yield facts.looks


def _warnings(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    known = {KEY_OF[check.name] for check in facts.checks} - {""}
    for key in rules.blocking_warnings:
        if facts.checks and key not in (ALL, *known):
            yield f"no check is called {key!r}; there are: {', '.join(sorted(known))} (promote.blocking_warnings)"
    for check in facts.checks:
        if not check.passed and {ALL, KEY_OF[check.name]} & set(rules.blocking_warnings):
            yield f"the data gate warns of {check.name}: {check.what} (promote.blocking_warnings)"


RULES = (_floor, _comparison, _recalls, _slice_changes, _slices, _calibration, _latency, _size, _looks, _warnings)


def _difference(found: PairedComparison, opponent: str) -> str:
    value = found.difference
    told = "as good as" if value == 0 else f"{100 * abs(value):.1f} points {'better' if value > 0 else 'worse'} than"
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" (interval {100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return (
        f"{told} {opponent}{interval} on the same {found.n:,} test images, {found.only_a:,} won and "
        f"{found.only_b:,} lost (McNemar p = {found.mcnemar_p:.2g})"
    )


def _figure(figure: Figure) -> str:
    share = f"{100 * figure.known:.1f} %"
    if figure.low is None or figure.high is None:
        return share
    return f"{share} ({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def _share(limit: float) -> str:
    """Format a limit of params.yaml as it was set: 0.925 as 92.5 %."""
    return f"{100 * limit:.6g} %"


def _points(limit: float) -> str:
    return f"{100 * limit:.6g} points"
