"""Classes that the last accepted images had and today's folder has not: data/lost_classes.json, which `validate` reads.

`regraft use` accepts the folder as it is: what it lacks counts as lost no longer.
"""

import logging
from pathlib import Path

import yaml

from flows.graph import Graph
from steps.checks.reports import Validation
from steps.errors import DataError
from steps.images.manifest import classes_of, normal
from steps.runtime import artefacts, files

LOST, ACCEPTED = "data/lost_classes.json", "data/reports/validation.json"
log = logging.getLogger("regraft")


def accepted_digest(root: Path) -> str | None:
    """Return the digest by which dvc.lock names the report on the images that the gate accepted last, if there is."""
    lock = root / "dvc.lock"
    document = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    outs = document.get("stages", {}).get("validate", {}).get("outs", [])
    return next((out["md5"] for out in outs if out["path"] == ACCEPTED), None)


def at_use(root: Path, raw: Path) -> dict[str, object]:
    """Return what `regraft use` records with the source: the present classes, and which report they supersede."""
    return {"accepted": accepted_digest(root), "classes": sorted(_present(raw))}


def record_lost(graph: Graph, raw: Path, source: Path) -> None:
    """Write the lost classes if they have changed; `source` is the file that `regraft use` wrote."""
    path = graph.root / LOST
    if path.exists() and not files.read_json(path) and graph.is_fresh("ingest"):  # compared when the images changed
        return
    recorded = files.read_json(source) if source.exists() else {}
    digest = accepted_digest(graph.root)
    known = {normal(label) for label in _accepted(graph, digest)} if digest else set[str]()
    if "classes" in recorded and recorded["accepted"] == digest:  # `use` came after: it accepted what was missing
        known &= set(recorded["classes"])
    lost = sorted(known - _present(raw)) if known else []
    for label in lost:
        log.warning("the class %r, which the last images had, has no images any more", label)
    if not path.exists() or files.read_json(path) != lost:
        files.write_json(path, lost)


def _accepted(graph: Graph, digest: str) -> set[str]:
    """Return the classes in a report, from the file or from DVC's cache; none if both are gone."""
    candidates = (path for path in (graph.root / ACCEPTED, graph.cached(digest)) if path.is_file())
    report = next((path for path in candidates if files.md5_of(path) == digest), None)
    return set(classes_of(artefacts.read(Validation, report, lenient=True).counts)) if report else set()


def _present(raw: Path) -> set[str]:
    from steps.ingest import label_counts

    try:
        return set(label_counts(raw))
    except DataError:  # `ingest` refuses the folder
        return set()
