"""Two expectations that Great Expectations lacks: one value for each key, and the backbone's own preprocessing.

Leakage across splits, groups that straddle them and conflicting labels are the first; GX compares columns and rows,
not rows that belong together. Importing this module registers both with GX, and takes its three seconds.
"""

from typing import Any, ClassVar

import pandas as pd
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation, render_suite_parameter_string
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.render import LegacyRendererType, RenderedStringTemplateContent
from great_expectations.render.renderer.renderer import renderer

from steps.checks.rules import torn

SAMPLED = 20  # offending rows named in Data Docs
Found = dict[str, Any]


def _table(engine: Any, domain: Any) -> pd.DataFrame:
    return engine.get_compute_domain(domain, domain_type=MetricDomainTypes.TABLE)[0]


class TornKeys(TableMetricProvider):  # type: ignore[misc]  # GX is not checked
    """How many keys come with several values, the rows of them, and a name for each row."""

    metric_name = "table.torn_keys"
    value_keys = ("key", "column")

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(
        cls,  # noqa: N805 - GX gives it by this name
        execution_engine: Any,
        metric_domain_kwargs: Any,
        metric_value_kwargs: Any,
        **_: Any,
    ) -> Found:
        table, key = _table(execution_engine, metric_domain_kwargs), metric_value_kwargs["key"]
        bad = table[torn(table[key], table[metric_value_kwargs["column"]])]
        return {
            "observed": str(bad[key].nunique()),
            "rows": bad.index.tolist(),
            "names": bad["path"].tolist(),
            "of": len(table),
        }


class DifferingFields(TableMetricProvider):  # type: ignore[misc]
    """The fields of a preprocessing that are not the backbone's own."""

    metric_name = "table.differing_fields"

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, execution_engine: Any, metric_domain_kwargs: Any, **_: Any) -> Found:  # noqa: N805
        table = _table(execution_engine, metric_domain_kwargs)
        bad = table[table["pipeline"] != table["backbone"]]
        told = [f"{row.field} is {row.pipeline}, the backbone wants {row.backbone}" for row in bad.itertuples()]
        return {"observed": "; ".join(told), "rows": bad.index.tolist(), "names": told, "of": len(table)}


class _Offenders(BatchExpectation):  # type: ignore[misc]
    """Holds where its metric names no rows; Data Docs show its sentence and the first of them."""

    sentence: ClassVar[str]

    def _validate(self, metrics: Found, **_: Any) -> Found:
        found = metrics[self.metric_dependencies[0]]
        count, names = len(found["rows"]), found["names"]
        return {
            "success": not count,
            "result": {
                "observed_value": found["observed"] or "none",
                "element_count": found["of"],
                "unexpected_count": count,
                "unexpected_percent": 100 * count / max(1, found["of"]),
                "unexpected_index_list": found["rows"],
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
        told = configuration or result.expectation_config
        styling = (runtime_configuration or {}).get("styling")
        text = {"template": cls.sentence, "params": told.kwargs, "styling": styling}
        return [RenderedStringTemplateContent(content_block_type="string_template", string_template=text)]


class ExpectOneValueForEachKey(_Offenders):
    """Expect that rows of one key have one value in a column; rows whose key is empty belong to none."""

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
