"""After the graph: promotion, which depends on the registry's present state, and the page with the outcome."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.graph import Graph
from steps.errors import GraphError, without_passwords
from steps.evaluation.results import Evaluation
from steps.pages.caveats import Caveat
from steps.promotion.terms import EVALUATION, LOOKED_AT, RECEIPT, SECTIONS, Promotion, confirming
from steps.registry import production
from steps.registry.chain import PROPOSE, Decision
from steps.registry.ledger import EXPORT
from steps.registry.model_registry import Registry
from steps.runtime import artefacts, files, stage

if TYPE_CHECKING:  # its templates load when a page is written
    from steps.pages.outcome import Outcome

FRESH, STALE, RAN = "Fresh", "Stale", "Ran"
REPORT, PAGE = Path("data/reports/report.html"), Path("data/outcome/index.html")
ANSWER = Path(".regraft/promotion.json")
SAID = 3  # warnings in a run's last lines; the page has all
Looks = dict[str, str]  # sentence; state: within budget, over budget, exhausted


@dataclass(frozen=True)
class Report:
    """The result of a run: stage -> Fresh or Ran, and the outcome of promotion (None if only targets were run)."""

    stages: dict[str, str] = field(default_factory=dict)
    promotion: Promotion | None = None
    page: str | None = None
    checks: str | None = None  # the page of broken rules of the data, if there are any
    summary: str | None = None  # the outcome in Markdown

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        made = self.promotion
        promotion = vars(made) | {"headline": headline(made)} if made else None
        return {"stages": self.stages, "promotion": promotion, "report": self.page, "checks": self.checks}

    def lines(self) -> list[str]:
        """Return text for a person."""
        made = self.promotion
        if made is None:
            return _table(self.stages)
        accuracy = made.judged.accuracy
        low, high = accuracy.ends
        interval = f"{100 * low:.1f} to {100 * high:.1f}, {accuracy.method}"
        return [
            *_table(self.stages),
            "",
            *made.notes,
            *self._caveats(made.caveats),
            headline(made),
            *(f"  {reason}" for reason in made.reasons if reason not in made.notes),
            f"  accuracy {100 * accuracy.known:.1f} % ({interval}) on {made.judged.n:,} test images",
            f"  outcome: {PAGE}",
        ]

    def _caveats(self, caveats: Sequence[Caveat]) -> list[str]:
        """Return what a reader has to know before the verdict."""
        if not caveats:
            return []
        more = [f"  and {len(caveats) - SAID} more"] if len(caveats) > SAID else []
        pictures = [f"  warnings in pictures: {self.checks}"] if self.checks else []
        return [
            "what could overturn this, the gravest first:",
            *(f"  ! {caveat.sentence}" for caveat in caveats[:SAID]),
            *more,
            *pictures,
        ]


@dataclass(frozen=True)
class Status:
    """Each stage Fresh or Stale, and the version in production."""

    stages: dict[str, str]
    champion: str | None

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Return text for a person."""
        champion = f"version {self.champion}" if self.champion else "none yet"
        return [*_table(self.stages), "", f"champion: {champion}"]


def _table(stages: dict[str, str]) -> list[str]:
    width = max(map(len, stages))
    return [f"  {name:<{width}}  {state.lower()}" for name, state in stages.items()]


def status(root: Path) -> Status:
    """Ask DVC about each stage, and the ledger about production."""
    graph = Graph(root)
    stages = {name: FRESH if graph.is_fresh(name) else STALE for name in graph.stages}
    return Status(stages, production.present(Registry(root)))


@dataclass(frozen=True)
class _Answer:
    """The last answer, and the state of project and registry in which it was given; None if that is unknown."""

    state: str | None
    promotion: Promotion
    looks: Looks


def check_params(graph: Graph) -> None:
    """Check the whole of params.yaml, before the first image is read; ParamsError lists every fault."""
    stage.check_params(graph.root, (s.cmd for s in graph.stages.values()), SECTIONS)


def finish(graph: Graph, report: Report) -> Report:
    """Promote the chosen version if it earned it, and write the outcome page around the tracked report."""
    root = graph.root
    recalled = _recalled(root)
    if recalled:
        return _told(root, report, *recalled)
    from steps.promotion.promote import promote  # torch and SciPy

    promotion = promote(root, graph.stages["register"].cmd)
    return _told(root, report, promotion, _looks(root))


