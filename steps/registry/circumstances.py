"""When, where and by whom a run was made, and what restores its code: stored beside its identity, never part of it."""

import getpass
import json
import logging
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steps.errors import GraphError
from steps.runtime.compute import processors

log = logging.getLogger("regraft")
# What results depend on, as far as git tracks it; DVC tracks the data itself. Not .dvc/config: no result depends on it,
# and people write passwords of remotes into it.
SOURCES = (
    "steps",
    "dvc.yaml",
    "params.yaml",
    "requirements.lock",
    "data/*.dvc",
    "data/decisions.csv",
    "data/importance.csv",
    "data/lost_classes.json",
)
COMMIT, NO_COMMIT, CHANGES, BY, HARDWARE, PREFECT = (
    "mlflow.source.git.commit",
    "regraft.no_commit",
    "regraft.changes",
    "mlflow.user",
    "regraft.hardware",
    "regraft.prefect_run",
)
TAGS = (COMMIT, NO_COMMIT, CHANGES, BY, HARDWARE, PREFECT)
FOLDER, PATCH, LOCK, PARAMS = "circumstances", "changes.patch", "dvc.lock", "params.yaml"
NAMES = (PATCH, LOCK, PARAMS)
FILE = "circumstances.json"  # in a package: the tags and their run
MOST = 16 * 2**20  # bytes of a patch; a larger one is reported but not kept
PATIENCE = 120  # seconds that a git command may take
NONE, KEPT, LOST, UNKNOWN = "none", "kept", "too large to keep", "unknown"


@dataclass(frozen=True)
class Circumstances:
    """Tags of a run, and the files that replay needs: name -> bytes."""

    tags: dict[str, str]
    files: dict[str, bytes]

    def beside(self, run: str, run_is_older: bool) -> dict[str, bytes]:
        """Return the files that go into a version's package, to be signed with it: path -> bytes.

        A run of the same lineage that is older than the version keeps its own circumstances.
        """
        record = {"run": run, "run_is_older": run_is_older, "tags": self.tags}
        held = {**self.files, FILE: (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()}
        return {f"{FOLDER}/{name}": content for name, content in held.items()}


def gather(root: Path) -> Circumstances:
    """Collect commit, uncommitted changes, login, processor, Prefect run, and the present params.yaml and dvc.lock.

    dvc.lock holds the stages before `register` as committed to DVC; it cannot yet hold `register` itself.
    """
    held = {name: (root / name).read_bytes() for name in (PARAMS, LOCK) if (root / name).is_file()}
    tags = {BY: getpass.getuser(), HARDWARE: hardware()}
    if run := os.environ.get("PREFECT__FLOW_RUN_ID"):
        tags[PREFECT] = run
    head = head_of(root)
    if not head.commit:
        return Circumstances({**tags, NO_COMMIT: head.trouble}, held)
    try:
        patch = changes(root)
        state = NONE if not patch else KEPT if len(patch) <= MOST else LOST
    except GraphError as error:
        log.warning("%s: what of the code is not committed stays unknown, so nothing can be replayed", error)
        state = UNKNOWN
    if state == KEPT:
        held[PATCH] = patch
    return Circumstances({**tags, COMMIT: head.commit, CHANGES: state}, held)


@dataclass(frozen=True)
class Head:
    """The present commit; without one, why git names none, what to do, and whether git itself failed."""

    commit: str = ""
    trouble: str = ""
    fix: str = ""
    failed: bool = True


def head_of(root: Path) -> Head:
    """Return the commit that is checked out, or git's reason: no program, no trust, no repository, no commit, other."""
    apart = {**os.environ, "LC_ALL": "C"}  # its messages are read below
    command = ["git", "log", "-1", "--format=%H"]
    try:
        done = subprocess.run(
            command, cwd=root, env=apart, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return Head(trouble=f"git did not answer within {PATIENCE} s", fix="try `git status`")
    except OSError as error:
        return Head(trouble=f"git cannot be run ({error.strerror})", fix="install git")
    if done.returncode == 0:
        return Head(done.stdout.strip(), failed=False)
    return _refused(root, done.stderr)


def _refused(root: Path, message: str) -> Head:
    """Interpret git's error message."""
    trust = re.search(r"git config --global --add safe\.directory .+", message)
    if trust:
        return Head(
            trouble="git does not trust this folder, which belongs to another user", fix=f"`{trust[0].strip()}`"
        )
    if "not a git repository" in message and not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return Head(trouble="no git repository", fix="`git init`, then commit", failed=False)
    if "does not have any commits yet" in message:
        return Head(trouble="no commit yet", fix="`git add --all` and `git commit`", failed=False)
    line = (message.strip() or "no message").splitlines()[0]
    return Head(trouble=f"git fails: {line}", fix="try `git status`")


def hardware() -> str:
    """Describe this machine, as far as results can depend on it."""
    machine = f"{platform.machine()}, {processors()} processors, {platform.system()}"
    return f"{machine}, Python {platform.python_version()}"


def changes(root: Path) -> bytes:
    """Return the uncommitted changes of `SOURCES` as a binary-safe patch, new files included; b"" if there are none.

    Git's index and new objects are kept in a temporary folder; the user's own are not touched. Raises GraphError if a
    git command fails: a broken repository must not pass for a clean one.
    """
    objects = _must(root, "rev-parse", "--path-format=absolute", "--git-path", "objects").decode().strip()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "objects").mkdir()
        apart = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": f"{scratch}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        _must(root, "read-tree", "HEAD", environment=apart)
        listed = _must(
            root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES, environment=apart
        )
        _must(root, "update-index", "-z", "--add", "--remove", "--stdin", given=listed, environment=apart)
        return _must(root, "diff", "--cached", "--binary", "--no-ext-diff", "--no-textconv", "HEAD", environment=apart)


def _must(root: Path, *arguments: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    """Return git's output; GraphError if git fails."""
    output = _git(root, *arguments, given=given, environment=environment)
    if output is None:
        raise GraphError(f"git {arguments[0]} failed")
    return output


def _git(root: Path, *arguments: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes | None:
    """Return git's output; None if it fails: no git, no repository, no commit, a broken object, a 2-minute timeout."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env={**os.environ, **(environment or {})},
            input=given,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def committed(root: Path, path: Path) -> bytes | None:
    """Return a file of the project at HEAD; None if HEAD lacks it or there is no git."""
    return _git(root, "show", f"HEAD:./{path.as_posix()}")


def missing_commit(root: Path, commit: str) -> str:
    """Return why a commit cannot be checked out here; "" if it can."""
    if _git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"):
        return ""
    head = head_of(root)
    if head.failed:
        return f"whether commit {commit[:12]} is in this repository is unknown: {head.trouble}; {head.fix}"
    return f"commit {commit[:12]} is not in this repository: fetch it"
