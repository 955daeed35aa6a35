"""A served deployment, triggered through the API of a real Prefect server."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, Project, write_images


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    return until(lambda: _answer(request), 60)


def _answer(request: urllib.request.Request) -> Any:
    """Return the answer, or None on 503: SQLite is busy, and Prefect's own client waits and asks again, too."""
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return None


def until(found: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while (value := found()) is None:
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)
    return value


@pytest.mark.exhaustive
def test_a_triggered_deployment_retrains_asks_for_approval_and_completes(
    new_project: Callable[[Path], Project], prefect_server: str, tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project")
    images = write_images(tmp_path / "images", per_class=40)
    project.must("regraft", "use", str(images), "--backbone", "glyphnet", "--packed")  # every stage reads shards
    project.edit("params.yaml", "epochs: 12 ", "epochs: 1 ")
    project.edit("params.yaml", "scratch: true ", "scratch: false ")
    project.edit("params.yaml", "approval: auto", "approval: required")
    project.edit("params.yaml", "wait_minutes: 0", "wait_minutes: 10")
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [str(BIN / "regraft"), "deploy", "--cron", "0 3 * * *"],
        cwd=project.root,
        env=dict(project.environment),
        stdout=log,
        stderr=log,
    )
    try:
        deployment = until(lambda: _deployment(prefect_server), 60)
        assert deployment["schedules"][0]["schedule"]["cron"] == "0 3 * * *"
        scheduled = until(lambda: _scheduled(prefect_server, deployment["id"]), 90)
        assert scheduled[0]["auto_scheduled"], "the scheduler itself has to plan the nights ahead"
        run = ask(f"{prefect_server}/deployments/{deployment['id']}/create_flow_run", {})
        until(lambda: _paused(prefect_server, run["id"]), 240)
        answer = {"approve": True, "by": "Ada", "reason": "looked at the mistakes"}
        resumed = ask(f"{prefect_server}/flow_runs/{run['id']}/resume", {"run_input": answer})
        assert resumed["status"] == "ACCEPT", resumed
        state = until(lambda: _ended(prefect_server, run["id"]), 60)
    finally:
        server.terminate()
        server.wait()
        log.close()
    assert state == "COMPLETED", (tmp_path / "log").read_text()
    tasks = ask(f"{prefect_server}/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert {task["name"].rsplit("-", 1)[0] for task in tasks} >= {"ingest", "fine_tune", "report"}
    assert {path.suffix for path in (project / "data/raw").rglob("*") if path.is_file()} == {".tar", ".parquet"}
    page = (project / "data/outcome/index.html").read_text(encoding="utf-8")
    assert "version 1 of regraft is the new champion" in page or "version 2 of regraft is the new champion" in page
    entries = json.loads(project.must("regraft", "history", "--json"))["entries"]
    assert [(entry["kind"], entry["champion"] is None) for entry in entries] == [("propose", True), ("promote", False)]
    assert (entries[1]["by"], entries[1]["reasons"][0]) == ("Ada", "approved: looked at the mistakes")


def _deployment(api: str) -> Any:
    try:
        return ask(f"{api}/deployments/name/retrain/nightly")
    except urllib.error.HTTPError:
        return None


def _scheduled(api: str, deployment: str) -> Any:
    planned = ask(f"{api}/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}})
    return [run for run in planned if run["state_type"] == "SCHEDULED"] or None


def _paused(api: str, run: str) -> Any:
    state = ask(f"{api}/flow_runs/{run}")["state"]
    assert state["type"] not in ("COMPLETED", "FAILED", "CRASHED"), state
    return state if state["type"] == "PAUSED" else None


def _ended(api: str, run: str) -> Any:
    state = ask(f"{api}/flow_runs/{run}")["state"]["type"]
    return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def test_without_a_server_or_with_a_wrong_schedule_the_request_is_refused(
    new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project")
    done = project.run("regraft", "deploy", "--cron", "every night")
    assert (done.returncode, "is no schedule" in done.stderr) == (2, True), done.stderr
    done = project.run("regraft", "deploy", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (done.returncode, "no Prefect server answers at" in done.stderr) == (2, True), done.stderr
    done = project.run("regraft", "deploy", PREFECT_API_URL="")
    assert (done.returncode, "PREFECT_API_URL is not set" in done.stderr) == (2, True), done.stderr
