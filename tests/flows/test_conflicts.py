"""A file that holds both sides of a merge is named as that, with commands that resolve it as printed."""

import re
import subprocess
from pathlib import Path

import pytest

from flows.conflicts import remedies
from flows.preflight import FAULT, merges
from flows.project import enter
from steps.errors import RequestError
from tests.conftest import make_project

CONFLICT = "<<<<<<< HEAD\nmine: 1\n=======\ntheirs: 1\n>>>>>>> other\n"


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=check, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("dvc.lock", "restore an earlier version"),
        ("data/raw.dvc", "restore an earlier version"),
        ("data/ledger.jsonl", "restore an earlier version"),
        ("data/looks.jsonl", "restore an earlier version"),
        ("data/reports/evaluation.json", "restore an earlier version"),
        ("requirements.lock", "restore an earlier version"),
        ("params.yaml", "keep the lines that you mean"),
        ("dvc.yaml", "keep the lines that you mean"),
        ("data/decisions.csv", "keep the lines that you mean"),
        (".dvc/config", "keep the lines that you mean"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_each_tracked_file_is_looked_at(tmp_path: Path, name: str, remedy: str, ending: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(f"before\n{CONFLICT}after\n".replace("\n", ending).encode())
    (sentence,) = remedies(tmp_path)
    assert sentence.startswith(f"{name} holds a merge conflict; {remedy}")


@pytest.mark.parametrize("text", ["", "a\n=======\nb\n", "<<<<<<< HEAD\n", "note,<<<<<<< x\n=======\n>>>>>>> y\n"])
def test_other_texts_are_no_conflict(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    assert remedies(tmp_path) == []


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """A project in the middle of a merge, with conflicts in dvc.lock and data/raw.dvc."""
    root = make_project(tmp_path / "project", {}).root
    names = ("dvc.lock", "data/raw.dvc")
    for branch in ("base", "one", "two"):
        if branch != "base":
            git(root, "checkout", "--quiet", "-b", branch, *(["base"] if branch == "two" else []))
        for name in names:
            (root / name).write_text(f"outs: {branch}\n")
        git(root, "add", "--force", *names)
        git(root, "commit", "--quiet", "--message", branch)
        if branch == "base":
            git(root, "branch", "--move", "base")
    git(root, "merge", "one", check=False)
    return root


def test_every_command_and_doctor_refuse_an_unresolved_merge(merged: Path) -> None:
    with pytest.raises(RequestError, match=r"^data/raw.dvc and dvc.lock hold a merge conflict; take either side"):
        enter(merged)
    (finding,) = merges(merged)
    assert finding.state == FAULT


def test_the_commands_resolve_it_as_printed(merged: Path) -> None:
    (sentence,) = remedies(merged)
    for command in re.findall("`(git [^`]+)`", sentence):
        subprocess.run(command, shell=True, cwd=merged, check=True, capture_output=True)
    assert remedies(merged) == [] and (merged / "dvc.lock").read_text() == "outs: two\n"
    assert git(merged, "diff", "--name-only", "--diff-filter=U") == ""
