"""Show the verdict in Prefect's pages, and take a person's answer to a proposal there."""

from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from prefect.states import Running
from pydantic import Field

from flows.finish import Report, answered, headline
from flows.project import running
from steps.promotion import release
from steps.promotion.terms import Promotion
from steps.registry.chain import PROPOSE
from steps.runtime import params

ARTIFACT = "verdict"
POLL = 5  # seconds between two checks for an answer


class Approval(RunInput):
    """The form that Prefect shows to the person who resumes the run."""

    approve: bool = Field(description="Promote the version?")
    by: str = Field(min_length=1, description="Who decides")
    reason: str = Field(min_length=1, description="Why; kept in the ledger")


def tell(report: Report) -> None:
    """Show the outcome (verdict, reasons, figures, looks) as an artifact of the flow run."""
    if report.promotion:
        create_markdown_artifact(key=ARTIFACT, markdown=str(report.summary), description=report.promotion.verdict)


def wait_for_answer(root: Path, report: Report) -> Report:
    """Wait for a person's answer if a deployed run proposed a version and params.yaml sets a waiting time.

    Without an answer in time the proposal stays open for `regraft approve`. The project's lock is free meanwhile; if
    another run holds it when the answer comes, the answer waits. Raises RequestError if the champion has changed.
    """
    promotion = report.promotion
    minutes = params.read(root)["promote"]["wait_minutes"]
    if promotion is None or promotion.verdict != PROPOSE or not minutes or deployment.id is None:
        return report
    answer = _ask(promotion, minutes)
    if answer is None:
        return report
    decide = release.approve if answer.approve else release.decline
    with running(root, wait=True):  # the answer must not be lost to a run that takes the lock first
        return answered(root, report, decide(root, promotion.challenger, answer.by, answer.reason))


def _ask(promotion: Promotion, minutes: float) -> Approval | None:
    form = Approval.with_initial_data(description=_words(promotion))
    try:
        return pause_flow_run(wait_for_input=form, timeout=max(1, round(60 * minutes)), poll_interval=POLL)
    except FlowPauseTimeout:
        _go_on()
        return None


def _go_on() -> None:
    """Leave the expired pause: Prefect fails a run that completes while paused or whose pause has expired."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run.id), Running(), force=True)


def _words(promotion: Promotion) -> str:
    reasons = "".join(f"- {reason}\n" for reason in promotion.reasons)
    return f"**{headline(promotion)}**\n\n{reasons}"
