"""Two expectations that Great Expectations lacks: one value for each key, and the backbone's own preprocessing.

The first finds leakage across splits, groups that straddle them and conflicting labels: GX compares columns and rows,
but not rows that belong together. Importing this module registers both with GX and takes three seconds.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation, render_suite_parameter_string
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.render import LegacyRendererType, RenderedStringTemplateContent
from great_expectations.render.renderer.renderer import renderer

SAMPLED = 20  # offending rows named in Data Docs


@dataclass(frozen=True)
class Offenders:
    """The rows that break an expectation: what was observed, their index and names, and the count of all rows."""

    observed: str
    rows: list[int]
    names: list[str]
    of: int


def torn(keys: "pd.Series[Any]", values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return for each row whether its key occurs with more than one value; empty keys are ignored."""
    pairs = pd.DataFrame({"key": keys, "value": values}).drop_duplicates()
    return keys.isin(pairs["key"][pairs["key"].duplicated()]) & (keys != "")


def _table(engine: Any, domain: Any) -> pd.DataFrame:
    return engine.get_compute_domain(domain, domain_type=MetricDomainTypes.TABLE)[0]


class TornKeys(TableMetricProvider):  # type: ignore[misc]  # GX is not checked
    """The number of keys with several values, their rows, and a name for each row."""

    metric_name = "table.torn_keys"
    value_keys = ("key", "column")

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(
        cls,  # noqa: N805 - GX passes it by this name
        execution_engine: Any,
        metric_domain_kwargs: Any,
        metric_value_kwargs: Any,
        **_: Any,
    ) -> Offenders:
        table, key = _table(execution_engine, metric_domain_kwargs), metric_value_kwargs["key"]
        bad = table[torn(table[key], table[metric_value_kwargs["column"]])]
        return Offenders(str(bad[key].nunique()), bad.index.tolist(), bad["path"].tolist(), len(table))


class DifferingFields(TableMetricProvider):  # type: ignore[misc]
    """The fields of a preprocessing that are not the backbone's own."""

    metric_name = "table.differing_fields"

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, execution_engine: Any, metric_domain_kwargs: Any, **_: Any) -> Offenders:  # noqa: N805
        table = _table(execution_engine, metric_domain_kwargs)
        bad = table[table["pipeline"] != table["backbone"]]
        names = [f"{row.field} is {row.pipeline}, the backbone wants {row.backbone}" for row in bad.itertuples()]
        return Offenders("; ".join(names), bad.index.tolist(), names, len(table))


class _Offenders(BatchExpectation):  # type: ignore[misc]
    """Succeeds if its metric names no rows; Data Docs show its sentence and the first of the rows."""

    sentence: ClassVar[str]

    def _validate(self, metrics: dict[str, Offenders], **_: Any) -> dict[str, object]:
        offenders = metrics[self.metric_dependencies[0]]
        count, names = len(offenders.rows), offenders.names
        return {
            "success": not count,
            "result": {
                "observed_value": offenders.observed or "none",
                "element_count": offenders.of,
                "unexpected_count": count,
                "unexpected_percent": 100 * count / max(1, offenders.of),
                "unexpected_index_list": offenders.rows,
                "unexpected_list": names,
                "partial_unexpected_list": names[:SAMPLED],
            },
        }

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)  # type: ignore[untyped-decorator]
    @render_suite_parameter_string  # type: ignore[untyped-decorator]
    def _prescriptive_renderer(
        cls, configuration: Any = None, result: Any = None, runtime_configuration: Any = None
    ) -> list[Any]:
        asked = configuration or result.expectation_config
        styling = (runtime_configuration or {}).get("styling")
        text = {"template": cls.sentence, "params": asked.kwargs, "styling": styling}
        return [RenderedStringTemplateContent(content_block_type="string_template", string_template=text)]


class ExpectOneValueForEachKey(_Offenders):
    """Expect that rows with the same key have the same value in a column; rows with an empty key are ignored."""

    key: str
    column: str
    metric_dependencies: ClassVar[tuple[str, ...]] = ("table.torn_keys",)
    success_keys: ClassVar[tuple[str, ...]] = ("key", "column")
    args_keys: ClassVar[tuple[str, ...]] = ("key", "column")
    sentence = "Rows with the same $key must have the same $column."


class ExpectPreprocessingOfTheBackbone(_Offenders):
    """Expect that each field of the pipeline's preprocessing is the backbone's own."""

    metric_dependencies: ClassVar[tuple[str, ...]] = ("table.differing_fields",)
    sentence = "Each field of the preprocessing must be the backbone's own."
