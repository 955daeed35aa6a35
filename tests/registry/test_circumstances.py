"""What a run keeps of a dirty tree brings the tree back, byte by byte, in a clean worktree of its commit."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from steps.registry import circumstances
from steps.registry.circumstances import CHANGES, COMMIT, KEPT, LOCK, LOST, NONE, PARAMS, PATCH, UNKNOWN, gather

BINARY = bytes(range(256)) * 3


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A committed project in a subfolder of a repository."""
    root = tmp_path / "repository" / "project"
    (root / "steps" / "templates").mkdir(parents=True)
    (root / "data").mkdir()
    for name in ("dvc.yaml", "params.yaml", "requirements.lock", "dvc.lock", "notes.txt"):
        (root / name).write_text(f"{name}\n")
    (root / "steps" / "train.py").write_bytes(b"windows = 1\r\nlatin = '\xe9'\r\n")
    (root / "steps" / "gone.py").write_text("old = 1\n")
    (root / ".gitignore").write_text("__pycache__/\n")
    git(root.parent, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "a project")
    return root


def soil(root: Path) -> dict[str, bytes]:
    """Change, add and remove files; return what `steps` and `data` hold then."""
    (root / "steps" / "train.py").write_bytes(b"windows = 2\r\nlatin = '\xe8'\r\n")
    (root / "steps" / "new.py").write_text("untracked = True\n")
    (root / "steps" / "templates" / "picture.bin").write_bytes(BINARY)
    (root / "steps" / "gone.py").unlink()
    (root / "data" / "raw.dvc").write_text("outs:\n- md5: 00\n")
    (root / "params.yaml").write_text("seed: 1\n")
    (root / "notes.txt").write_text("not what a result follows from\n")
    (root / "steps" / "__pycache__").mkdir()
    (root / "steps" / "__pycache__" / "train.pyc").write_bytes(b"ignored")
    return contents(root)


def contents(root: Path) -> dict[str, bytes]:
    kept = (path for path in root.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in kept if path.name != "notes.txt"}


def test_the_patch_restores_changed_new_binary_and_removed_files(project: Path, tmp_path: Path) -> None:
    git(project, "add", "notes.txt")
    wanted, index = soil(project), git(project, "diff", "--cached", "--name-only")
    objects = sorted((project.parent / ".git" / "objects").rglob("*"))
    found = gather(project)
    assert (found.tags[COMMIT], found.tags[CHANGES]) == (git(project, "rev-parse", "HEAD").strip(), KEPT)
    assert found.files[PARAMS] == b"seed: 1\n" and found.files[LOCK] == b"dvc.lock\n"
    assert b"notes.txt" not in found.files[PATCH]
    assert git(project, "diff", "--cached", "--name-only") == index, "the user's index was touched"
    assert sorted((project.parent / ".git" / "objects").rglob("*")) == objects

    clean = tmp_path / "clean"
    git(project, "worktree", "add", "--quiet", "--detach", str(clean), found.tags[COMMIT])
    (tmp_path / PATCH).write_bytes(found.files[PATCH])
    git(clean, "apply", "--binary", str(tmp_path / PATCH))
    assert contents(clean / "project") == wanted


def test_the_passwords_of_a_dvc_remote_are_not_kept(project: Path) -> None:
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("['remote \"r\"']\n    password = CANARY\n")
    (project / "params.yaml").write_text("seed: 1\n")
    assert b"CANARY" not in b"".join(gather(project).files.values())


def test_a_clean_tree_has_no_patch_and_a_large_one_is_told_and_not_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gather(project)
    assert (found.tags[CHANGES], PATCH in found.files) == (NONE, False)
    assert circumstances.missing_commit(project, found.tags[COMMIT]) == ""
    assert "is not in this repository: fetch it" in circumstances.missing_commit(project, "0" * 40)
    soil(project)
    monkeypatch.setattr(circumstances, "MOST", 100)
    found = gather(project)
    assert (found.tags[CHANGES], PATCH in found.files) == (LOST, False)


@pytest.mark.parametrize("broken", ["read-tree", "ls-files", "update-index", "diff"])
def test_a_failing_step_of_git_is_no_clean_tree(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    soil(project)
    real = shutil.which("git")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/git"
    script.write_text(f'#!/bin/sh\n[ "$1" = {broken} ] && exit 128\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    found = gather(project)
    assert (found.tags[CHANGES], PATCH in found.files) == (UNKNOWN, False)


def test_a_broken_object_is_no_clean_tree(project: Path) -> None:
    tree = git(project, "rev-parse", "HEAD^{tree}").strip()
    place = project.parent / ".git/objects" / tree[:2] / tree[2:]
    place.chmod(0o644)
    place.write_bytes(b"broken")
    assert gather(project).tags[CHANGES] == UNKNOWN


def test_without_a_commit_the_rest_is_told(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    git(tmp_path, "init", "--quiet")
    found = gather(tmp_path)
    assert COMMIT not in found.tags and CHANGES not in found.tags
    assert found.files == {PARAMS: b"seed: 0\n"}
    assert "processors" in found.tags[circumstances.HARDWARE] and found.tags[circumstances.BY]
