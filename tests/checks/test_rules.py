"""The gate's rules say their limits, and the totals that they look at are counted right."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.checks.feature_rules import ScreenSeverity, screen_rules
from steps.checks.rule import NATS, POINTS, SHARE, TIMES, Rule
from steps.checks.rules import KEY_OF, Severity, rules, totals
from steps.images.manifest import SPLITS, TEST, TRAIN, VAL, Row, class_counts
from steps.runtime.params import faults_of
from tests.made import every_key, limits

LIMITS = limits(
    min_train_per_class=3, min_val_per_class=4, min_test_per_class=5, max_imbalance=6.5, quarantine_limit=0.07
)
FAIL, SCREEN_FAIL = every_key(Severity, "fail"), every_key(ScreenSeverity, "fail")
GATE = {rule.name: rule for rule in rules(LIMITS, FAIL)}
STRUCTURE = 7  # rules that no severity switches off: without them nothing else means anything


def bare(kind: str, **more: Any) -> Rule:
    return Rule("r", table="images", kind=kind, column="c", what="what", remedy="remedy", **more)


@pytest.mark.parametrize(
    ("rule", "limit"),
    [
        (bare("between", low=5), "at least 5"),
        (bare("between", high=0.05), "at most 0.05"),
        (bare("between", high=0), "none"),
        (bare("between", low=5, unit="images"), "at least 5 images"),
        (bare("between", low=1, unit="classes"), "at least 1 class"),
        (bare("between", high=0.07, unit=SHARE), "at most 7 %"),
        (bare("between", high=0.0004, unit=SHARE), "at most 0.04 %"),
        (bare("between", high=0.0004, unit=NATS), "at most 0.0004 nats"),
        (bare("between", low=0.2, high=12000, unit=NATS), "at least 0.2 nats and at most 12,000 nats"),
        (bare("in_set", allowed=("as declared",)), "as declared"),
        (bare("between", low=0, high=1), "at least 0 and at most 1"),
        (bare("in_set", allowed=("train", "val")), "one of train, val"),
        (bare("matches", allowed=("[a-f]+",)), "the pattern [a-f]+"),
        (bare("columns", allowed=("id", "path")), "id, path"),
        (bare("unique"), "no two alike"),
        (bare("one_value"), "none"),
        (bare("preprocessing"), "equal"),
    ],
)
def test_a_limit_is_said_in_words(rule: Rule, limit: str) -> None:
    assert rule.limit == limit


@pytest.mark.parametrize(
    ("unit", "value", "said"),
    [
        (SHARE, 0.0305556, "3.1 %"),
        (SHARE, 1, "100.0 %"),
        (POINTS, 0.8571, "85.7 points"),
        ("images", 1, "1 image"),
        ("images", 76040, "76,040 images"),
        ("pixels", 1, "1 pixel"),
        (TIMES, 1.25, "1.25 times"),
        (TIMES, 1.0, "1 times"),
        (NATS, 0.0159852, "0.016 nats"),
        (NATS, 76040.4, "76,040 nats"),
        ("", 0.90004, "0.9"),
        ("", float("inf"), "inf"),
        ("", float("nan"), "nan"),
    ],
)
def test_a_value_is_said_with_its_unit_and_without_idle_digits(unit: str, value: float, said: str) -> None:
    assert bare("between", unit=unit).shown(value) == said


@pytest.mark.parametrize(
    ("unit", "limit", "value", "said"),
    [
        (SHARE, 0.0004, 0.0006, "0.1 %"),
        (SHARE, 0.05, 0.0504, "5.04 %"),
        (SHARE, 0.05, 0.0496, "4.96 %"),
        (SHARE, 0.05, 0.05, "5.0 %"),
        (SHARE, 0.05, 0.061, "6.1 %"),
        (SHARE, 0, 0.0004, "0.04 %"),
        (NATS, 8, 8.0000004, "8.0000004 nats"),
        (NATS, 12000, 12000.4, "12,000.4 nats"),
        ("", 0.2, 0.2001, "0.2001"),
    ],
)
def test_an_observation_has_the_digits_that_tell_it_from_the_limit(
    unit: str, limit: float, value: float, said: str
) -> None:
    assert bare("between", high=limit, unit=unit).shown(value) == said


@given(
    st.floats(0, 1),
    st.just(0.0) | st.floats(1e-12, 1) | st.floats(-1e-9, -1e-12),
    st.sampled_from([SHARE, POINTS, NATS, ""]),
)
def test_no_rounding_turns_a_broken_limit_into_a_kept_one(limit: float, distance: float, unit: str) -> None:
    limit = round(limit, 6)  # as somebody writes it
    value = abs(limit + distance)
    rule = bare("between", high=limit, unit=unit)
    bound = 0.0 if rule.limit == "none" else float(rule.limit.split()[2])
    assert (float(rule.number(value).replace(",", "")) > bound) == (value > limit)


def test_every_figure_of_the_gate_has_a_unit_or_is_an_effect_without_one() -> None:
    bare_numbers = {rule.name for rule in GATE.values() if rule.kind == "between" and not rule.unit}
    assert bare_numbers == {"classes are as in the population"}, "Cohen's w has none"


def test_each_parameter_lands_in_its_own_rule() -> None:
    bounds = {name: (rule.low, rule.high) for name, rule in GATE.items() if rule.kind == "between"}
    assert bounds == {
        "images have area": (1, None),
        "two classes or more": (2, None),
        "enough to learn from": (3, None),
        "enough to choose by": (4, None),
        "enough to judge by": (5, None),
        "every class can be learnt": (1, None),
        "no class is lost": (1, None),
        "classes are balanced": (None, 6.5),
        "files can be decoded": (None, 0.07),
        "classes are as in the population": (None, 0.2),
        "no source of one class alone": (None, 0),
        "training covers what is tested": (None, 0.2),
        "no shortcut to the label": (None, 0.5),
        "inputs lie where the backbone's did": (None, 8.0),
    }
    columns = {GATE[name].column for name in ("enough to learn from", "enough to choose by", "enough to judge by")}
    assert columns == {TRAIN, VAL, TEST}
    keys = {rule.name: (rule.per, rule.column) for rule in GATE.values() if rule.kind == "one_value"}
    assert keys == {
        "no image in two splits": ("id", "split"),
        "no copy in two splits": ("copy", "split"),
        "no group in two splits": ("group", "split"),
        "one image, one label": ("id", "label"),
        "one picture, one label": ("copy", "label"),
    }


def test_the_columns_asked_for_are_those_that_ingest_writes() -> None:
    assert GATE["the manifest is whole"].allowed == Row._fields
    assert GATE["splits are known"].allowed == SPLITS


def test_every_rule_tells_a_person_what_to_do() -> None:
    every = [*GATE.values(), *screen_rules(0.03, SCREEN_FAIL)]
    assert len({rule.name for rule in every}) == len(every) == 30
    assert all((rule.what and rule.remedy.endswith((".", ")"))) or rule.remedy.endswith("flatters.") for rule in every)


def test_each_rule_is_known_by_the_severity_that_governs_it() -> None:
    keys = [*vars(FAIL), *vars(SCREEN_FAIL)]
    assert len(set(keys)) == len(keys), "one vocabulary for both gates"
    assert {key for key in KEY_OF.values() if key} == {*keys}
    assert [name for name, key in KEY_OF.items() if not key] == [rule.name for rule in GATE.values() if not rule.key]
    for name in vars(FAIL):
        warned = rules(LIMITS, replace(FAIL, **{name: "warn"}))
        assert {rule.name for rule in warned if rule.severity == "warn"} == {
            n for n, key in KEY_OF.items() if key == name
        }


def test_each_severity_reaches_its_rules_and_off_removes_them() -> None:
    for name in vars(FAIL):
        warned = rules(LIMITS, replace(FAIL, **{name: "warn"}))
        mild = {rule.name for rule in warned if rule.severity == "warn"}
        assert mild and len(warned) == len(GATE)
        left = {rule.name for rule in rules(LIMITS, replace(FAIL, **{name: "off"}))}
        assert left == set(GATE) - mild
    off = every_key(Severity, "off")
    assert len(rules(LIMITS, off)) == STRUCTURE
    assert [
        rule.severity for rule in screen_rules(0.1, replace(SCREEN_FAIL, label_errors="warn", like_images="off"))
    ] == ["warn"]
    assert list(faults_of(Severity, vars(FAIL) | {"sources": "maybe"}, "severity")) == [
        "severity.sources is 'maybe'; one of fail, warn, off"
    ]


@given(st.lists(st.tuples(st.sampled_from(["ant", "bee", "wasp"]), st.sampled_from(SPLITS))), st.integers(0, 5))
def test_totals_are_what_counting_one_by_one_gives(table: list[tuple[str, str]], quarantined: int) -> None:
    found = totals(len(table), class_counts((split, label) for label, split in table), quarantined)
    train = Counter(label for label, split in table if split == TRAIN).values()
    assert found == {
        "classes": len({label for label, split in table if split != "unlabelled"}),
        "imbalance": max(train) / min(train) if train else 1,
        "quarantined_share": quarantined / (len(table) + quarantined) if table or quarantined else 0,
    }
