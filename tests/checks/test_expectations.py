"""Great Expectations finds what is wrong, and the result says what was seen in words a person can use."""

import html
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.checks import expectations
from steps.checks.custom_expectations import torn
from steps.checks.feature_rules import ScreenSeverity, screen_rules, shift_rules, split_rules
from steps.checks.rule import Rule, RuleResult, Table, refusal
from steps.checks.rules import Severity, rules
from steps.images.manifest import SPLITS
from tests.made import every_key, limits


def rule(name: str, table: Any, kind: str, column: str, **bounds: Any) -> Rule:
    return Rule(
        name, table=table, kind=kind, column=column, what=f"what of {name}", remedy=f"remedy of {name}", **bounds
    )


RULES = (
    rule("whole", "images", "columns", "split", allowed=("split", "path", "width")),
    rule("named", "images", "matches", "path", allowed=("[0-9]+[.]png", "none")),
    rule("known", "images", "in_set", "split", allowed=("train", "test")),
    rule("alone", "images", "unique", "path"),
    rule("area", "images", "between", "width", low=1),
    rule("enough", "classes", "between", "train", low=5),
    rule("few", "totals", "between", "share", high=0.1, severity="warn"),
    rule("both", "totals", "between", "count", low=2, high=4),
    rule("same", "preprocessing", "preprocessing", "pipeline"),
    rule("one split", "labelled", "one_value", "split", per="id"),
)
ENOUGH = next(rule for rule in RULES if rule.name == "enough")
Tables = dict[Table, pd.DataFrame]


def tables() -> Tables:
    return {
        "images": pd.DataFrame(
            {"split": ["train", "test"] * 20, "path": [f"{i}.png" for i in range(40)], "width": [*range(3, 43)]}
        ),
        "classes": pd.DataFrame({"label": ["ant", "bee"], "train": [5, 12]}),
        "totals": pd.DataFrame([{"share": 0.1, "count": 4}]),
        "preprocessing": pd.DataFrame(
            [
                {"field": "crop", "pipeline": "224", "backbone": "224"},
                {"field": "mean", "pipeline": "[0.5]", "backbone": "[0.5]"},
            ]
        ),
        "labelled": pd.DataFrame(
            {
                "path": ["a", "b", "c", "d", "e"],
                "id": ["1", "1", "2", "", ""],
                "split": ["train", "train", "val", "test", "val"],
            }
        ),
    }


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs") / "site"


@pytest.fixture(scope="module")
def good(docs: Path) -> tuple[RuleResult, ...]:
    docs.mkdir()
    (docs / "stale.html").write_text("of the run before", encoding="utf-8")
    return expectations.check(tables(), RULES, docs)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[RuleResult, ...]:
    broken = tables()
    images = broken["images"]
    images.loc[3, "split"], images.loc[4, "split"], images.loc[5, "split"] = "holdout", "dev", "dev"
    images.loc[7, "path"] = images.loc[9, "path"] = "0.png"
    images.loc[20:35, "width"], images.loc[11, "path"] = 0, "x1.png"
    images["extra"] = 1
    broken["classes"] = pd.DataFrame({"label": [f"class {i:02}" for i in range(14)], "train": [5, *range(13)]})
    broken["totals"] = pd.DataFrame([{"share": 0.25, "count": 5}])
    broken["preprocessing"].loc[0, "pipeline"] = "256"
    broken["labelled"].loc[1, "split"] = "test"
    return expectations.check(broken, RULES, tmp_path_factory.mktemp("bad"))


def by_name(found: tuple[RuleResult, ...]) -> dict[str, RuleResult]:
    return {row.name: row for row in found}


def test_every_rule_is_answered_once_and_in_order(good: tuple[RuleResult, ...], bad: tuple[RuleResult, ...]) -> None:
    for found in (good, bad):
        assert [row.name for row in found] == [rule.name for rule in RULES]
        for row, asked in zip(found, RULES, strict=True):
            assert (row.what, row.remedy) == (asked.what, asked.remedy)
            assert (row.limit, row.severity) == (asked.limit, asked.severity)
            assert [*vars(row)] == ["name", "passed", "observed", "where", "severity", "limit", "what", "remedy"]


def test_what_holds_passes_on_the_very_limit_and_says_the_range_seen(good: tuple[RuleResult, ...]) -> None:
    assert all(row.passed is True for row in good)
    ranges = {"area": "3 to 42", "enough": "5 to 12", "few": "0.1", "both": "4"}
    assert {row.name: row.observed for row in good} == {
        asked.name: ranges.get(asked.name, "as it should be") for asked in RULES
    }


def test_each_broken_rule_fails(bad: tuple[RuleResult, ...]) -> None:
    assert [row.name for row in bad if row.passed] == []


