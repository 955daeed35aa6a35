"""Each trouble is found, named with its fix, and makes the command fail; nothing is changed by looking."""

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import doctor
from flows.doctor import FAULT, GOOD, WARNING, Finding, examine
from steps.backbones import models
from steps.commands import origins
from steps.registry import signing
from steps.runtime import files
from tests.conftest import Project, free_port, write_images
from tests.registered import Registered, inside


@pytest.fixture
def project(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    """A project with images and a backbone, put there by hand."""
    project = new_project(tmp_path / "project")
    write_images(project / "data/raw", per_class=2)
    card, state = origins.embedded()
    folder = project / "data/backbone"
    files.write_tensors(folder / models.WEIGHTS, state)
    models.write_card(folder, replace(card, sha256=files.sha256_of(folder / models.WEIGHTS)))
    return project


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_healthy_project_has_no_fault_and_the_command_says_so(project: Project) -> None:
    done = project.run("regraft", "doctor", "--json", PREFECT_API_URL="")
    findings = {row["what"]: row for row in json.loads(done.stdout)}
    assert [row for row in findings.values() if row["state"] == FAULT] == []
    assert done.returncode == 0
    assert findings["backbone"]["found"].startswith("glyphnet, digest")
    assert findings["packages"]["found"].startswith("all ")
    assert findings["DVC remote"]["state"] == WARNING


def test_a_terminal_of_another_encoding_gets_question_marks_and_no_traceback(project: Project) -> None:
    done = project.run("python", "-m", "flows.cli", "doctor", PREFECT_API_URL="", PYTHONIOENCODING="latin-1")
    assert "? Python" in done.stdout and "Traceback" not in done.stderr


def test_a_folder_that_is_no_project_is_told_so_and_nothing_else_is_held_against_it(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    faults = [finding for finding in examine(tmp_path / "empty").findings if finding.state == FAULT]
    assert [finding.what for finding in faults] == ["project"]
    assert "lacks dvc.yaml, params.yaml" in faults[0].found
    assert list((tmp_path / "empty").iterdir()) == []


def test_weights_that_are_not_the_card_s_are_a_fault(project: Project) -> None:
    weights = project / "data/backbone" / models.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    (finding,) = doctor._backbone(project.root)
    assert (finding.state, finding.fix) == (FAULT, "set it anew with `regraft use`")


def test_params_out_of_range_are_a_fault_with_all_of_them_named(project: Project) -> None:
    project.edit("params.yaml", "strategy: auto", "strategy: atuo")
    project.edit("params.yaml", "threads: 2", "threads: 0")
    finding = next(finding for finding in examine(project.root).findings if finding.what == "params")
    assert finding.state == FAULT
    assert "2 faults" in finding.found and "one of auto, head_only" in finding.found


def test_a_package_of_another_version_than_the_lock_s_is_a_fault(project: Project) -> None:
    lock = project / "requirements.lock"
    lock.write_text(lock.read_text() + "numpy==0.1 \\\nno-such-package==1.0 \\\nother==1 ; python_version < '3'\n")
    (finding,) = doctor._packages(project.root)
    assert finding.state == FAULT
    assert "(locked: 0.1)" in finding.found
    assert "no-such-package is missing (locked: 1.0)" in finding.found
    assert "other" not in finding.found


def test_keys_are_told_and_a_private_one_that_others_can_read_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in (signing.ENVIRONMENT, signing.PUBLIC):
        monkeypatch.setenv(name, "")  # as good as unset

    def keys() -> Finding:
        return next(doctor._keys(tmp_path))

    assert (keys().state, keys().found) == (GOOD, "none yet: made where the first version is signed")
    signing.sign("any")
    private = tmp_path / ".regraft/key.pem"
    fingerprint = hashlib.sha256((tmp_path / ".regraft/key.pub").read_bytes()).hexdigest()[:12]
    assert (keys().state, keys().found) == (GOOD, f"{private} signs; trusted to verify: {fingerprint}")
    private.chmod(0o640)
    assert (keys().state, keys().fix) == (WARNING, f"chmod 600 {private}")
    private.unlink()
    assert (keys().state, keys().found) == (GOOD, f"nothing signs here; trusted to verify: {fingerprint}")


def test_what_each_user_of_the_machine_could_change_is_named_with_the_line_that_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a project"
    for folder in (root, root / ".regraft", root / "data"):
        folder.mkdir()
    (root / "params.yaml").touch()
    monkeypatch.setenv("DVC_ROOT", str(root))
    for name in (signing.ENVIRONMENT, signing.PUBLIC):
        monkeypatch.setenv(name, "")
    signing.sign("-")
    (finding,) = doctor._rights(root)
    assert finding.state == GOOD
    for name, mode in (("params.yaml", 0o666), (".regraft/key.pub", 0o666), (".regraft", 0o777)):
        (root / name).chmod(mode)
    (finding,) = doctor._rights(root)
    assert finding.state == WARNING and "each user of this machine can change" in finding.found
    subprocess.run(finding.fix, shell=True, check=True)
    (finding,) = doctor._rights(root)
    assert finding.state == GOOD


def test_a_database_that_cannot_be_read_gets_no_tick(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project.root))
    (project / ".regraft").mkdir(exist_ok=True)
    (project / ".regraft/mlflow.db").write_bytes(b"SQLite format 3\0" + bytes(50))
    (finding,) = (finding for finding in examine(project.root).findings if finding.what == "MLflow")
    assert finding.state == FAULT


def test_a_password_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (
        "postgresql://ada:secret@db/x",
        f"http://ada:secret@127.0.0.1:{free_port()}",
        "http://ada:secret@127.0.0.1",
        "https://ada:sec/ret@127.0.0.1",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        (finding,) = doctor._mlflow(tmp_path)
        assert "sec" not in str(vars(finding)) and "ada@" in finding.found


@pytest.mark.parametrize(("variable", "what"), [("MLFLOW_TRACKING_URI", "MLflow"), ("PREFECT_API_URL", "Prefect")])
def test_a_server_that_does_not_answer_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, what: str
) -> None:
    address = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv(variable, address)
    check = {"MLflow": doctor._mlflow, "Prefect": doctor._prefect}[what]
    with temporary_settings({PREFECT_API_URL: address}):
        (finding,) = check(tmp_path)
    assert finding.state == FAULT
    assert variable in finding.fix


class Guarded(BaseHTTPRequestHandler):
    """A server that lets in whoever says `ada:secret`, and knows no experiment."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Basic {base64.b64encode(b'ada:secret').decode()}"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_behind_a_password_is_asked_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for user, state, told in (("ada:secret", GOOD, " answers"), ("ada:other", FAULT, "(HTTP 401 Unauthorized)")):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{user}@127.0.0.1:{server.server_port}")
            (finding,) = doctor._mlflow(tmp_path)
            assert finding.state == state and finding.found.endswith(told), finding
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        assert next(doctor._mlflow(tmp_path)).state == GOOD
        server.shutdown()


def test_a_server_that_answers_is_good(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        assert next(doctor._prefect(tmp_path)).state == GOOD


@pytest.mark.parametrize(
    ("architecture", "state"),
    [("alexnet", WARNING), ("vgg11", WARNING), ("resnet18", GOOD), ("vit_b_16", GOOD), ("convnext_tiny", GOOD)],
)
def test_networks_that_are_mostly_fully_connected_are_warned_of(tmp_path: Path, architecture: str, state: str) -> None:
    models.write_card(tmp_path / "data/backbone", replace(origins.embedded()[0], architecture=architecture))
    assert next(doctor._transfer(tmp_path)).state == state


def truncate_weights(project: Registered) -> None:
    for path in (project.root / ".regraft/mlartifacts").rglob(models.WEIGHTS):
        path.write_bytes(path.read_bytes()[:-100])


def delete_files(project: Registered) -> None:
    project.registry.connect()  # the database follows the copy, while its files are there
    shutil.rmtree(project.root / ".regraft/mlartifacts")


CHAMPIONS: list[tuple[Callable[[Registered], None], str, str]] = [
    (lambda _: None, GOOD, "version 1 is what was signed, and answers"),
    (truncate_weights, FAULT, "version 1 of regraft is not what was signed: "),
    (delete_files, FAULT, "version 1 of regraft"),
]


@pytest.mark.parametrize(("damage", "state", "sentence"), CHAMPIONS)
def test_the_champion_is_loaded_before_it_is_ticked(
    registered_once: Registered, tmp_path: Path, damage: Callable[[Registered], None], state: str, sentence: str
) -> None:
    with inside(registered_once.copy(tmp_path / "project")) as copied:
        damage(copied)
        (finding,) = [finding for finding in examine(copied.root).findings if finding.what == "champion"]
        assert finding.state == state and finding.found.startswith(sentence)
