"""A verdict follows from its figures, and names every reason."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.checks.rule import RuleResult
from steps.checks.rules import KEY_OF
from steps.evaluation.falls import Change
from steps.evaluation.results import Judgement, PairedComparison, SliceJudgement
from steps.promotion.gate import ChallengerFacts, GateRules, decide
from steps.runtime.figure import Figure
from steps.runtime.params import faults_of
from tests.outputs import COMPARISON, JUDGED, SLICE

OFF = GateRules(
    floor=None,
    floor_by="value",
    comparison=None,
    margin=0.0,
    keep_classes=False,
    max_recall_drop=None,
    max_slice_drop=None,
    max_breached_slices=None,
    max_calibration_error=None,
    max_latency_ratio=None,
    max_bytes=None,
    look_budget=1,
    look_limit=None,
    blocking_warnings=(),
    min_unseen_per_class=None,
)


def judged(value: float, low: float | None = None, high: float | None = None) -> Judgement:
    return replace(JUDGED, n=60, balanced_accuracy=Figure(value, low, high, "posterior"))


def against(value: float, low: float | None = None, high: float | None = None, p: float = 0.01) -> PairedComparison:
    return replace(COMPARISON, n=60, only_a=9, only_b=3, p=p, difference=value, low=low, high=high)


def slice_of(breached: bool) -> SliceJudgement:
    return replace(SLICE, value="night", n=20, accuracy=Figure(0.4, 0.3, 0.5, "Wilson"), limit=0.6, breached=breached)


def error(low: float) -> Figure:
    return Figure(low + 0.1, low, low + 0.2, "triangle bound")


FELL = Change(part="class cat", n=40, won=2, lost=22, effective=40)
DIMMED = Change(part="slice source = night", n=40, won=2, lost=22, effective=40)
WARNED = RuleResult(
    "classes are balanced",
    False,
    "12 times",
    (),
    "warn",
    "at most 10 times",
    "largest over smallest class",
    "Add images.",
)
GOOD = ChallengerFacts(challenger=judged(0.9, 0.8, 0.95))
RIVAL = replace(GOOD, comparison=against(0.0, p=1.0))
CASES = [
    (replace(GOOD), {"floor": 0.9}, None),
    (replace(GOOD), {"floor": 0.91}, "balanced accuracy 90.0 % (80.0 to 95.0) is under the floor of 91 %"),
    (replace(GOOD), {"floor": 0.8, "floor_by": "low"}, None),
    (replace(GOOD), {"floor": 0.85, "floor_by": "low"}, "the lower end of balanced accuracy 90.0 % (80.0 to"),
    (replace(GOOD, challenger=judged(0.9)), {"floor": 0.1, "floor_by": "low"}, "is under the floor of 10 %"),
    (GOOD, {"comparison": "superior", "margin": 0.1}, None),
    (replace(GOOD, comparison=against(0.1, 0.02, 0.2)), {"comparison": "superior"}, None),
    (
        replace(GOOD, comparison=against(0.1, 0.02, 0.2, p=0.03)),
        {"comparison": "superior", "margin": 0.02},
        "10.0 points better than the champion (interval +2.0 to +20.0) on the same 60 test images, 9 won and 3 lost "
        "(exact sign-flip test, one-sided p = 0.03): that it is better by more than 2 points is not shown, p would "
        "have to be below 0.025 (promote.comparison, promote.margin)",
    ),
    (replace(GOOD, comparison=against(0.1, -0.01, 0.2)), {"comparison": "superior"}, None),
    (replace(GOOD, comparison=against(0.1, 0.02, 0.2, p=0.026)), {"comparison": "superior"}, "is not shown"),
    (
        replace(GOOD, comparison=against(-0.1, -0.2, 0.0, p=0.5)),
        {"comparison": "non_inferior", "margin": 0.1},
        "10.0 points worse than the champion (interval -20.0 to +0.0) on the same 60 test images, 9 won and 3 lost "
        "(exact sign-flip test, one-sided p = 0.5); plain accuracy rises by 10.0 points: that it is at most 10 points "
        "worse is not shown",
    ),
    (replace(GOOD, comparison=against(-0.01, -0.05, 0.1)), {"comparison": "non_inferior", "margin": 0.1}, None),
    (replace(GOOD, comparison=against(0.0, p=1.0)), {"comparison": "superior"}, "as good as the champion on the same"),
    (replace(GOOD, comparison=against(0.0, p=0.001)), {"comparison": "non_inferior", "margin": 0.1}, None),
    (replace(GOOD, comparison=against(1.0, p=0.01)), {"comparison": "superior"}, None),
    (
        replace(GOOD, comparison=against(1.0, p=0.2)),
        {"comparison": "superior"},
        "100.0 points better than the champion on",
    ),
    (
        replace(RIVAL, recalls=[FELL]),
        {"max_recall_drop": 0.2},
        "class cat: recall falls by 50.0 points against the champion, of 40 images 22 lost and 2 won: that it falls by "
        "more than 20 points is shown, Holm's p = 0.0038",
    ),
    (replace(RIVAL, recalls=[FELL]), {"max_recall_drop": 0.4}, None),
    (replace(RIVAL, recalls=[replace(FELL, n=5, won=0, lost=4, effective=5)]), {"max_recall_drop": 0.2}, None),
    (replace(RIVAL, recalls=[replace(FELL, effective=3)]), {"max_recall_drop": 0.2}, None),
    (
        replace(RIVAL, slice_changes=[DIMMED]),
        {"max_slice_drop": 0.2},
        "slice source = night: accuracy falls by 50.0 points",
    ),
    (replace(RIVAL, slice_changes=[DIMMED]), {"max_slice_drop": 0.5}, None),
    (replace(RIVAL, slice_changes=[DIMMED]), {"max_recall_drop": 0.0}, None),
    (replace(GOOD, slices=[slice_of(True)]), {"max_breached_slices": 1}, None),
    (
        replace(GOOD, slices=[slice_of(True), slice_of(False)]),
        {"max_breached_slices": 0},
        "slice source = night: accuracy 40.0 % (30.0 to 50.0) on 20 images, where 60 % is the least",
    ),
    (replace(GOOD, calibration_error=error(0.1)), {"max_calibration_error": 0.1}, None),
    (
        replace(GOOD, calibration_error=error(0.11)),
        {"max_calibration_error": 0.1},
        "calibration error 21.0 % (11.0 to 31.0), at most 10 %",
    ),
    (GOOD, {"max_calibration_error": 0.1}, None),
    (replace(GOOD, latency_ratio=1.5), {"max_latency_ratio": 1.5}, None),
    (replace(GOOD, latency_ratio=1.6), {"max_latency_ratio": 1.5}, "it takes 1.60 times as long as the champion"),
    (replace(GOOD, size=10), {"max_bytes": 10}, None),
    (replace(GOOD, size=11), {"max_bytes": 10}, "its files hold 11 bytes, at most 10"),
    (replace(GOOD, looks="looked at 30 times"), {"look_limit": 20}, "looked at 30 times"),
    (
        replace(GOOD, checks=[WARNED]),
        {"blocking_warnings": ("imbalance",)},
        "warns of classes are balanced: largest over",
    ),
    (replace(GOOD, checks=[WARNED]), {"blocking_warnings": ("all",)}, "the data gate warns of classes are balanced"),
    (replace(GOOD, checks=[replace(WARNED, passed=True)]), {"blocking_warnings": ("imbalance",)}, None),
    (replace(GOOD, checks=[WARNED]), {"blocking_warnings": ("balance",)}, "no check is called 'balance'; there are"),
]


@pytest.mark.parametrize(("facts", "rules", "refusal"), CASES)
def test_each_rule_speaks_where_it_is_broken_and_only_there(
    facts: ChallengerFacts, rules: dict[str, Any], refusal: str | None
) -> None:
    assert decide(facts, OFF).promote, "a rule that is off was asked"
    found = decide(facts, replace(OFF, **rules))
    assert found.promote == (refusal is None), found.reasons
    assert len(found.reasons) == 1
    assert refusal is None or refusal in found.reasons[0]


def test_a_refusal_lists_every_reason() -> None:
    facts = replace(
        GOOD,
        recalls=[FELL],
        shortage="too few images are left (promote.min_unseen_per_class)",
        slice_changes=[DIMMED],
        size=11,
        calibration_error=error(0.2),
        latency_ratio=3.0,
        looks="too often (promote.look_limit)",
        slices=[slice_of(True)],
        checks=[WARNED],
        comparison=against(-0.1, -0.2, 0.0, p=1.0),
    )
    rules = GateRules(
        floor=0.95,
        floor_by="value",
        comparison="superior",
        margin=0.0,
        keep_classes=True,
        max_recall_drop=0.0,
        max_slice_drop=0.0,
        max_breached_slices=0,
        max_calibration_error=0.1,
        max_latency_ratio=1.0,
        max_bytes=1,
        look_budget=1,
        look_limit=1,
        blocking_warnings=("all",),
        min_unseen_per_class=1,
    )
    named = [
        "floor",
        "comparison",
        "min_unseen_per_class",
        "max_recall_drop",
        "max_slice_drop",
        "max_breached_slices",
        "max_calibration_error",
        "max_latency_ratio",
        "max_bytes",
        "look_limit",
        "blocking_warnings",
    ]
    reasons = decide(facts, rules).reasons
    assert len(reasons) == len(named)
    assert all(f"(promote.{name}" in reason for name, reason in zip(named, reasons, strict=True))


@pytest.mark.parametrize(
    "rule",
    [
        {"min_unseen_per_class": 1},
        {"comparison": "superior"},
        {"max_recall_drop": 0.2},
        {"max_slice_drop": 0.1},
        {"max_latency_ratio": 2.0},
    ],
)
def test_who_was_not_compared_passes_no_rule_that_compares(rule: dict[str, Any]) -> None:
    none_left = replace(GOOD, shortage="none is left to compare the two on")
    assert decide(none_left, replace(OFF, **rule)).reasons == ("none is left to compare the two on",)
    assert decide(none_left, replace(OFF, floor=0.5)).promote, "no rule that is on compares"


def test_whom_it_was_held_against_is_named() -> None:
    found = decide(replace(RIVAL, opponent="version 3", recalls=[FELL]), replace(OFF, max_recall_drop=0.0))
    assert "falls by 50.0 points against version 3, of 40" in found.reasons[0]
    assert "as good as version 3 on the same" in decide(replace(RIVAL, opponent="version 3"), OFF).reasons[0]


def test_what_earned_promotion_is_said_with_its_figures() -> None:
    assert decide(GOOD, replace(OFF, floor=0.5)).reasons == (
        "balanced accuracy 90.0 % (80.0 to 95.0) clears the floor of 50 %; no champion before it",
    )
    better = replace(GOOD, comparison=against(0.1, 0.02, 0.2))
    assert decide(better, replace(OFF, comparison="superior")).reasons == (
        "balanced accuracy 90.0 % (80.0 to 95.0); 10.0 points better than the champion (interval +2.0 to +20.0) on the "
        "same 60 test images, 9 won and 3 lost (exact sign-flip test, one-sided p = 0.01)",
    )


def test_p_decides_and_not_the_interval_and_one_night_in_forty_promotes_by_chance() -> None:
    rules = replace(OFF, comparison="superior")
    for p, promoted in ((0.024, True), (0.026, False), (0.5, False), (1.0, False)):
        assert decide(replace(GOOD, comparison=against(0.1, p=p)), rules).promote == promoted


def test_what_happens_to_plain_accuracy_is_said_where_it_goes_the_other_way() -> None:
    worse = replace(GOOD, comparison=replace(against(0.067, p=0.001), n=1000, only_a=20, only_b=60))
    assert (
        decide(worse, replace(OFF, comparison="superior"))
        .reasons[0]
        .endswith("20 won and 60 lost (exact sign-flip test, one-sided p = 0.001); plain accuracy falls by 4.0 points")
    )


def test_other_classes_ask_a_person_and_another_task_is_refused_by_no_rule() -> None:
    changed = replace(RIVAL, changed_classes=True)
    assert [decide(changed, replace(OFF, keep_classes=kept)).asks for kept in (True, False)] == [True, False]
    assert not decide(RIVAL, replace(OFF, keep_classes=True)).asks
    assert decide(replace(GOOD, another_task="another task"), OFF).reasons == ("another task",)


shares = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])
facts_of = st.builds(
    ChallengerFacts,
    challenger=st.one_of(st.builds(judged, shares), st.builds(judged, shares, shares, st.just(0.95))),
    comparison=st.one_of(
        st.none(),
        st.builds(against, st.sampled_from([-0.1, 0.0, 0.1])),
        st.builds(against, st.sampled_from([-0.1, 0.0, 0.1]), st.sampled_from([-0.2, 0.05]), st.just(0.3)),
    ),
    recalls=st.sampled_from([(), (FELL,)]),
    slice_changes=st.sampled_from([(), (DIMMED,)]),
    changed_classes=st.booleans(),
    shortage=st.sampled_from([None, "too few images"]),
    another_task=st.sampled_from([None, "another task"]),
    slices=st.sampled_from([(), (slice_of(True),), (slice_of(False),)]),
    calibration_error=st.none() | st.builds(error, shares),
    latency_ratio=st.none() | st.sampled_from([0.5, 2.0]),
    size=st.none() | st.integers(0, 20),
    looks=st.sampled_from([None, "looked at too often"]),
    checks=st.sampled_from([(), (WARNED,)]),
)
limits = {
    "floor": shares,
    "keep_classes": st.just(True),
    "min_unseen_per_class": st.integers(1, 9),
    "comparison": st.sampled_from(["superior", "non_inferior"]),
    "max_recall_drop": shares,
    "max_slice_drop": shares,
    "max_breached_slices": st.integers(0, 1),
    "max_calibration_error": shares,
    "max_latency_ratio": st.sampled_from([0.4, 1.0, 3.0]),
    "max_bytes": st.integers(1, 20),
    "look_limit": st.integers(1, 9),
    "blocking_warnings": st.sampled_from([("imbalance",), ("all",), ("unknown",)]),
}
some_rules = st.fixed_dictionaries({}, optional=limits)


@pytest.mark.exhaustive
@given(facts_of, some_rules, st.sampled_from(sorted(limits)), st.data())
def test_one_more_rule_never_turns_a_refusal_into_a_promotion(
    facts: ChallengerFacts, rules: dict[str, Any], added: str, data: st.DataObject
) -> None:
    without = replace(OFF, **{name: value for name, value in rules.items() if name != added})
    more = replace(without, **{added: data.draw(limits[added])})
    assert set(decide(facts, without).reasons) <= set(decide(facts, more).reasons) or decide(facts, without).promote
    assert decide(facts, without).promote or not decide(facts, more).promote


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ({"floor_by": "high"}, "floor_by is 'high'; one of value, low"),
        ({"comparison": "better"}, "comparison is 'better'; one of superior, non_inferior, or null"),
        ({"comparison": "non_inferior"}, "margin is 0; non_inferior needs to know"),
        ({"floor": 1.0}, "floor is 1.0; from 0 to below 1, or null"),
        ({"max_latency_ratio": 0.0}, "max_latency_ratio is 0.0; above 0, or null"),
        ({"max_recall_drop": -0.1}, "max_recall_drop is -0.1; 0 to 1, or null"),
        ({"max_slice_drop": 1.1}, "max_slice_drop is 1.1; 0 to 1, or null"),
        ({"look_budget": 3, "look_limit": 2}, "look_budget is 3 and look_limit 2; at least 1, and not above it"),
        ({"max_breached_slices": -1}, "max_breached_slices is -1; at least 0, or null"),
    ],
)
def test_rules_that_are_none_are_faults(rules: dict[str, Any], fault: str) -> None:
    assert [*faults_of(GateRules, vars(OFF), "promote")] == []
    assert [text for text in faults_of(GateRules, {**vars(OFF), **rules}, "promote") if fault in text]


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("leakage", None),
        ("like_images", None),
        ("all", None),
        ("leekage", "blocking_warnings has 'leekage', not the key of a check; did you mean 'leakage'?"),
        ("xyz", "not the key of a check (known: all, alike_labels, conflicting_labels,"),
        ("no copy in two splits", "the sentence of a rule; its key is 'leakage'"),
        ("no like image in two splits", "the sentence of a rule; its key is 'like_images'"),
        ("two classes or more", "the sentence of a rule; it has no severity, and never warns"),
        ("domain_shift", None),
        ("splits look alike", "the sentence of a rule; its key is 'domain_shift'"),
    ],
)
def test_blocking_warnings_are_keys_and_a_sentence_is_answered_with_its_key(word: str, fault: str | None) -> None:
    faults = list(faults_of(GateRules, {**vars(OFF), "blocking_warnings": (word,)}, "promote"))
    assert len(faults) == (fault is not None) and (fault or "") in "".join(faults)


def test_a_key_stands_for_all_of_its_rules() -> None:
    for name in (name for name, key in KEY_OF.items() if key == "leakage"):
        warned = replace(GOOD, checks=[replace(WARNED, name=name)])
        assert decide(warned, replace(OFF, blocking_warnings=("leakage",))).reasons == (
            f"the data gate warns of {name}: largest over smallest class (promote.blocking_warnings)",
        )
