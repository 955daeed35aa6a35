"""The gate to production, pure: takes measurements and rules, returns a verdict with all its reasons.

A rule can only add refusals, so one more rule never admits a model that was refused before.
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
    """The rules that a challenger must meet; None switches a rule off. params.yaml explains each one."""

    floor: Proper | None
    floor_by: Literal["value", "low"]
    comparison: Literal["superior", "non_inferior"] | None
    margin: Proper
    keep_classes: bool
    max_recall_drop: Share | None
    max_slice_drop: Share | None
    max_breached_slices: Annotated[int, Ge(0)] | None
    max_calibration_error: Proper | None
    max_latency_ratio: Annotated[float, Gt(0)] | None
    max_bytes: Annotated[int, Gt(0)] | None
    look_budget: Annotated[int, Ge(1)]
    look_limit: int | None
    blocking_warnings: tuple[str, ...]
    min_unseen_per_class: Annotated[int, Ge(1)] | None

    @property
    def least(self) -> float:
        """Return the difference that has to be exceeded: the margin, below 0 if as good is enough; 0 without a rule."""
        return {SUPERIOR: self.margin, NON_INFERIOR: -self.margin}.get(self.comparison or "", 0.0)

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
        yield f"blocking_warnings has {word!r}, not the key of a check{nearest(word, keys)}"


@dataclass(frozen=True, kw_only=True)
class ChallengerFacts:
    """Everything that the rules check; what was not measured is None or empty, and no rule checks it.

    `comparison` is the challenger (a) minus its opponent (b) on the same images. `recalls` and `slice_changes` are the
    changes of classes and slices from the opponent to the challenger, `size` is in bytes. `changed_classes` is True if
    the two do not know the same classes. `another_task`, `shortage` and `looks` are the reasons, if there are any, why
    nothing can be compared, why too few images are left to compare on, and why these decide nothing any more.
    `unopposed` says why there is no comparison where nothing needs one. `checks` are the rules of the data gates as
    listed in their reports.
    """

    challenger: Judgement
    comparison: PairedComparison | None = None
    opponent: str = "the champion"
    unopposed: str = "no champion before it"
    recalls: "Sequence[Change]" = ()
    slice_changes: "Sequence[Change]" = ()
    changed_classes: bool = False
    another_task: str | None = None
    shortage: str | None = None
    slices: Sequence[SliceJudgement] = ()
    calibration_error: Figure | None = None
    latency_ratio: float | None = None
    size: int | None = None
    looks: str | None = None
    checks: Sequence[RuleResult] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger becomes champion; a refusal lists every reason, not only the first.

    `asks` is True if a person has to approve, whatever `promote.approval` says.
    """

    promote: bool
    reasons: tuple[str, ...]
    asks: bool = False


def decide(facts: ChallengerFacts, rules: GateRules) -> Verdict:
    """Promote a challenger that breaks no rule."""
    refusals = [reason for rule in RULES for reason in rule(facts, rules)]
    if refusals:
        return Verdict(False, tuple(refusals))
    return Verdict(True, (_earned(facts, rules),), asks=rules.keep_classes and facts.changed_classes)


def _earned(facts: ChallengerFacts, rules: GateRules) -> str:
    cleared = "" if rules.floor is None else f" clears the floor of {_share(rules.floor)}"
    text = f"balanced accuracy {_figure(facts.challenger.balanced_accuracy)}{cleared}"
    if facts.comparison is None:
        return f"{text}; {facts.unopposed}"
    return f"{text}; {_difference(facts.comparison, facts.opponent)}"


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
    comparison = facts.comparison
    if comparison is None or rules.comparison is None or comparison.p < comparison.level:
        return
    wanted = f"better by more than {_points(rules.margin)}"
    if rules.comparison == NON_INFERIOR:
        wanted = f"at most {_points(rules.margin)} worse"
    yield (
        f"{_difference(comparison, facts.opponent)}: that it is {wanted} is not shown, "
        f"p would have to be below {comparison.level:.3g} (promote.comparison, promote.margin)"
    )


