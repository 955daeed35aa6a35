"""Great Expectations 1.x: rules become suites built in code, one checkpoint runs them, Data Docs show them.

The context is ephemeral, so there is no `gx/` folder; the HTML has timestamps and is therefore never a tracked output.
"""

import html
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.checks.rule import FAIL, Rule, RuleResult, Table, some

if TYPE_CHECKING:
    import pandas as pd

SITE = "regraft"
HEAD = re.compile(r"<head[^>]*>", re.IGNORECASE)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:left}"
    "ul{padding-left:1.2rem}.fa-check-circle::before{content:'\\2713'}.fa-times::before{content:'\\2717'}"
    "footer,.modal,.card:has(input),nav img{display:none!important}"
)
SEAL = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    f"style-src 'unsafe-inline'\"><style>{STYLE}</style>"
)
MORE = "_more"  # after the name of a split: column of how many new images a class needs, where regraft makes the splits
AS_IT_SHOULD_BE = "as it should be"  # shown if there is no figure


def check(
    tables: Mapping[Table, "pd.DataFrame"], rules: Sequence[Rule], docs: Path, counted: Mapping[str, Sequence[str]] = {}
) -> tuple[RuleResult, ...]:
    """Run every rule over its table and write Data Docs under `docs`; return one result per rule, in order.

    `counted` maps the column of a figure that counts files to the paths of those files. Raises ValueError for a rule
    without its table: a rule that is not checked must not look like one that holds.
    """
    for rule in rules:
        if rule.table not in tables:
            raise ValueError(f"no table {rule.table!r} for the rule {rule.name!r}")
    import great_expectations as gx  # 3 s: only the gate pays for it

    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    shutil.rmtree(docs, ignore_errors=True)
    context.add_data_docs_site(site_name=SITE, site_config=_site(docs))
    source = context.data_sources.add_pandas("accepted by regraft")
    results: dict[str, RuleResult] = {}
    for name, table in tables.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        of_table = {rule.name: rule for rule in rules if rule.table == name}
        asked = [_expectation(rule) for rule in of_table.values()]
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=asked))
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        checkpoint = gx.Checkpoint(name=name, validation_definitions=[validation], actions=[], result_format="COMPLETE")
        outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": _escaped(table)})
        for result in next(iter(outcome.run_results.values())).results:
            rule = of_table[result.expectation_config.meta["rule"]]
            results[rule.name] = RuleResult(
                rule.name,
                passed=bool(result.success),
                observed=_observed(rule, table, result),
                where=tuple(_where(rule, table, result, counted)),
                severity=rule.severity,
                limit=rule.limit,
                what=rule.what,
                remedy=rule.remedy,
            )
    context.build_data_docs(site_names=[SITE])
    _seal(docs)
    return tuple(results[rule.name] for rule in rules)


