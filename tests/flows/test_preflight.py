"""What would spoil the end of a run is found before its beginning."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import preflight
from flows.graph import Graph, cache, remotes
from flows.preflight import FAULT, WARNING
from flows.project import enter
from steps.errors import RegistryError, RequestError
from steps.promotion import release
from steps.registry import circumstances, tracking
from steps.registry.circumstances import NO_COMMIT, gather
from tests.conftest import make_project
from tests.flows.test_conflicts import git
from tests.registered import NAME, Registered, inside


def unborn(root: Path) -> None:
    (root / ".git/HEAD").write_text("ref: refs/heads/new\n")


def no_repository(root: Path) -> None:
    (root / ".git").rename(root / "git")


def another_owner(root: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder away")
    os.chown(root, 12345, 12345)
    os.chown(root / ".git", 12345, 12345)


def broken_commit(root: Path) -> None:
    next((root / ".git/refs/heads").iterdir()).write_text("0" * 39 + "1\n")


def broken_head(root: Path) -> None:
    (root / ".git/HEAD").write_text("nonsense\n")


def script(root: Path, text: str) -> None:
    (root / "bin").mkdir()
    (root / "bin/git").write_text(text)
    (root / "bin/git").chmod(0o755)
    os.environ["PATH"] = str(root / "bin")


def no_program(root: Path) -> None:
    os.environ["PATH"] = str(root / "nowhere")


def slow(root: Path) -> None:
    circumstances.PATIENCE = 1
    script(root, "#!/bin/sh\nexec /bin/sleep 30\n")


def wordless(root: Path) -> None:
    script(root, "#!/bin/sh\nexit 7\n")


TROUBLES: list[tuple[Callable[[Path], None], str, str]] = [
    (unborn, "no commit yet", "`git add --all` and `git commit`"),
    (no_repository, "no git repository", "`git init`, then commit"),
    (another_owner, "git does not trust this folder", "`git config --global --add safe.directory "),
    (broken_commit, "git fails: fatal: bad object HEAD", "try `git status`"),
    (broken_head, "git fails: fatal: not a git repository", "try `git status`"),
    (no_program, "git cannot be run (No such file or directory)", "install git"),
    (slow, "git did not answer within 1 s", "try `git status`"),
    (wordless, "git fails: no message", "try `git status`"),
]


@pytest.mark.parametrize(("spoil", "found", "fix"), TROUBLES, ids=lambda value: getattr(value, "__name__", ""))
def test_each_failure_of_git_is_named_and_recorded_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], found: str, fix: str
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(circumstances, "PATIENCE", circumstances.PATIENCE)
    root = make_project(tmp_path, {}).root
    git(root, "add", "dvc.yaml")
    git(root, "commit", "--quiet", "--message", "a project")
    known = git(root, "rev-parse", "HEAD").strip()
    spoil(root)
    (finding,) = preflight.commit(root)
    assert finding.state == WARNING
    assert finding.found.startswith(found) and finding.fix.startswith(fix)
    assert gather(root).tags[NO_COMMIT] in finding.found
    gone = circumstances.missing_commit(root, known)
    if spoil not in (unborn, no_repository):
        assert "is unknown" in gone or not gone


def test_the_line_of_git_makes_it_trust_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "HOME": str(tmp_path / "home")})
    os.environ.pop("GIT_CONFIG_GLOBAL", None)
    (tmp_path / "home").mkdir()
    root = make_project(tmp_path / "a project", {}).root
    git(root, "add", "dvc.yaml")
    git(root, "commit", "--quiet", "--message", "a project")
    another_owner(root)
    (finding,) = preflight.commit(root)
    subprocess.run(finding.fix.strip("`"), shell=True, check=True, env=os.environ)
    assert next(preflight.commit(root)).state == preflight.GOOD


def test_without_git_the_graph_works_and_its_configuration_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project(tmp_path, {}).root
    no_repository(root)
    before = (root / ".dvc/config").read_bytes()
    graph = Graph(root)
    assert "ingest" in graph.stages and not graph.is_fresh("ingest")
    (root / "data/raw").mkdir()
    (root / "data/raw/a.png").write_bytes(b"")
    graph.add("data/raw")
    graph.close()
    assert (root / "data/raw.dvc").is_file() and (root / ".dvc/config").read_bytes() == before
    assert cache(root) == root / ".dvc/cache" and remotes(root) == []


@pytest.fixture
def copied(registered_once: Registered, tmp_path: Path) -> Registered:
    return registered_once.copy(tmp_path / "project")


def delete_experiment(project: Registered) -> None:
    mlflow = project.registry.client
    experiment = project.registry.experiment("regraft")
    mlflow.delete_experiment(experiment)


def delete_champion(project: Registered) -> None:
    project.registry.client.delete_model_version(NAME, "1")


def delete_model(project: Registered) -> None:
    project.registry.client.delete_registered_model(NAME)


DELETED: list[tuple[Callable[[Registered], None], str]] = [
    (delete_experiment, "the experiment 'regraft' is deleted in MLflow"),
    (delete_champion, "version 1 of regraft, the champion by the ledger, was deleted in MLflow"),
    (delete_model, "the model regraft was deleted in MLflow"),
]


@pytest.mark.parametrize(("delete", "sentence"), DELETED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_was_deleted_in_mlflow_is_named_before_anything_runs(
    copied: Registered, delete: Callable[[Registered], None], sentence: str
) -> None:
    with inside(copied):
        assert list(preflight.registry(copied.root)) == []
        delete(copied)
        with pytest.raises(RegistryError, match=f"^nothing was run:\n.*{sentence}"):
            preflight.check(copied.root)
        (finding,) = preflight.registry(copied.root)
        assert finding.state == FAULT and finding.found.startswith(sentence)


def test_a_deleted_champion_is_one_sentence_to_who_asks_for_it(copied: Registered) -> None:
    from steps.registry.production import Production

    with inside(copied):
        delete_champion(copied)
        with pytest.raises(RegistryError, match="was deleted in MLflow"):
            Production(copied.registry).champion()
        assert not release.history(copied.root)[1]


def test_where_a_person_approves_a_lost_champion_is_a_warning(copied: Registered) -> None:
    path = copied.root / "params.yaml"
    path.write_text(path.read_text().replace("approval: auto", "approval: required"))
    with inside(copied):
        delete_champion(copied)
        (finding,) = preflight.registry(copied.root)
        assert finding.state == WARNING


def test_a_server_of_which_nothing_is_heard_is_given_up_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own client asks seven times, over a quarter of an hour."""
    monkeypatch.setattr(tracking, "PATIENCE", 1.0)
    root = make_project(tmp_path, {}).root
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:secret@127.0.0.1:{port}")
        with pytest.raises(
            RegistryError, match=r"^nothing was run:\n.*does not answer within 1 s; start it"
        ) as refused:
            preflight.check(root)
    assert "secret" not in str(refused.value)
    (finding,) = preflight.registry(root)  # its port is closed now
    assert finding.found == f"MLflow at http://ada@127.0.0.1:{port} does not answer: no connection"


def test_nothing_is_made_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_project(tmp_path, {}).root
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert list(preflight.registry(root)) == [] and not (root / ".regraft").exists()


def test_a_folder_that_mlflow_would_misread_is_refused(tmp_path: Path) -> None:
    root = make_project(tmp_path / "a%20b", {}).root
    with pytest.raises(RequestError, match="reads '%20' in a path as part of an address; rename or move the folder"):
        enter(root)
