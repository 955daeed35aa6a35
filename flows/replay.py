"""`regraft replay`: reproduce a registered version from its run's files, in isolation, and compare."""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

from flows.doctor import unlike
from flows.graph import Graph, cache
from flows.project import STATE, TELEMETRY_OFF
from steps.errors import GraphError, RequestError
from steps.images.manifest import TEST
from steps.promotion.dvc_cache import place_of
from steps.promotion.evidence import Evidence, gather
from steps.promotion.links import lost_changes, missing_inputs
from steps.promotion.reproduction import Verdict, differences, gaps, judge
from steps.promotion.terms import EVALUATION, PREDICTIONS, RECEIPT
from steps.registry import circumstances, ledger, look_ledger
from steps.registry.model_registry import Registry
from steps.registry.tracking import LINEAGE
from steps.runtime import files

log = logging.getLogger("regraft")
RUNNING = re.compile(r"Running stage '(\w+)'")  # DVC's words
LAST = "register"  # later stages do not change the version
# Prefixes of environment variables that a replay does not inherit.
APART = ("MLFLOW_", "PREFECT_", "DVC_", "REGRAFT_KEY", "REGRAFT_PUBLIC_KEY", "PYTHONPATH")


@dataclass(frozen=True)
class Replay:
    """The result of a replay, and how this environment and machine differ from the original ones."""

    version: str
    verdict: Verdict
    environment: tuple[str, ...]

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return {
            "version": self.version,
            "verdict": self.verdict.kind,
            "reasons": self.verdict.reasons,
            "environment": self.environment,
        }

    def lines(self) -> list[str]:
        """Return text for a person."""
        lines = [f"version {self.version}: {self.verdict.kind}", *(f"  {reason}" for reason in self.verdict.reasons)]
        return [*lines, *(f"  not as it was: {difference}" for difference in self.environment)]


def replay(root: Path, version: str, values: Path | None, tolerance: float) -> Replay:
    """Run every stage of a version again, in a clean worktree of its commit, and compare with what was recorded.

    `values`: a params.yaml to use instead of the run's own, to see what it would change. `tolerance`: the difference
    of figures and probabilities up to which the replay counts as equivalent. Only what was signed with the version
    runs. Raises RequestError, with every reason, if that is not enough to begin.
    """
    registry, store = Registry(root), cache(root)
    with tempfile.TemporaryDirectory() as scratch:
        held = gather(registry, ledger.read(registry), version, Path(scratch))
        _refuse(held, store)
        with _worktree(root, held, store) as tree:
            if values:
                shutil.copy(values, tree / "params.yaml")
            unlike_then = _environment(tree, held)
            _run(tree)
            _looked_at(tree)
            return Replay(version, _verdict(tree, held, store, tolerance), unlike_then)


def _refuse(held: Evidence, store: Path) -> None:
    """Refuse a version that no signature covers, whose run was changed, or that lacks files a replay needs.

    A commit and a patch are code: those that the run names are compared with the signed ones before any of it runs.
    """
    lacks = [*_unproven(held), *held.contradictions()]
    if held.around:
        commit = held.circumstance(circumstances.COMMIT)
        if not commit:
            reason = held.circumstance(circumstances.NO_COMMIT)
            lacks.append(f"it was made in no git commit{f' ({reason})' if reason else ''}")
        elif missing := circumstances.missing_commit(held.root, commit):
            lacks.append(missing)
        lacks += lost_changes(held) if commit else []
        lacks += [] if held.lock() else ["it was registered without a dvc.lock"]
        lacks += missing_inputs(held, store)
    if lacks:
        raise RequestError("\n  ".join([f"version {held.version} cannot be replayed:", *lacks]))


def _unproven(held: Evidence) -> list[str]:
    if held.proof is None:
        return [held.doubt]
    if held.around is None:
        return ["it was registered before regraft signed commit, changes and dvc.lock: nothing vouches for their code"]
    return []


