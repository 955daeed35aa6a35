"""Many processes promote at once, and a third of them is killed: is a decision lost, or made twice?

`python -m tests.studies.raced [PROCESSES] [ATTEMPTS]` races on SQLite, and over MLflow's server with PostgreSQL behind
it; by default 8 processes of 200 promotions each. It exits with an error if a promise is broken.
"""

import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from steps.registry import ledger
from steps.registry.model_registry import CHAMPION, Registry
from tests import servers
from tests.registry import promoter

MODEL = "regraft"


@dataclass(frozen=True)
class Race:
    """The outcome: decisions that processes reported, entries that count, void ones, and how many were killed."""

    reported: int
    entries: int
    void: int
    killed: int

    def row(self, where: str) -> str:
        """Return a row of the table."""
        return f"| {where} | {self.killed} | {self.reported:,} | {self.entries:,} | {self.void:,} | 0 | 0 |"


@contextmanager
def registry(kind: str, folder: Path) -> Iterator[str]:
    """Provide an empty registry, `sqlite` or `http` (a server with PostgreSQL); yield its address."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'registry.db'}"
        return
    with servers.postgresql() as database, servers.mlflow_server(folder, "--backend-store-uri", database) as address:
        yield address


def race(root: Path, processes: int, attempts: int) -> Race:
    """Race on the registry of this process's environment; check the ledger against what the processes reported."""
    prepared = _forked(lambda: _prepare(root, processes))  # a connection must not be inherited by those that race
    assert os.waitpid(prepared, 0)[1] == 0
    victims = processes // 3
    lines = _raced(processes, attempts, victims)
    model = Registry(root, MODEL)
    chain = ledger.restore_alias(model)
    questions = Counter(decision.question for _, decision in chain.entries if decision.question)
    assert not chain.faults and max(questions.values()) == 1, "a decision was made twice"
    assert not lines - questions.keys(), "a decision that was reported is lost"
    assert len(questions.keys() - lines) <= victims, "only one that was killed leaves a decision unreported"
    assert model.alias(CHAMPION) == chain.champion
    return Race(len(lines), len(chain.entries), len(chain.void), victims)


def _prepare(root: Path, versions: int) -> None:
    model = Registry(root, MODEL)
    model.ensure()
    for _ in range(versions):
        model.client.create_model_version(MODEL, "s3://nowhere/model")


def _raced(processes: int, attempts: int, victims: int) -> set[str]:
    """Fork the processes and kill the victims one after another; return the questions that were answered."""
    reading, writing = os.pipe()

    def promote(version: str) -> None:
        os.close(reading)
        os.dup2(writing, 1)
        os.close(writing)
        promoter.promote(MODEL, version, attempts)

    children = [_forked(partial(promote, str(number + 1))) for number in range(processes)]
    os.close(writing)
    answered: set[str] = set()
    with os.fdopen(reading) as told:
        for line in told:
            answered.add(json.loads(line)["question"])
            due = len(answered) * (victims + 2) // (processes * attempts)  # of victims, evenly over the race
            for victim in children[: min(due, victims)]:
                os.kill(victim, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [-signal.SIGKILL] * victims + [0] * (processes - victims), codes
    return answered


def _forked(work: Callable[[], None]) -> int:
    """Do some work in a child process; return the child's number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def main(processes: int, attempts: int) -> None:
    """Print the table; each race forks from a process that has opened no database."""
    sys.stdout.write(
        "| registry | killed | reported | entries | void | lost | twice |\n|---|---|---|---|---|---|---|\n"
    )
    for kind in ("sqlite", "http"):
        with tempfile.TemporaryDirectory() as scratch, registry(kind, Path(scratch)) as address:
            os.environ |= {"MLFLOW_TRACKING_URI": address, "DVC_ROOT": scratch}
            sys.stdout.write(race(Path(scratch), processes, attempts).row(kind) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*(int(value) for value in (*sys.argv[1:], *("8", "200")[len(sys.argv) - 1 :])))
