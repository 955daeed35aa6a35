"""What a run needs of its machine, asked before it trains; `regraft doctor` asks the same and more."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flows import conflicts
from steps.errors import RegistryError, without_passwords
from steps.promotion.terms import REQUIRED
from steps.registry import circumstances, ledger, production
from steps.registry.model_registry import Registry
from steps.registry.tracking import is_own, tracking_uri, unheard
from steps.runtime import params

log = logging.getLogger("regraft")
GOOD, WARNING, FAULT = "good", "warning", "fault"
MARKS = {GOOD: "✓", WARNING: "!", FAULT: "✗"}


@dataclass(frozen=True)
class Finding:
    """One check: its state, what was found, and the fix if it is not good."""

    what: str
    state: str
    found: str
    fix: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", without_passwords(self.found))

    def line(self) -> str:
        """Return the finding as a line for people."""
        return f"{MARKS[self.state]} {self.what:<12} {self.sentence()}"

    def sentence(self) -> str:
        """Return what was found, and the fix."""
        return f"{self.found}{f'; {self.fix}' if self.fix else ''}"


Findings = Iterator[Finding]


def check(root: Path) -> None:
    """Check what the end of a run needs; log the warnings. Raises RegistryError with all faults."""
    findings = [finding for look in (commit, registry) for finding in look(root)]
    for finding in findings:
        if finding.state == WARNING:
            _warn(f"{finding.what}: {finding.sentence()}")
    faults = [f"{finding.what}: {finding.sentence()}" for finding in findings if finding.state == FAULT]
    if faults:
        raise RegistryError("\n  ".join(["nothing was run:", *faults]))


@cache
def _warn(sentence: str) -> None:
    """Log a warning once per process: a run is checked before Prefect starts, and again by the flow."""
    log.warning(sentence)


def merges(root: Path) -> Findings:
    """Look for merge conflicts in the project's files."""
    for remedy in conflicts.remedies(root):
        yield Finding("merge", FAULT, remedy)


def commit(root: Path) -> Findings:
    """Ask git for the commit that the versions of this run will name."""
    head = circumstances.head_of(root)
    if head.commit:
        yield Finding("git", GOOD, f"commit {head.commit[:12]}")
    else:
        lost = "without a commit, versions cannot be replayed"
        yield Finding("git", WARNING, f"{head.trouble}: {lost}", head.fix)


def registry(root: Path) -> Findings:
    """Ask MLflow whether it will take a run, and has the ledger and the champion's files; yields what is wrong."""
    if is_own(tracking_uri()) and not (root / ".regraft" / "mlflow.db").exists():
        return
    if silent := unheard(tracking_uri()):
        yield Finding("MLflow", FAULT, silent, "start it, or unset MLFLOW_TRACKING_URI")
        return
    held, document = Registry(root), params.read(root)
    try:
        held.find_experiment(document["register"]["experiment"])
        chain = ledger.read(held)
        if not chain.slots and (emptied := ledger.emptied(held)):
            yield Finding("ledger", FAULT if held.newest() else WARNING, emptied)  # without a version none is adopted
            return
        ledger.whole(chain, ledger.exported(root, held.name))
        lost = production.lost(held, chain)
    except RegistryError as error:
        yield Finding("MLflow", FAULT, str(error))
        return
    if lost:
        asked = document["promote"]["approval"] == REQUIRED
        yield Finding("champion", WARNING if asked else FAULT, lost)
