"""`regraft validate`: the gates alone. What they found is returned, also where they refuse."""

from pathlib import Path
from typing import Any

from flows.graph import Graph
from steps.adapters import files
from steps.errors import DataError

GATES = {"validate": "data/reports/validation.json", "screen": "data/reports/screen.json"}


def validate(root: Path) -> tuple[dict[str, Any], DataError | None]:
    """Bring the gates up to date; return gate -> its report, and the refusal where there is one.

    A gate that was not reached has no report here: what an earlier run left on disk would be another data's.
    """
    from flows.retrain import retrain_now

    try:
        retrain_now(root, [*GATES], force=False)
    except DataError as error:
        graph = Graph(root)
        reached = {name: path for name, path in GATES.items() if _spoke(graph, name)}
        return {name: files.read_json(root / path) for name, path in reached.items()}, error
    return {name: files.read_json(root / path) for name, path in GATES.items()}, None


def _spoke(graph: Graph, name: str) -> bool:
    """Say whether the gate's report is of the present data: made by a fresh stage, or by the one that refused."""
    upstream = [up for up in graph.stages[name].upstream if up in graph.stages]
    report = graph.root / GATES[name]
    return report.is_file() and all(graph.is_fresh(up) for up in upstream)


def lines(reports: dict[str, Any]) -> list[str]:
    """Say each rule in one line: the word for how it came out, its name, what was seen and the limit."""
    rules = [rule for report in reports.values() for rule in report["rules"]]
    words = [("pass" if rule["passed"] else rule["severity"], rule) for rule in rules]
    return [
        f"  {word:<4}  {rule['name']}: {rule['observed']}" + ("" if word == "pass" else f" (limit: {rule['limit']})")
        for word, rule in words
    ]