@pytest.mark.parametrize(
    ("name", "observed"),
    [
        ("whole", "split; path; width; extra"),
        ("named", "x1.png"),
        ("known", "dev; holdout"),
        ("alone", "0.png"),
        ("area", "0"),
        ("enough", "; ".join(f"'class 0{i + 1}' has {i} (needs {5 - i} more)" for i in range(5))),
        ("few", "0.25"),
        ("both", "5"),
        ("same", "crop is 256, the backbone wants 224"),
        ("one split", "1"),
    ],
)
def test_what_was_found_is_named_with_its_place(bad: tuple[RuleResult, ...], name: str, observed: str) -> None:
    assert by_name(bad)[name].observed == observed


def test_the_files_behind_a_broken_rule_are_named(bad: tuple[RuleResult, ...]) -> None:
    where = {row.name: [*row.where] for row in bad if row.where}
    assert where == {
        "named": ["x1.png"],
        "known": ["3.png", "4.png", "5.png"],
        "alone": ["0.png"],
        "area": sorted(f"{i}.png" for i in range(20, 36)),
        "one split": ["a", "b"],
    }


def test_the_pages_are_written_afresh_and_tell_the_rules(docs: Path, good: tuple[RuleResult, ...]) -> None:
    assert (docs / "index.html").is_file()
    assert not (docs / "stale.html").exists()
    assert {path.name for path in (docs / "validations").rglob("*.html")} == {
        f"accepted by regraft-{table}.html" for table in tables()
    }
    for asked in RULES:
        page = (docs / "expectations" / f"{asked.table}.html").read_text(encoding="utf-8")
        assert f"<strong>{asked.name}</strong>: {asked.what}. {asked.remedy}" in page


def test_a_long_list_of_offenders_is_cut_and_counted(tmp_path: Path) -> None:
    broken = {"classes": pd.DataFrame({"label": [f"c{i:02}" for i in range(13)], "train": [1] * 13})}
    (found,) = expectations.check(broken, [ENOUGH], tmp_path)
    assert found.observed == "; ".join(f"'c{i:02}' has 1 (needs 4 more)" for i in range(10)) + " and 3 more"


def test_the_offenders_are_all_counted_and_each_once(tmp_path: Path) -> None:
    broken = {"images": pd.DataFrame({"split": [f"s{i % 31:02}" for i in range(90)], "path": "p", "width": 1})}
    (found,) = expectations.check(broken, [RULES[2]], tmp_path)
    assert found.observed == "; ".join(f"s{i:02}" for i in range(10)) + " and 21 more"


def test_a_column_that_is_not_there_breaks_its_rule(tmp_path: Path) -> None:
    (found,) = expectations.check({"classes": tables()["classes"].drop(columns="train")}, [ENOUGH], tmp_path)
    assert found.passed is False
    assert found.observed == 'could not be checked: Error: The column "train" in BatchData does not exist.'


def test_a_table_without_rows_says_so(tmp_path: Path) -> None:
    empty = {"classes": pd.DataFrame([], columns=["label", "train"])}
    (found,) = expectations.check(empty, [ENOUGH], tmp_path)
    assert (found.passed, found.observed) == (True, "nothing to look at")


def test_data_docs_say_what_our_own_expectations_ask_and_who_offends(docs: Path, tmp_path: Path) -> None:
    asked = [rule for rule in RULES if rule.kind in ("one_value", "preprocessing")]
    broken = {name: tables()[name] for name in ("labelled", "preprocessing")}
    broken["labelled"].loc[1, "split"] = "test"
    broken["preprocessing"].loc[0, "pipeline"] = "256"
    expectations.check(broken, asked, tmp_path)
    pages = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "validations").rglob("*.html"))
    for told in ("must have the same", "must be the backbone's own", "crop is 256, the backbone wants 224"):
        assert told in html.unescape(pages)


