"""A run that is told to stop, by a person or by the system, ends at once and leaves no process behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import Project, write_images

PROGRAM = """
import logging, subprocess, sys, threading, time
from flows.stopping import bind_to_us, ending_when_told
logging.basicConfig(format="%(message)s")
with ending_when_told():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # prefect"])
    bind_to_us(child.pid)
    threading.Thread(target=time.sleep, args=(600,)).start()  # a stage that computes
    print(child.pid, flush=True)
    time.sleep(600)
"""


def started(environment: Mapping[str, str] = os.environ) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a program that computes in a thread and has a process of its own; return both."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", PROGRAM], text=True, start_new_session=True, env=environment, **pipes
    )
    return program, psutil.Process(int(program.stdout.readline()))


@pytest.mark.parametrize(
    ("told", "code", "times"),
    [(signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 1), (signal.SIGINT, 130, 3), (signal.SIGKILL, -9, 1)],
)
def test_a_stopped_program_ends_with_all_it_started(told: signal.Signals, code: int, times: int) -> None:
    program, child = started()
    for _ in range(times):
        program.send_signal(told)
    _, said = program.communicate(timeout=60)
    child.wait(60)
    assert program.returncode == code
    assert told is signal.SIGKILL or said == (
        f"stopped by {told.name}; what is finished is kept, and `regraft run` goes on from there\n"
    )


DYING = """
import subprocess, threading, signal, time
from flows import stopping
children = [subprocess.Popen(["sleep", "600"]) for _ in range(200)]
for child in children:
    threading.Thread(target=child.wait, daemon=True).start()

def kill() -> None:
    for child in reversed(children):
        child.kill()
        time.sleep(0.0005)

threading.Thread(target=kill, daemon=True).start()
print("ready", flush=True)
stopping._end(signal.SIGINT)
"""


def test_processes_that_end_by_themselves_meanwhile_do_not_keep_it_from_ending() -> None:
    """Ctrl-C reaches all processes of a terminal at once."""
    done = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 130, done.stderr


def test_a_killed_program_leaves_no_process_where_there_is_no_ps(tmp_path: Path) -> None:
    for tool in ("sh", "cat", "grep"):  # what an image of a slim container has
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    program, child = started({**os.environ, "PATH": str(tmp_path)})
    program.kill()
    program.communicate(timeout=60)
    child.wait(60)


def of_project(root: Path) -> list[psutil.Process]:
    """Return the running processes that work in a project, or serve its runs."""
    return [
        process
        for process in psutil.process_iter(["cwd", "status"])
        if process.info["cwd"] == str(root) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.alone
@pytest.mark.exhaustive
def test_a_stopped_run_leaves_no_server_and_no_lock_and_is_taken_up(
    new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project")
    images = write_images(tmp_path / "images", per_class=40)
    project.must("regraft", "use", str(images), "--backbone", "glyphnet")
    environment = {**os.environ, **project.environment}
    for told, stage in (
        (signal.SIGINT, "ingest ..."),
        (signal.SIGTERM, "validate ..."),
        (signal.SIGKILL, "validate ."),
    ):
        with (tmp_path / "log").open("w+", encoding="utf-8") as log:
            run = subprocess.Popen(
                ["regraft", "run", "extract_features"],
                cwd=project.root,
                env=environment,
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
            while stage not in (tmp_path / "log").read_text(encoding="utf-8") and run.poll() is None:
                time.sleep(0.02)
            os.killpg(run.pid, told)  # as a terminal does
            assert run.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[told]
        end = time.monotonic() + 60
        while of_project(project.root):
            assert time.monotonic() < end, of_project(project.root)
            time.sleep(0.1)
    project.must("regraft", "run", "extract_features")
