"""When, where and by whom a run was made, and what restores its code: stored beside its identity, never part of it."""

import getpass
import json
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steps.errors import GraphError

log = logging.getLogger("regraft")
# What results depend on, as far as git tracks it; DVC tracks the data itself.
SOURCES = (
    "steps",
    "dvc.yaml",
    "params.yaml",
    "requirements.lock",
    "data/*.dvc",
    "data/decisions.csv",
    "data/importance.csv",
    "data/lost_classes.json",
    ".dvc/config",
)
COMMIT, CHANGES, BY, HARDWARE, PREFECT = (
    "mlflow.source.git.commit",
    "regraft.changes",
    "mlflow.user",
    "regraft.hardware",
    "regraft.prefect_run",
)
TAGS = (COMMIT, CHANGES, BY, HARDWARE, PREFECT)
FOLDER, PATCH, LOCK, PARAMS = "circumstances", "changes.patch", "dvc.lock", "params.yaml"
NAMES = (PATCH, LOCK, PARAMS)
FILE = "circumstances.json"  # in a package: the tags and their run
MOST = 16 * 2**20  # bytes of a patch; a larger one is reported but not kept
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
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return Circumstances(tags, held)
    try:
        patch = changes(root)
        state = NONE if not patch else KEPT if len(patch) <= MOST else LOST
    except GraphError as error:
        log.warning("%s: what of the code is not committed stays unknown, so nothing can be replayed", error)
        state = UNKNOWN
    if state == KEPT:
        held[PATCH] = patch
    return Circumstances({**tags, COMMIT: commit.decode().strip(), CHANGES: state}, held)


def hardware() -> str:
    """Describe this machine, as far as results can depend on it."""
    machine = f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}"
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
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def committed(root: Path, path: Path) -> bytes | None:
    """Return a file of the project at HEAD; None if HEAD lacks it or there is no git."""
    return _git(root, "show", f"HEAD:./{path.as_posix()}")


def has_commit(root: Path, commit: str) -> bool:
    """Return whether the repository holds a commit."""
    return bool(_git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"))
