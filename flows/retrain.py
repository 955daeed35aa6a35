"""The flow `retrain`: every stale stage as one Prefect task, then promotion. No stage is named, no value passed.

The graph is dvc.yaml, policy is its `meta:`, and DVC alone judges freshness, so Prefect's own cache is off.
"""

import logging
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import data_gates, orchestration, preflight
from flows.approval import tell, wait_for_answer
from flows.finish import FRESH, RAN, Report, check_params, finish
from flows.graph import Graph, Stage
from flows.project import enter, running
from flows.sources import refresh
from flows.stopping import bind_to_us, ending_when_told
from steps.errors import (
    DataError,
    GraphError,
    ParamsError,
    RegraftError,
    RejectedError,
    RequestError,
    without_passwords,
)

log = logging.getLogger("regraft")


def may_heal(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Retry transient failures. Wrong data and wrong params are not transient."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, DataError | ParamsError | RequestError)


@task(cache_policy=NO_CACHE, persist_result=False, retry_delay_seconds=5, retry_condition_fn=may_heal)
def run_stage(graph: Graph, stage: Stage, force: bool) -> State[Any]:
    """Bring one stage up to date: ask DVC, and if it is stale, clear its outputs, run it, commit it."""
    attempt = get_run_context().task_run.run_count  # type: ignore[union-attr]
    if graph.is_fresh(stage.name) and not force:
        return Completed(name=FRESH, message="nothing changed since dvc.lock")
    log.info("%s ...%s", stage.name, f" (attempt {attempt})" if attempt > 1 else "")
    with no_secrets():
        execute(graph, stage)
    return Completed(name=RAN, message="ran and was committed to DVC")


@contextmanager
def no_secrets() -> Iterator[None]:
    """Replace an error that quotes a password, e.g. in an address: Prefect keeps its text, and its pages show it."""
    try:
        yield
    except Exception as error:  # of any library: each may quote the address that it was given
        text = "".join(traceback.format_exception(error))
        if without_passwords(text) == text:
            raise
        raise GraphError(without_passwords(text)) from None


def execute(graph: Graph, stage: Stage) -> None:
    """Run one stage in this process (or let DVC do it, if it asks for isolation) and commit it."""
    from steps.runtime import stage as binding

    if stage.isolate:
        graph.reproduce(stage.name)
        return
    before = graph.clear(stage.name)
    binding.run(stage.cmd, graph.root)
    graph.commit(stage.name, before)


@flow(name="retrain", persist_result=False, task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
def retrain(root: str = ".", targets: Sequence[str] = (), force: bool = False) -> Report:
    """Bring the project in `root` up to date and promote the better model if it earned it.

    One worker, because DVC's lock expects one. With `targets`, only those stages and what they need; no promotion.
    """
    home = enter(Path(root))
    with running(home), ending_when_told():
        graph = refresh(home)
        check_params(graph)
        if not targets:
            preflight.check(home)
        futures: dict[str, PrefectFuture[Any]] = {}
        for stage in graph.select(targets):
            limit = stage.timeout_minutes * 60 if stage.timeout_minutes else None
            task = run_stage.with_options(name=stage.name, retries=stage.retries, timeout_seconds=limit)
            wait_for = [futures[name] for name in stage.upstream]
            futures[stage.name] = task.submit(graph, stage, force, wait_for=wait_for)  # type: ignore[call-overload]
        wait(list(futures.values()))  # all of them: the project's lock must outlive the last stage that still runs
        states = {name: _settled(home, name, future) for name, future in futures.items()}
        report = Report(states, checks=data_gates.write_page(home, states))
        if targets:
            return report
        with no_secrets():
            report = finish(graph, report)
    tell(report)
    return wait_for_answer(home, report)


@contextmanager
def server_starting() -> Iterator[None]:
    """Start Prefect's temporary server while the block runs (10 s on another processor), unless an address is set.

    If that fails, the flow tries again and reports it. An error in the block is raised at once and stops the server.
    """
    if orchestration.address():  # `retrain_now` asks it
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer  # before the block: no two threads import at once

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for the run, which needs it
        with suppress(Exception):
            server.start()

    def bind() -> None:
        while starting.is_alive() and server.server_process is None:
            time.sleep(0.01)
        if server.server_process:
            bind_to_us(server.server_process.pid)

    server, starting = SubprocessASGIServer(), Thread(target=start, daemon=True)
    starting.start()
    Thread(target=bind, daemon=True).start()
    try:
        yield
    except BaseException:
        while starting.is_alive() and server.server_process is None:  # milliseconds; else it would outlive us
            time.sleep(0.01)
        server.stop()
        raise
    starting.join()


def retrain_now(root: Path, targets: Sequence[str], force: bool) -> Report:
    """Run the flow in this process; RegraftError if a Prefect server is set and does not answer."""
    orchestration.refuse()
    try:
        return retrain(str(root), targets, force)
    except RuntimeError as error:  # Prefect has no type of its own for it
        if "Failed to reach API" not in str(error):
            raise
        raise RegraftError(
            f"the Prefect server at {orchestration.address() or 'loopback'} does not answer any more"
        ) from None


def _settled(root: Path, name: str, future: PrefectFuture[Any]) -> str:
    """Return the name of a stage's final state; raise the stage's own error if it failed, with the page that shows it.

    The page of a gate's refusal holds what the gates up to this one have reported.
    """
    try:
        future.state.result(raise_on_failure=True)
    except TimeoutError:
        raise GraphError(f"{name} took longer than its timeout_minutes in dvc.yaml") from None
    except RejectedError as error:
        page = data_gates.write_page(root, {"validate", name})
        raise RejectedError(f"{error}\n  in pictures, with the lines to paste: {page}") from None
    return str(future.state.name)
