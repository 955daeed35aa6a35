"""`regraft rank`: finds the project's training images, and shows the ranking as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.errors import RequestError

LABELLED = ("choose_strategy", "accepted")  # the stage whose view of the images is ranked on, and its argument
RAW = ("extract_features", "raw")


def rank(root: Path, names: Sequence[str], weights: Sequence[str], most: int) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of the ranking and its verdict in words; RequestError where the request is wrong."""
    from flows.graph import Graph
    from steps.runtime import files, params, stage

    files_of = _weights(weights, names)
    graph = Graph(root)
    accepted, raw = (root / stage.parse(graph.stages[name].cmd)[1][argument] for name, argument in (LABELLED, RAW))
    graph.close()
    if not accepted.exists():
        raise RequestError(f"{accepted.relative_to(root)} does not exist yet; `regraft run choose_strategy` makes it")
    from steps.commands.rank import rank as rank_backbones
    from steps.commands.rank import verdict

    rows = rank_backbones(raw, files.read_table(accepted), names, files_of, most, params.read(root)["seed"])
    return rows, verdict(rows)


def _weights(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    if len(set(names)) < len(names):
        raise RequestError(f"a backbone is named twice: {', '.join(names)}")
    pairs = dict(item.partition("=")[::2] for item in given)
    for name, file in pairs.items():
        if name not in names or not file:
            raise RequestError(f"--weights {name}={file}: expected NAME=FILE, NAME one of {', '.join(names)}")
    return pairs


def show(rows: Sequence[dict[str, Any]], verdict: str) -> None:
    """Print the ranking."""
    from rich.console import Console
    from rich.table import Table

    table = Table("backbone", "balanced accuracy", "against the best", "log-loss", "LogME", "H-score", "ms an image")
    for row in rows:
        table.add_row(
            row["backbone"], _share(row["balanced_accuracy"], ".1f"),
            "" if row is rows[0] else _share(row["against_best"], "+.1f"),
            f"{row['log_loss']:.3f}", f"{row['logme']:.3f}", f"{row['h_score']:.2f}",
            f"{row['milliseconds_per_image']:.1f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(verdict, highlight=False)


def _share(figure: dict[str, Any], form: str) -> str:
    value, low, high = (None if figure[k] is None else format(100 * figure[k], form) for k in ("value", "low", "high"))
    return f"{value} %" if low is None else f"{value} % ({low} to {high})"