def answered(root: Path, report: Report, decision: Decision) -> Report:
    """Update the outcome with a person's later answer."""
    if report.promotion is None:
        return report
    promotion = replace(
        report.promotion,
        champion=decision.champion,
        previous=decision.previous,
        reasons=decision.reasons,
        changed=decision.champion != decision.previous,
        verdict=decision.kind,
    )
    return _told(root, report, promotion, _looks(root))


def _looks(root: Path) -> Looks:
    """Return how often the test images were evaluated, and whether the budget allows it."""
    from steps.registry import look_ledger as looks

    standing = looks.standing(root)
    state = "exhausted" if standing.exhausted else "over budget" if standing.over_budget else "within budget"
    return {"state": state, "sentence": standing.sentence}


def _told(root: Path, report: Report, promotion: Promotion, looks: Looks) -> Report:
    """Store the decision, and write it into the page and into Markdown."""
    from steps.pages.outcome import markdown, write_outcome

    files.write_json(root / ANSWER, _Answer(_state(root), promotion, looks))
    result = outcome(root, promotion, looks)
    write_outcome(root / REPORT, root / PAGE, result)
    return replace(report, promotion=promotion, page=str(root / PAGE), summary=markdown(result))


def _recalled(root: Path) -> tuple[Promotion, Looks] | None:
    """Return the last answer if the question and the registry are unchanged; asking MLflow costs 2 s.

    Only for the project's own store: from outside one cannot see whether a server has changed.
    """
    state = _state(root)
    kept = root / ANSWER
    if state is None or not kept.is_file():
        return None
    try:
        answer = artefacts.read(_Answer, kept)
    except GraphError:  # damaged, or of another release: ask again
        return None
    return (confirming(answer.promotion), answer.looks) if answer.state == state else None


def _state(root: Path) -> str | None:
    """Return a digest of all that promotion reads: rules, receipt, figures, test images, database, model files."""
    home = root / ".regraft"
    database = home / "mlflow.db"
    if os.environ.get("MLFLOW_TRACKING_URI") != f"sqlite:///{database}" or not database.is_file():
        return None
    looked_at = [root / name for name in ("params.yaml", RECEIPT, *LOOKED_AT)]
    facts = database.stat()
    return stage.digest_of(
        {
            "inputs": [files.sha256_of(path) for path in looked_at],
            "export": files.sha256_of(root / EXPORT) if (root / EXPORT).is_file() else None,
            "database": [facts.st_size, facts.st_mtime_ns],
            "models": sorted(path.relative_to(home).as_posix() for path in home.rglob("MLmodel")),
        }
    )


def headline(promotion: Promotion) -> str:
    """Return the run's result in one sentence."""
    name, challenger = promotion.model_name, promotion.challenger
    if promotion.changed:
        before = f" in place of version {promotion.previous}" if promotion.previous else ""
        return f"version {challenger} of {name} is the new champion{before}"
    if promotion.champion == challenger:
        return f"version {challenger} of {name} remains the champion"
    kept = f"version {promotion.champion} remains the champion" if promotion.champion else "there is no champion yet"
    became = "waits for approval" if promotion.verdict == PROPOSE else "was not promoted"
    return f"version {challenger} of {name} {became}; {kept}"


def outcome(root: Path, promotion: Promotion, looks: Looks) -> "Outcome":
    """Collect what a reader wants to know first: the decision, its reasons, and how often the test set was used."""
    from steps.pages.outcome import Outcome

    return Outcome(
        verdict=_verdict(promotion),
        headline=headline(promotion),
        reasons=promotion.reasons,
        champion_version=promotion.champion,
        challenger_version=promotion.challenger,
        previous_version=promotion.previous,
        model_name=promotion.model_name,
        judged=promotion.judged,
        confidence=artefacts.read(Evaluation, root / EVALUATION).confidence,
        comparison=promotion.comparison,
        caveats=promotion.caveats,
        looks=looks,
        links=tuple(_links(root, promotion.run_id)),
    )


def _verdict(promotion: Promotion) -> str:
    """Describe what happened to the challenger; a version that was champion before is not promoted again."""
    from steps.pages.outcome import PROMOTED, PROPOSED, REFUSED, REMAINS

    if promotion.changed:
        return PROMOTED
    if promotion.champion == promotion.challenger:
        return REMAINS
    return PROPOSED if promotion.verdict == PROPOSE else REFUSED


def _links(root: Path, run_id: str) -> Iterator[tuple[str, str]]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("http"):
        yield "MLflow run", f"{without_passwords(uri)}/#/runs/{run_id}"
    if (root / "data/outcome/data_docs/index.html").exists():
        yield "Data Docs: what the gate checked", "data_docs/index.html"
