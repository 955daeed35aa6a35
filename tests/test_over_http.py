"""The whole product on a real MLflow server, one open and one with passwords: every command that asks it anything.

Whoever asks as somebody else, or when the server is gone, gets a sentence.
"""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from tests.conftest import BIN, Project
from tests.servers import guarded_mlflow_server, mlflow_server

pytestmark = [pytest.mark.alone, pytest.mark.exhaustive]
WRONG = "a-wrong-password"


@pytest.fixture(scope="module")
def trained(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project on the embedded example before anything of it was judged: nothing has asked MLflow yet."""
    project = new_project(tmp_path_factory.mktemp("trained") / "project")
    project.must("regraft", "use", "digits")
    for old, new in (
        ("  epochs: 12 ", "  epochs: 2 "),
        ("  scratch: true ", "  scratch: false "),
        ("bootstrap_draws: 2000", "bootstrap_draws: 200"),
        ("robustness_images: 100", "robustness_images: 0"),
        ("comparison: superior ", "comparison: non_inferior "),
        ("  margin: 0.0 ", "  margin: 0.5 "),
    ):
        project.edit("params.yaml", old, new)
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["add", "--all"], [*who, "commit", "--quiet", "--message", "a project"]):
        subprocess.run(["git", *command], cwd=project.root, env=dict(project.environment), check=True)
    project.must("regraft", "run", "fine_tune", "baselines")
    assert not (project / ".regraft/mlflow.db").exists()
    return project


@dataclass(frozen=True)
class Served:
    """A project whose MLflow is a server; `stop` ends the server."""

    project: Project
    stop: Callable[[], None]

    @property
    def asks(self) -> bool:
        """Say whether the server wants a password."""
        return "MLFLOW_TRACKING_PASSWORD" in self.project.environment

    def status(self) -> str:
        return str(json.loads(self.project.must("regraft", "status", "--json"))["champion"])

    def refusals(self, *commands: tuple[str, ...], **environment: str) -> Iterator[str]:
        """Yield what each command says, which has to be a sentence, an exit code of 1 and no secret."""
        for command in commands:
            done = self.project.run("regraft", *command, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", **environment)
            said = done.stdout + done.stderr
            assert done.returncode == 1 and "Traceback" not in said and "password-of-" not in said, (command, said)
            assert WRONG not in said, command
            yield said


@pytest.fixture(scope="module", params=["open", "passwords"])
def served(
    request: pytest.FixtureRequest, trained: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    place = tmp_path_factory.mktemp(request.param)
    shutil.copytree(trained.root, place / "project", symlinks=True)
    with ExitStack() as stack:
        who: dict[str, str] = {}
        if request.param == "open":
            address = stack.enter_context(mlflow_server(place))
        else:
            address, who = stack.enter_context(guarded_mlflow_server(place))
        environment = {**trained.environment, "MLFLOW_TRACKING_URI": address, **who}
        yield Served(replace(trained, root=place / "project", environment=environment), stack.close)


def test_a_run_a_proposal_an_approval_and_a_rollback(served: Served) -> None:
    project = served.project
    first = json.loads(project.must("regraft", "run", "--json"))
    assert first["promotion"]["changed"] and first["stages"]["fine_tune"] == "Fresh" != first["stages"]["evaluate"]
    assert not (project / ".regraft/mlflow.db").exists() and (project / "data/looks.jsonl").exists()
    project.edit("params.yaml", "approval: auto ", "approval: required ")
    project.edit("params.yaml", "  epochs: 2 ", "  epochs: 3 ")
    project.edit("params.yaml", "0.1, 1.0, 10.0]\n\nfine_tune", "0.1, 1.0]\n\nfine_tune")
    second = json.loads(project.must("regraft", "run", "--json"))["promotion"]
    champion, proposed = first["promotion"]["champion"], second["challenger"]
    assert (second["verdict"], second["champion"]) == ("propose", champion != proposed and champion)
    project.must("regraft", "approve", proposed, "--reason", "as good")
    assert served.status() == proposed
    project.must("regraft", "rollback", "--reason", "wrong on Mondays")
    assert served.status() == champion
    told = json.loads(project.must("regraft", "history", "--json"))
    assert [entry["kind"] for entry in told["entries"]] == ["promote", "propose", "promote", "rollback"]
    assert "on 600 test images" in project.must("regraft", "compare", champion, proposed)


def test_a_run_with_nothing_to_do_asks_the_server_and_changes_nothing(served: Served) -> None:
    told = json.loads(served.project.must("regraft", "run", "--json"))
    assert set(told["stages"].values()) == {"Fresh"} and not told["promotion"]["changed"]


def test_the_champion_answers_files_and_requests(served: Served) -> None:
    project, champion = served.project, served.status()
    pictures = sorted((project / "data/raw").rglob("*.png"))[:5]
    project.must("regraft", "predict", *map(str, pictures), "--output", "answers.csv")
    with (project / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["version"] for row in rows] == [champion] * 5
    command = [str(BIN / "regraft"), "serve", "--port", "0", "--workers", "1"]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=project.root, env=dict(project.environment), **pipes) as running:  # type: ignore[call-overload]
        try:
            assert running.stdout
            address = running.stdout.readline().split()[-1]
            told = httpx.post(address, content=pictures[0].read_bytes(), timeout=120).raise_for_status().json()
        finally:
            running.kill()
    assert (told["label"], told["version"]["number"]) == (rows[0]["label"], champion)


def test_the_audit_finds_no_gap_and_the_export_answers_alike(served: Served) -> None:
    project = served.project
    audit = json.loads(project.must("regraft", "audit", "--verify", "--json"))
    assert audit["faults"] == [] and [gap for link in audit["links"] for gap in link["gaps"]] == []
    assert "onnx" in project.must("regraft", "export", "champion")


def test_a_replay_is_identical_and_leaves_the_project_as_it_was(served: Served) -> None:
    """Once: its stages run apart from the server, and take a minute; all that it asks the server needs a password."""
    project = served.project
    if not served.asks:
        pytest.skip("the server with passwords has it")
    told = json.loads(project.must("regraft", "replay", served.status(), "--json", timeout=900))
    assert told["verdict"] == "identical", told
    assert set(json.loads(project.must("regraft", "status", "--json"))["stages"].values()) == {"Fresh"}


READING = (
    ("status",),
    ("history",),
    ("audit",),
    ("predict", "data/raw"),
    ("serve", "--port", "0"),
    ("export", "champion"),
    ("compare", "1", "2"),
    ("replay", "1"),
)
DECIDING = (("run",), ("approve", "1", "--reason", "x"), ("rollback", "--reason", "x"))


def test_a_wrong_password_is_said_by_every_command_and_decides_nothing(served: Served) -> None:
    project = served.project
    if not served.asks:
        pytest.skip("this server wants none")
    before = project.must("regraft", "history")
    told = "user name or password was rejected: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    for said in served.refusals(*READING, *DECIDING, ("doctor",), MLFLOW_TRACKING_PASSWORD=WRONG):
        assert told in said
    project.edit("params.yaml", "power: 0.8 ", "power: 0.79 ")  # now a stage asks the server, not only what follows
    for said in served.refusals(("run", "evaluate"), MLFLOW_TRACKING_PASSWORD=WRONG):
        assert told in said
    project.edit("params.yaml", "power: 0.79 ", "power: 0.8 ")
    inside = project.environment["MLFLOW_TRACKING_URI"].replace("://", f"://ada:{WRONG}@")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        project = replace(project, environment={k: v for k, v in project.environment.items() if k != name})
    for said in replace(served, project=project).refusals(("status",), ("run",), MLFLOW_TRACKING_URI=inside):
        assert told in said
    project = served.project
    assert project.must("regraft", "history") == before
    assert not json.loads(project.must("regraft", "run", "--json"))["promotion"]["changed"]


def test_a_server_that_is_gone_is_said_by_every_command(served: Served) -> None:
    served.stop()
    for said in served.refusals(("status",), ("predict", "data/raw"), ("run",)):
        assert "does not answer" in said
