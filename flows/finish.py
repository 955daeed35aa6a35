"""What comes after the graph: promotion, which asks the registry of now, and the page that tells the outcome."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from flows.graph import Graph
from steps.adapters import stage
from steps.promote import PromoteParams, Promotion, promote

FRESH, RAN = "Fresh", "Ran"
PAGE = Path("data/outcome/index.html")


@dataclass
class Report:
    """What a run did: stage -> Fresh or Ran, and the outcome of promotion (None where only targets were asked for)."""

    stages: dict[str, str] = field(default_factory=dict)
    promotion: Promotion | None = None
    page: str | None = None


def check_params(graph: Graph) -> None:
    """Check the whole of params.yaml, before the first image is read; ParamsError lists every fault."""
    stage.check_params(graph.root, (s.cmd for s in graph.stages.values()), {"promote": PromoteParams})


def finish(graph: Graph, report: Report) -> Report:
    """Promote the chosen version if it earned it, and write the outcome page around the tracked report."""
    report.promotion = promote(graph.root, graph.stages["register"].cmd)
    write_page(graph.root, report.promotion)
    report.page = str(graph.root / PAGE)
    return report


def headline(promotion: Promotion) -> str:
    """Say in one sentence what the run came to."""
    name, challenger = promotion.model_name, promotion.challenger
    if promotion.changed:
        before = f" in place of version {promotion.previous}" if promotion.previous else ""
        return f"version {challenger} of {name} is the new champion{before}"
    if promotion.champion == challenger:
        return f"version {challenger} of {name} remains the champion"
    kept = f"version {promotion.champion} remains the champion" if promotion.champion else "there is no champion yet"
    return f"version {challenger} of {name} was not promoted; {kept}"


def write_page(root: Path, promotion: Promotion) -> None:
    """Write data/outcome/index.html: verdict first, then the whole report; it depends on the world and is untracked."""
    from steps.outcome import Outcome, write_outcome

    docs = root / "data/outcome/data_docs/index.html"
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = [("MLflow run", f"{uri}/#/runs/{promotion.run_id}")] if uri.startswith("http") else []
    links = [
        *server,
        *([("Data Docs: what the gate checked", "data_docs/index.html")] if docs.exists() else []),
    ]
    outcome = Outcome(
        promoted=promotion.champion == promotion.challenger,
        headline=headline(promotion),
        reasons=promotion.reasons,
        champion_version=promotion.champion,
        challenger_version=promotion.challenger,
        model_name=promotion.model_name,
        links=tuple(links),
    )
    write_outcome(root / "data/reports/report.html", root / PAGE, outcome)