BREAKING = {
    "images": pd.DataFrame(
        {
            "id": ["ABC", "DEF"],
            "split": ["dev", "train"],
            "path": ["a.png", "a.png"],
            "width": [0, 4],
            "another": [1, 1],
        }
    ),
    "classes": pd.DataFrame({"label": ["ant", "bee"], "train": [0, 9], "val": [0, 9], "test": [0, 9]}),
    "lost": pd.DataFrame([{"label": "wasp", "images": 0}]),
    "alike": pd.DataFrame({"labels": ["'Ant' (1) and 'ant' (2)"]}),
    "totals": pd.DataFrame([{"classes": 1, "imbalance": 99.0, "quarantined_share": 0.9}]),
    "labelled": pd.DataFrame(
        {
            "path": ["a.png", "b.png"],
            "id": ["1", "1"],
            "group": ["g", "g"],
            "copy": ["0", "0"],
            "split": ["train", "test"],
            "label": ["ant", "bee"],
        }
    ),
    "sources": pd.DataFrame([{"alone": 2}]),
    "population": pd.DataFrame({"label": ["train"], "effect": [0.9]}),
    "coverage": pd.DataFrame({"label": ["clinic"], "effect": [0.9]}),
    "shortcuts": pd.DataFrame({"label": ["brightness"], "effect": [0.9]}),
    "preprocessing": pd.DataFrame([{"field": "crop", "pipeline": "256", "backbone": "224"}]),
    "observed": pd.DataFrame([{"done": "scaled twice", "inputs": 99.0}]),
    "wanted": pd.DataFrame(
        [{"question": "colour order", "account": "colour order swapped", "wants": {"colour_order": "BGR"}}]
    ),
    "features": pd.DataFrame([{"wrong_share": 0.9, "leaking": 3, "conflicting": 3}]),
    "splits": pd.DataFrame({"label": ["test"], "auc": [0.9]}),
    "shift": pd.DataFrame([{"auc": 0.99}]),
}
LIMITS = limits(
    min_train_per_class=3, min_val_per_class=3, min_test_per_class=3, max_imbalance=6.5, quarantine_limit=0.1
)
PLAIN = {  # what is found is a name
    "the manifest is whole": "another",
    "tensors are what is declared": "scaled twice",
    "the weights know such inputs": "colour order swapped (colour_order BGR)",
}
SCREEN = every_key(ScreenSeverity, "fail")
EVERY = [
    *rules(LIMITS, every_key(Severity, "fail")),
    *screen_rules(0.03, SCREEN),
    *split_rules(0.7, SCREEN),
    *shift_rules(0.7, SCREEN),
]


def test_every_broken_rule_says_what_where_the_limit_and_the_remedy_in_words_and_in_json(tmp_path: Path) -> None:
    found = expectations.check(BREAKING, EVERY, tmp_path)
    assert [row.name for row in found] == [rule.name for rule in EVERY] and not any(row.passed for row in found)
    words, plain = str(refusal(found)), json.loads(json.dumps(found, default=vars))
    for row, asked in zip(plain, EVERY, strict=True):
        counted = any(character.isdigit() for character in row["observed"])
        named = PLAIN.get(row["name"], "a file or a count") in row["observed"]
        assert row["where"] or counted or named, f"{row['name']}: neither files nor a count"
        assert (row["limit"], row["remedy"], row["what"]) == (asked.limit, asked.remedy, asked.what)
        lines = [
            f"  {row['name']}: {row['what']}",
            f"      found   {row['observed']}",
            *([f"      where   {'; '.join(row['where'])}"] if row["where"] else []),
            f"      limit   {row['limit']}",
            f"      remedy  {row['remedy']}",
        ]
        assert "\n".join(lines) in words


def test_files_behind_a_figure_are_named_where_it_breaks_its_rule_and_hints_always(tmp_path: Path) -> None:
    few, hinted = (next(rule for rule in EVERY if rule.column == name) for name in ("quarantined_share", "wrong_share"))
    counted = {few.column: ["a.txt"], hinted.column: ["b.png"]}
    for share, where in ((0.9, [("a.txt",), ("b.png",)]), (0.0, [(), ("b.png",)])):
        shown = {"totals": pd.DataFrame([{few.column: share}]), "features": pd.DataFrame([{hinted.column: share}])}
        found = expectations.check(shown, [few, hinted], tmp_path, counted)
        assert [row.where for row in found] == where


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(SPLITS))))
def test_a_key_is_torn_where_its_rows_have_more_than_one_value(pairs: list[tuple[str, str]]) -> None:
    found = torn(*(pd.Series([pair[i] for pair in pairs], dtype=str) for i in (0, 1)))
    values = {key: {value for other, value in pairs if other == key} for key, _ in pairs}
    assert found.tolist() == [key != "" and len(values[key]) > 1 for key, _ in pairs]


def test_a_rule_without_its_table_is_an_error_and_no_rule_that_holds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no table 'shift' for the rule 'moved'"):
        expectations.check(tables(), [*RULES, rule("moved", "shift", "between", "auc", high=0.1)], tmp_path)


EVIL = "<img src=x onerror=\"document.title='XSS'\">&amp;'$key $column.png"


@pytest.mark.parametrize("column", ["path", "split"])
def test_a_name_in_the_data_docs_is_text_and_the_pages_load_and_run_nothing(tmp_path: Path, column: str) -> None:
    given = tables()
    given["images"].loc[3, column] = EVIL
    given["labelled"].loc[1, [column, "split"]] = EVIL
    results = {result.name: result for result in expectations.check(given, RULES, tmp_path)}
    assert EVIL in results["named" if column == "path" else "known"].observed  # ours is not escaped twice
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")]
    assert pages and not any("<img src=x" in page for page in pages)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(
        page.index(policy) < page.index("</head>") and page.index(policy) < page.find("<script") for page in pages
    )
