"""One rule of the gates: what is checked, its limit, and what to say and to do if it is broken."""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from steps.errors import RejectedError

Table = Literal[  # a row is
    "images",  # an image of the manifest, with its columns
    "classes",  # a class, with its counts in train, val and test
    "lost",  # a class that the images used before had, and these have not
    "alike",  # a pair of classes whose names look alike
    "totals",  # the whole set
    "labelled",  # an image with a label
    "population",  # a split, with its distance from the stated shares
    "sources",  # the whole set
    "coverage",  # a source or month
    "shortcuts",  # a plain measure of the images
    "preprocessing",  # a field of the preprocessing
    "observed",  # the whole sample that was observed
    "wanted",  # a question that the weights were asked
    "features",  # the whole set, as the features show it
    "splits",  # validation or test, compared with training
    "shift",  # the whole comparison with production
]
MAY_BE_ABSENT: frozenset[Table] = frozenset(
    {"lost", "alike", "population", "coverage", "shortcuts", "observed", "wanted"}
)
Kind = Literal["columns", "matches", "between", "in_set", "unique", "one_value", "preprocessing"]
SHOWN = 10  # files or values named in a message
Level = Literal["fail", "warn", "off"]
FAIL, OFF = "fail", "off"
SHARE, POINTS, TIMES, NATS = "%", "points", "times", "nats"  # units; for counts, the plural of what is counted
ONE = {"images": "image", "classes": "class", "groups": "group", "sources": "source", "pixels": "pixel"}
INTO = "into data/decisions.csv (first line `image,decision,label,note`)"


@dataclass(frozen=True)
class Rule:
    """One expectation over one table, with its text for people.

    `kind` one_value: one value of `column` for each `per`. `severity` is fail (the gate refuses) or warn, and `key` the
    field of params.yaml's `severity` that sets it, empty for a rule that always has to hold. `hints`: its files are
    worth a look even if it holds.
    """

    name: str
    _: KW_ONLY
    table: Table
    kind: Kind
    column: str
    what: str
    remedy: str
    low: float | None = None
    high: float | None = None
    allowed: tuple[str, ...] = ()
    severity: str = FAIL
    key: str = ""
    per: str = ""
    unit: str = ""
    hints: bool = False

    @property
    def limit(self) -> str:
        """Return the limit in words, with every digit as given."""
        if self.kind == "between":
            if self.low is None and self.high == 0:
                return "none"
            bounds = [("at least", self.low), ("at most", self.high)]
            return " and ".join(
                f"{word} {self._with_unit(self._exact(bound), bound)}" for word, bound in bounds if bound is not None
            )
        listed = ", ".join(self.allowed)
        words = {
            "in_set": f"one of {listed}" if len(self.allowed) > 1 else listed,
            "unique": "no two alike",
            "matches": f"the pattern {listed}",
            "columns": listed,
            "one_value": "none",
            "preprocessing": "equal",
        }
        return words[self.kind]

    def number(self, value: float) -> str:
        """Format a value of `column` without its unit: a share in per cent, a count with thousands separators.

        Rounded, but never across a limit: a value that breaks a rule is never shown as one that the rule allows.
        """
        scaled = self._scaled(value)
        finer = (f"{scaled:,.{digits}g}" for digits in range(2, 17))
        usual = f"{scaled:.1f}" if self.unit in (SHARE, POINTS) else _short(scaled)
        return next((text for text in (usual, *finer) if self._is_true(text, value)), f"{scaled:,}")

    def shown(self, value: float) -> str:
        """Format a value of `column` with its unit."""
        return self._with_unit(self.number(value), value)

    def _scaled(self, value: float) -> float:
        return float(100 * value if self.unit in (SHARE, POINTS) else value)

    def _exact(self, bound: float) -> str:
        return f"{self._scaled(bound):,.15g}"  # 100 * 0.07 is 7.000000000000001

    def _is_true(self, text: str, value: float) -> bool:
        """Return whether a rounded text lies on the same side of each (printed) limit as the value itself."""
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        return all(_side(_parsed(text), _parsed(self._exact(bound))) == _side(value, bound) for bound in bounds)

    def _with_unit(self, text: str, value: float) -> str:
        return f"{text} {ONE.get(self.unit, self.unit) if value == 1 else self.unit}".rstrip()


def _short(value: float) -> str:
    whole = value.is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{round(value, 3):g}"


def _parsed(text: str) -> float:
    return float(text.replace(",", ""))


def _side(value: float, bound: float) -> int:
    return int(value > bound) - int(value < bound)


def governed(every: Iterable[Rule], severity: object) -> Sequence[Rule]:
    """Give each rule that has a key its level, a field of `severity`; leave out those that are off."""
    levelled = [replace(rule, severity=getattr(severity, rule.key)) if rule.key else rule for rule in every]
    return [rule for rule in levelled if rule.severity != OFF]


@dataclass(frozen=True)
class RuleResult:
    """The result of a rule in the reports of the gates; `where` lists the paths of files, sorted."""

    name: str
    passed: bool
    observed: str
    where: tuple[str, ...]
    severity: str
    limit: str
    what: str
    remedy: str

    @property
    def refuses(self) -> bool:
        """Return True if the data is rejected for it."""
        return not self.passed and self.severity == FAIL


def refusal(results: Sequence[RuleResult]) -> RejectedError | None:
    """Return an error that describes each rule that rejects the data; None if none does."""
    broken = [result for result in results if result.refuses]
    if not broken:
        return None
    lines = [f"the data was rejected: {len(broken)} rule{'s' if len(broken) > 1 else ''} broken"]
    for rule in broken:
        lines += [
            f"  {rule.name}: {rule.what}",
            f"      found   {rule.observed}",
            *([f"      where   {some(rule.where)}"] if rule.where else []),
            f"      limit   {rule.limit}",
            f"      remedy  {rule.remedy}",
        ]
    return RejectedError("\n".join(lines))


def some(items: Sequence[str]) -> str:
    """Return the first few items, and how many more there are, as text."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more
