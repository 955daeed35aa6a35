"""The verdict in Prefect's pages; the answer that a person gives there is tried with a deployment (test_deploy)."""

import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.approval import Approval, tell, wait_for_answer
from flows.finish import Report
from flows.project import running
from steps.promotion.terms import Promotion
from tests.outputs import JUDGED

PROPOSED = Promotion(
    model_name="regraft",
    champion="1",
    challenger="2",
    previous="1",
    changed=False,
    run_id="r",
    judged=JUDGED,
    reasons=("it may be promoted, once a person says so: regraft approve 2 --reason TEXT", "better by 0.1"),
    verdict="propose",
    comparison=None,
    caveats=(),
)
REPORT = Report(promotion=PROPOSED, summary="# version 2 waits for approval\n\n- better by 0.1\n")


def test_an_answer_waits_for_the_run_that_holds_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause is Prefect's, and tried with a deployment; here a person has answered already."""
    made: list[tuple[Any, ...]] = []
    (project / ".regraft").mkdir()
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "7d5b2c1e-0000-4000-8000-000000000000")
    monkeypatch.setattr("flows.approval._ask", lambda *_: Approval(approve=False, by="Ada", reason="too late"))
    monkeypatch.setattr("flows.approval.release.decline", lambda *told: made.append(told))
    monkeypatch.setattr("flows.approval.answered", lambda _, report, __: report)
    with ThreadPoolExecutor(1) as pool:
        with running(project):
            settled = pool.submit(wait_for_answer, project, REPORT)
            with pytest.raises(FutureTimeout):
                settled.result(timeout=0.3)
            assert made == [], "it decided while another run held the project"
        assert settled.result(timeout=60) == REPORT
    assert made == [(project, "2", "Ada", "too late")]


def in_a_flow(api: str, root: Path, linger: float = 0) -> tuple[Any, float]:
    """Show a proposal and wait for its answer in a flow run; return its final state and the seconds that it took."""

    @flow(name="settling", persist_result=False)
    def settling() -> Report:
        tell(REPORT)
        settled = wait_for_answer(root, REPORT)
        time.sleep(linger)
        return settled

    start = time.monotonic()
    with temporary_settings({PREFECT_API_URL: api}):
        return settling(return_state=True), time.monotonic() - start


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Waiting is asked for; a test that waits sets how long."""
    (tmp_path / "params.yaml").write_text("promote: {wait_minutes: 600}\n")
    return tmp_path


def test_a_run_without_a_deployment_does_not_wait_and_shows_its_verdict(prefect_server: str, project: Path) -> None:
    state, _ = in_a_flow(prefect_server, project)
    assert state.is_completed() and state.result().promotion == PROPOSED
    with urllib.request.urlopen(f"{prefect_server}/artifacts/verdict/latest", timeout=30) as answer:
        told = json.load(answer)
    assert told["description"] == "propose"
    assert told["data"] == REPORT.summary


def test_without_an_answer_in_time_the_proposal_stays_and_the_run_completes(
    prefect_server: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "7d5b2c1e-0000-4000-8000-000000000000")
    (project / "params.yaml").write_text("promote: {wait_minutes: 0.02}\n")
    state, seconds = in_a_flow(prefect_server, project, linger=8)  # Prefect looks for expired pauses every 5 seconds
    assert state.is_completed() and state.result().promotion == PROPOSED
    assert seconds > 0.02 * 60, "it did not wait"
