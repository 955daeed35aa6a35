"""When, where and by whom a run was made, and what restores its code: beside its identity, never part of it."""

import getpass
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# What results follow from, as far as git holds it; the data itself is DVC's.
SOURCES = (
    "steps", "dvc.yaml", "params.yaml", "requirements.lock", "data/*.dvc", "data/decisions.csv", "data/importance.csv",
    ".dvc/config",
)  # fmt: skip
COMMIT, CHANGES, BY, HARDWARE, PREFECT = (
    "mlflow.source.git.commit", "regraft.changes", "mlflow.user", "regraft.hardware", "regraft.prefect_run",
)  # fmt: skip
FOLDER, PATCH, LOCK, PARAMS = "circumstances", "changes.patch", "dvc.lock", "params.yaml"
NAMES = (PATCH, LOCK, PARAMS)
MOST = 16 * 2**20  # bytes of a patch; more is told, and not kept
NONE, KEPT, LOST = "none", "kept", "too large to keep"


@dataclass(frozen=True)
class Circumstances:
    """Tags of a run, and the files that replay needs: name -> bytes."""

    tags: dict[str, str]
    files: dict[str, bytes]


def gather(root: Path) -> Circumstances:
    """Look around: commit, uncommitted changes, login, processor, Prefect run; params.yaml and dvc.lock as they are.

    dvc.lock holds the stages before `register` as they were committed to DVC; of `register` itself it cannot know.
    """
    held = {name: (root / name).read_bytes() for name in (PARAMS, LOCK) if (root / name).is_file()}
    tags = {BY: getpass.getuser(), HARDWARE: hardware()}
    if run := os.environ.get("PREFECT__FLOW_RUN_ID"):
        tags[PREFECT] = run
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return Circumstances(tags, held)
    patch = changes(root)
    state = NONE if not patch else KEPT if len(patch) <= MOST else LOST
    if state == KEPT:
        held[PATCH] = patch
    return Circumstances({**tags, COMMIT: commit.decode().strip(), CHANGES: state}, held)


def hardware() -> str:
    """Describe this machine, as far as results can depend on it."""
    machine = f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}"
    return f"{machine}, Python {platform.python_version()}"


def changes(root: Path) -> bytes:
    """Return the uncommitted changes of `SOURCES` as a binary-safe patch, new files included; b"" where there are none.

    The index and the objects that git needs for it live in a temporary folder: the user's own are left alone.
    """
    objects = _git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects").decode().strip()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "objects").mkdir()
        apart = {
            "GIT_INDEX_FILE": f"{scratch}/index", "GIT_OBJECT_DIRECTORY": f"{scratch}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }  # fmt: skip
        _git(root, "read-tree", "HEAD", environment=apart)
        listed = _git(
            root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES, environment=apart
        )
        _git(root, "update-index", "-z", "--add", "--remove", "--stdin", given=listed, environment=apart)
        return _git(root, "diff", "--cached", "--binary", "--no-ext-diff", "--no-textconv", "HEAD", environment=apart)


def _git(root: Path, *arguments: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    """Return what git prints; b"" where it fails: no git, no repository, no commit."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env={**os.environ, **(environment or {})}, input=given, capture_output=True,
            check=False, timeout=120,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def has_commit(root: Path, commit: str) -> bool:
    """Say whether the repository holds a commit."""
    return bool(_git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"))
