"""What comes after the graph: promotion, which asks the registry of now, and the page that tells the outcome."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from flows.graph import Graph
from steps.adapters import files, stage
from steps.export import ExportParams
from steps.promote import ACCEPTED, EVALUATION, RECEIPT, PromoteParams, Promotion, promote

FRESH, RAN = "Fresh", "Ran"
PAGE = Path("data/outcome/index.html")
ANSWER = Path(".regraft/promotion.json")


@dataclass
class Report:
    """What a run did: stage -> Fresh or Ran, and the outcome of promotion (None where only targets were asked for)."""

    stages: dict[str, str] = field(default_factory=dict)
    promotion: Promotion | None = None
    page: str | None = None


def check_params(graph: Graph) -> None:
    """Check the whole of params.yaml, before the first image is read; ParamsError lists every fault."""
    stage.check_params(
        graph.root, (s.cmd for s in graph.stages.values()), {"promote": PromoteParams, "export": ExportParams}
    )


def finish(graph: Graph, report: Report) -> Report:
    """Promote the chosen version if it earned it, and write the outcome page around the tracked report."""
    report.promotion = _recalled(graph.root) or promote(graph.root, graph.stages["register"].cmd)
    _remember(graph.root, report.promotion)
    write_page(graph.root, report.promotion)
    report.page = str(graph.root / PAGE)
    return report


def _recalled(root: Path) -> Promotion | None:
    """Return the last answer where the question and the registry are as they were then; MLflow costs 2 s to ask.

    Only for the project's own store: of a server one cannot tell from outside whether it has changed.
    """
    state = _state(root)
    kept = root / ANSWER
    if state is None or not kept.is_file():
        return None
    try:
        found = files.read_json(kept)
        if found["state"] != state:
            return None
        answer = {**found["promotion"], "reasons": tuple(found["promotion"]["reasons"]), "changed": False}
        return Promotion(**answer)
    except (ValueError, KeyError, TypeError):  # damaged, or of another release: ask again
        return None


def _remember(root: Path, promotion: Promotion) -> None:
    files.write_json(root / ANSWER, {"state": _state(root), "promotion": vars(promotion)})


def _state(root: Path) -> str | None:
    """Return a digest of all that promotion looks at: rules, receipt, figures, test images, database, model files."""
    home = root / ".regraft"
    database = home / "mlflow.db"
    if os.environ.get("MLFLOW_TRACKING_URI") != f"sqlite:///{database}" or not database.is_file():
        return None
    looked_at = [root / name for name in ("params.yaml", RECEIPT, EVALUATION, ACCEPTED)]
    facts = database.stat()
    return stage.digest_of({
        "inputs": [files.sha256_of(path) for path in looked_at],
        "database": [facts.st_size, facts.st_mtime_ns],
        "models": sorted(path.relative_to(home).as_posix() for path in home.rglob("MLmodel")),
    })  # fmt: skip


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