@contextmanager
def _worktree(root: Path, held: Evidence, store: Path) -> Iterator[Path]:
    """Yield the project as the run saw it: commit, changes and data; DVC reads the cache of the main checkout."""
    checkout = root / STATE / "replay"
    shutil.rmtree(checkout, ignore_errors=True)
    _git(root, "worktree", "prune")
    try:
        _git(
            root,
            "-c",
            "core.hooksPath=/dev/null",
            "worktree",
            "add",
            "--quiet",
            "--detach",
            "--force",
            str(checkout),
            str(held.circumstance(circumstances.COMMIT)),
        )
        if circumstances.PATCH in held.kept:
            _git(checkout, "apply", "--binary", "--whitespace=nowarn", str(held.kept[circumstances.PATCH]))
        tree = checkout / _git(root, "rev-parse", "--show-prefix").strip()
        (tree / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {store}\n", encoding="utf-8")
        yield tree
    finally:
        shutil.rmtree(checkout, ignore_errors=True)
        _git(root, "worktree", "prune")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GraphError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _environment(tree: Path, held: Evidence) -> tuple[str, ...]:
    """List differences in packages and machine from the original run: against the lock, and against what was signed."""
    now, then = circumstances.hardware(), held.circumstance(circumstances.HARDWARE)
    machine = [f"the machine: {now} (then: {then})"] if now != then else []
    return (*unlike((tree / "requirements.lock").read_text(encoding="utf-8")), *machine)


def _run(tree: Path) -> None:
    """Fetch the data from the cache and let DVC run every stage in a process of its own; nothing is restored or kept.

    MLflow, the ledger's key and DVC's site cache are the worktree's own.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(APART)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**kept, **TELEMETRY_OFF, "PATH": path, "DVC_SITE_CACHE_DIR": str(tree / STATE / "dvc")}
    pointers = sorted(path.relative_to(tree).as_posix() for path in (tree / "data").glob("*.dvc"))
    _dvc(tree, environment, "checkout", "--quiet", "--force", *pointers)
    _dvc(tree, environment, "repro", "--force", "--no-run-cache", "--no-commit", LAST)


def _dvc(tree: Path, environment: dict[str, str], *arguments: str) -> None:
    """Run DVC; pass on only the stage names of its standard output, and all of stderr.

    stderr is inherited from this process, so none of it can be lost here.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    with subprocess.Popen(command, cwd=tree, env=environment, stdout=PIPE, text=True, errors="replace") as process:
        assert process.stdout
        for line in process.stdout:
            if begun := RUNNING.match(line):
                log.info("%s ...", begun[1])
    if process.returncode:
        raise GraphError(f"the replay ended in `dvc {arguments[0]}`; what it said stands above")


def _looked_at(tree: Path) -> None:
    """Record which models were evaluated on the test images, before any of their figures is shown.

    In the project's ledger, because the worktree's own is deleted with it. A model that was evaluated before is no new
    look; one made with other params is, like any model that somebody may choose.
    """
    answers = files.read_table(tree / PREDICTIONS)
    weights = files.read_json(tree / EVALUATION).get("weights", {})  # of the version's own release
    look_ledger.record(weights.values(), sorted(set(answers["id"][answers["split"] == TEST])))


def _verdict(tree: Path, held: Evidence, store: Path, tolerance: float) -> Verdict:
    graph = Graph(tree)
    order = [stage.name for stage in graph.select([LAST]) if stage.name != LAST]
    graph.close()
    was, now = held.lock(), files.read_yaml(tree / circumstances.LOCK)["stages"]
    versions = files.read_json(tree / RECEIPT)["versions"]
    kind = held.proof.facts.kind if held.proof else None
    reproduced = versions.get(kind) == held.tags.get(LINEAGE)
    return judge(differences(order, was, now), reproduced, _measured(tree, held, store), tolerance)


def _measured(tree: Path, held: Evidence, store: Path) -> dict[str, float] | None:
    """Measure the differences of answers and figures; None if the cache no longer has the original ones."""
    made, evaluation = held.made(), held.told.get(Path(EVALUATION).name)
    predictions = place_of(store, made.get(PREDICTIONS, ""))
    if evaluation is None or not (_is(predictions, made.get(PREDICTIONS)) and _is(evaluation, made.get(EVALUATION))):
        return None
    judged, anew = files.read_json(evaluation), files.read_json(tree / EVALUATION)  # of the version's own release
    return gaps(files.read_table(predictions), files.read_table(tree / PREDICTIONS), judged["test"], anew["test"])


def _is(path: Path, digest: str | None) -> bool:
    """Return whether a file is still the one that the signed dvc.lock names."""
    return path.is_file() and files.md5_of(path) == digest