def _escaped(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table whose text is safe in HTML: GX writes names into its pages as they are."""
    texts = [name for name, column in table.items() if column.map(lambda value: isinstance(value, str)).any()]
    return table.assign(
        **{
            name: table[name].map(lambda value: html.escape(value) if isinstance(value, str) else value)
            for name in texts
        }
    )


def _unescaped(values: Sequence[Any]) -> list[Any]:
    return [html.unescape(value) if isinstance(value, str) else value for value in values]


def _seal(docs: Path) -> None:
    """Forbid GX's pages to run scripts and to load anything: theirs come from 20 addresses of others, once opened."""
    for page in docs.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(HEAD.sub(lambda head: head[0] + SEAL, text, count=1), encoding="utf-8")


def _site(docs: Path) -> dict[str, object]:
    return {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _expectation(rule: Rule) -> Any:
    import great_expectations.expectations as gxe

    from steps.checks.custom_expectations import ExpectOneValueForEachKey, ExpectPreprocessingOfTheBackbone

    common = {
        "meta": {"rule": rule.name},
        "notes": f"**{rule.name}**: {rule.what}. {rule.remedy}",
        "severity": "critical" if rule.severity == FAIL else "warning",
    }
    allowed, column = list(rule.allowed), {"column": rule.column}
    kinds: dict[str, tuple[Any, Mapping[str, object]]] = {
        "columns": (gxe.ExpectTableColumnsToMatchOrderedList, {"column_list": allowed}),
        "matches": (gxe.ExpectColumnValuesToMatchRegex, {**column, "regex": f"^(?:{'|'.join(allowed)})$"}),
        "between": (gxe.ExpectColumnValuesToBeBetween, {**column, "min_value": rule.low, "max_value": rule.high}),
        "in_set": (gxe.ExpectColumnValuesToBeInSet, {**column, "value_set": allowed}),
        "unique": (gxe.ExpectColumnValuesToBeUnique, column),
        "one_value": (ExpectOneValueForEachKey, {**column, "key": rule.per}),
        "preprocessing": (ExpectPreprocessingOfTheBackbone, {}),
    }
    expectation, arguments = kinds[rule.kind]
    return expectation(**arguments, **common)


def _observed(rule: Rule, table: "pd.DataFrame", result: Any) -> str:
    """Describe the result: the range, or that all is well; otherwise the offenders by name."""
    if failure := _failure(result.exception_info):
        return f"could not be checked: {failure}"
    if table.empty:
        return "nothing to look at"
    if "question" in table:
        return "; ".join(f"{row.question}: {row.account}{_fields(row.wants)}" for row in table.itertuples())
    if result.success:
        return _range(rule, table[rule.column]) if rule.kind == "between" else AS_IT_SHOULD_BE
    if rule.kind == "one_value":
        return str(result.result["observed_value"])
    return some(_offenders(rule, table, result.result))


def _fields(wants: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in wants.items())})" if wants else ""


def _where(rule: Rule, table: "pd.DataFrame", result: Any, counted: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the paths of the files behind a rule that is broken, or that `hints`; none if its rows are not files."""
    if result.success and not rule.hints:
        return []
    bad = table.loc[result.result.get("unexpected_index_list") or []]
    return sorted(set(bad["path"])) if "path" in table else counted.get(rule.column, [])


def _offenders(rule: Rule, table: "pd.DataFrame", details: Mapping[str, Any]) -> list[str]:
    if rule.kind == "columns":
        return [str(column) for column in table.columns]
    bad = table.loc[details.get("unexpected_index_list") or []]
    if rule.kind == "preprocessing":
        return _unescaped(details["unexpected_list"])
    if "label" in table and rule.kind == "between" and "path" not in table:
        more = bad.get(f"{rule.column}{MORE}", [None] * len(bad))
        of_class = zip(bad["label"], bad[rule.column], more, strict=True)
        return [
            f"{label!r} has {rule.shown(count)}{_wanting(rule, count, needed)}" for label, count, needed in of_class
        ]
    shown: Callable[[Any], str] = rule.shown if rule.kind == "between" else str
    return sorted({shown(value) for value in _unescaped(details.get("unexpected_list", []))})


def _wanting(rule: Rule, count: float, needed: int | None) -> str:
    """Return how many images a class still needs, in words; empty for other figures.

    `needed` is the number where regraft makes the splits; None: the split is given, and needs what it lacks.
    """
    if rule.table != "classes" or rule.low is None:
        return ""
    return f" (needs {rule.low - count if needed is None else needed:.0f} more)"


def _failure(info: Mapping[str, Any]) -> str:
    """Return GX's first error message: it keeps one record, or one per metric that could not be computed."""
    records = [info] if "raised_exception" in info else list(info.values())
    return next((str(record["exception_message"]) for record in records if record["raised_exception"]), "")


def _range(rule: Rule, column: "pd.Series[Any]") -> str:
    low, high = column.min(), column.max()
    return rule.shown(high) if rule.shown(low) == rule.shown(high) else f"{rule.number(low)} to {rule.shown(high)}"