def _task(facts: ChallengerFacts, _rules: GateRules) -> Iterator[str]:
    """No rule switches this off: a test on images that only one of the two can name shows nothing."""
    if facts.another_task:
        yield facts.another_task


def _shortage(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    """Refuse what was not compared if any rule needs the comparison: on no images each of them would pass."""
    needs = (
        rules.min_unseen_per_class,
        rules.comparison,
        rules.max_recall_drop,
        rules.max_slice_drop,
        rules.max_latency_ratio,
    )
    if facts.shortage and any(rule is not None for rule in needs):
        yield facts.shortage


def _recalls(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    yield from _falls(facts, facts.recalls, "recall", rules.max_recall_drop, "promote.max_recall_drop")


def _slice_changes(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    yield from _falls(facts, facts.slice_changes, "accuracy", rules.max_slice_drop, "promote.max_slice_drop")


def _falls(
    facts: ChallengerFacts, changes: "Sequence[Change]", figure: str, limit: float | None, rule: str
) -> Iterator[str]:
    if facts.comparison is None or limit is None:
        return
    from steps.evaluation.falls import shown

    for change, p in shown(changes, limit, 1 - facts.comparison.confidence):
        yield (
            f"{change.part}: {figure} falls by {100 * change.drop:.1f} points against {facts.opponent}, "
            f"of {change.n:,} images {change.lost:,} lost and {change.won:,} won: "
            f"that it falls by more than {_points(limit)} is shown, "
            f"Holm's p = {p:.2g} ({rule})"
        )


def _slices(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    breached = [judgement for judgement in facts.slices if judgement.breached]
    if rules.max_breached_slices is None or len(breached) <= rules.max_breached_slices:
        return
    for judgement in breached:
        limit = "" if judgement.limit is None else f", where {_share(judgement.limit)} is the least"
        yield (
            f"slice {judgement.column} = {judgement.value}: accuracy {_figure(judgement.accuracy)} "
            f"on {judgement.n:,} images{limit} (promote.max_breached_slices)"
        )


def _calibration(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    limit, error = rules.max_calibration_error, facts.calibration_error
    if limit is None or error is None or not error.above(limit):  # its value exceeds zero by chance alone
        return
    yield f"classwise calibration error {_figure(error)}, at most {_share(limit)} (promote.max_calibration_error)"


def _latency(facts: ChallengerFacts, rules: GateRules) -> Iterator[str]:
    limit, ratio = rules.max_latency_ratio, facts.latency_ratio
    if limit is not None and ratio is not None and ratio > limit:
        yield (
            f"it takes {ratio:.2f} times as long as {facts.opponent} on the same images, at most {limit:g} times "
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


RULES = (
    _floor,
    _comparison,
    _task,
    _shortage,
    _recalls,
    _slice_changes,
    _slices,
    _calibration,
    _latency,
    _size,
    _looks,
    _warnings,
)


def _difference(comparison: PairedComparison, opponent: str) -> str:
    value = round(comparison.difference, 12)  # weights that cancel leave 1e-17
    how = "as good as" if value == 0 else f"{100 * abs(value):.1f} points {'better' if value > 0 else 'worse'} than"
    interval = ""
    if comparison.low is not None and comparison.high is not None:
        interval = f" (interval {100 * comparison.low:+.1f} to {100 * comparison.high:+.1f})"
    return (
        f"{how} {opponent}{interval} on the same {comparison.n:,} test images, {comparison.only_a:,} won and "
        f"{comparison.only_b:,} lost ({comparison.test}, one-sided p = {comparison.p:.2g}){_opposed(comparison)}"
    )


def _opposed(comparison: PairedComparison) -> str:
    """Say if plain accuracy points the other way: with unequal classes it can."""
    plain = (comparison.only_a - comparison.only_b) / comparison.n
    if plain * round(comparison.difference, 12) >= 0:
        return ""
    return f"; plain accuracy {'rises' if plain > 0 else 'falls'} by {100 * abs(plain):.1f} points"


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
