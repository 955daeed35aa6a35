"""Classes that the last accepted images had and today's folder has not: data/lost_classes.json, which `validate` reads.

`regraft use` accepts the folder as it is: what it lacks counts as lost no longer. It says what promotion makes of
classes that are not the champion's.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from flows.graph import Graph
from steps.checks.reports import Validation
from steps.errors import DataError
from steps.images.manifest import classes_of, normal
from steps.promotion.task import another_task, changed_classes, task_of
from steps.registry.chain import parse
from steps.runtime import artefacts, files, params

LOST, ACCEPTED = "data/lost_classes.json", "data/reports/validation.json"
log = logging.getLogger("regraft")


def accepted_digest(root: Path) -> str | None:
    """Return the digest by which dvc.lock names the report on the images that the gate accepted last, if there is."""
    outs = _locked(root, "validate").get("outs", [])
    return next((out["md5"] for out in outs if out["path"] == ACCEPTED), None)


def _locked(root: Path, stage: str) -> dict[str, Any]:
    """Return what dvc.lock holds of a stage, as it ran last; nothing if it has not."""
    lock = root / "dvc.lock"
    document = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    return dict(document.get("stages", {}).get(stage, {}))


def change_of_task(root: Path, labels: Iterable[str]) -> tuple[str, ...]:
    """Return the sentence on what images of these classes mean to the champion; none if they are its classes.

    No registry is asked. The champion's classes are those of the images that the gate accepted last; there is none
    if data/ledger.jsonl names none, or if `register.model_name` has changed since.
    """
    registered = _locked(root, "register").get("params", {}).get("params.yaml", {}).get("register", {})
    digest = accepted_digest(root)
    if not digest or registered.get("model_name") != params.read(root)["register"]["model_name"]:
        return ()
    task = task_of(sorted(_accepted([root / ACCEPTED], digest)), sorted(labels))
    if not task.champion or task.same or not _has_champion(root):
        return ()
    if task.another:
        return (f"{another_task(task, 'the champion')} (not if the classes were only renamed)",)
    return (changed_classes(task, "the champion"),)


def _has_champion(root: Path) -> bool:
    from steps.registry.ledger import exported

    entries = exported(root)
    return bool(entries) and parse(entries[-1]).champion is not None


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
    reports = [graph.root / ACCEPTED, *([graph.cached(digest)] if digest else [])]
    known = {normal(label) for label in _accepted(reports, digest)} if digest else set[str]()
    if "classes" in recorded and recorded["accepted"] == digest:  # `use` came after: it accepted what was missing
        known &= set(recorded["classes"])
    lost = sorted(known - _present(raw)) if known else []
    for label in lost:
        log.warning("the class %r, which the last images had, has no images any more", label)
    if not path.exists() or files.read_json(path) != lost:
        files.write_json(path, lost)


def _accepted(reports: Iterable[Path], digest: str) -> set[str]:
    """Return the classes in the report of this digest, from the first of the files that is it; none if all are gone."""
    report = next((path for path in reports if path.is_file() and files.md5_of(path) == digest), None)
    return set(classes_of(artefacts.read(Validation, report, lenient=True).counts)) if report else set()


def _present(raw: Path) -> set[str]:
    from steps.ingest import label_counts

    try:
        return set(label_counts(raw))
    except DataError:  # `ingest` refuses the folder
        return set()
