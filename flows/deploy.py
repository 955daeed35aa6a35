"""Schedules: the flow `retrain`, served nightly against a Prefect server."""

from pathlib import Path

from prefect.schedules import Cron

from flows import orchestration
from flows.retrain import retrain
from steps.errors import RequestError

DEPLOYMENT = "nightly"


def serve(root: Path, cron: str, timezone: str) -> None:
    """Register the deployment `retrain/nightly` and run it when due, each run in a process of its own, until stopped.

    A run in its own process imports the code of that night: a server that is older than an update would run the old
    code and record the new. Raises RequestError without a Prefect server, or for an invalid schedule.
    """
    if not orchestration.address():
        raise RequestError(
            "PREFECT_API_URL is not set: `make ui` starts a Prefect server and prints the line to export"
        )
    try:
        schedule = Cron(cron, timezone=timezone)
    except ValueError as error:
        raise RequestError(f"--cron {cron!r} (--timezone {timezone!r}) is no schedule: {error}") from None
    orchestration.refuse()
    retrain.serve(
        name=DEPLOYMENT,
        schedule=schedule,
        parameters={"root": str(root)},
        tags=["regraft"],
        limit=1,  # runs of one project queue; its lock would refuse the second
        pause_on_shutdown=False,
    )
