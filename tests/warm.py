"""`regraft` in processes forked from one that has imported what takes 10 s: `python -m tests.warm`.

Each command is still a process of its own, with its own environment, folder and end. What reads the environment as it
is imported (Prefect) is not imported before the fork, and no thread is started.
"""

import importlib
import json
import os
import runpy
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

BIN = Path(sys.executable).parent
HEAVY = ("great_expectations", "mlflow", "torchvision", "cleanlab.filter", "captum.attr", "model_signing")


class Warm:
    """The process that waits, and commands run by its children. Not shared between threads."""

    def __init__(
        self, environment: Mapping[str, str], command: Sequence[str] = (sys.executable, "-m", "tests.warm")
    ) -> None:
        self.server = subprocess.Popen(
            list(command),
            cwd=Path(__file__).parents[1],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # `select` sees what a buffer has not taken
        )

    def run(
        self, command: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of the environment as `subprocess.run` does, output captured as text."""
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            child = self._ask(
                {
                    "command": list(command),
                    "cwd": str(cwd),
                    "environment": dict(environment),
                    "out": str(out),
                    "err": str(err),
                }
            )
            if not select.select([self.server.stdout], [], [], timeout)[0]:
                os.kill(child, 9)
                self._answer()
                raise subprocess.TimeoutExpired(list(command), timeout, out.read_bytes(), err.read_bytes())
            return subprocess.CompletedProcess(list(command), self._answer(), out.read_text(), err.read_text())

    def _ask(self, request: dict[str, Any]) -> int:
        assert self.server.stdin
        self.server.stdin.write(json.dumps(request).encode() + b"\n")
        return self._answer()

    def _answer(self) -> int:
        assert self.server.stdout
        return int(self.server.stdout.readline())

    def close(self) -> None:
        """End the process that waits."""
        self.server.communicate()


def become(request: dict[str, Any]) -> None:
    """Make this process the one that was asked for, all but its imports."""
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT),
        (2, request["err"], os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(name, flags), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = request["command"]
    sys.path[0] = str(BIN)


def main() -> None:
    """Import, then fork for each line of the input; tell the child's number, and how it ended."""
    from flows.project import TELEMETRY_OFF

    os.environ |= TELEMETRY_OFF
    for library in HEAVY:
        importlib.import_module(library)

    for line in iter(sys.stdin.buffer.readline, b""):
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
            runpy.run_path(str(BIN / request["command"][0]), run_name="__main__")
            return
        os.write(1, b"%d\n" % child)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
