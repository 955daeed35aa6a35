"""Processes that decide again and again, all at once: `python -m tests.registry.promoter MODEL PROCESSES ATTEMPTS`.

They fork from one that has imported what takes seconds, and has opened nothing.
"""

import json
import os
import sys

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

from steps.registry import ledger
from steps.registry.chain import PROMOTE
from steps.registry.model_registry import Registry
from steps.runtime import files


def promote(model: str, version: str, attempts: int) -> None:
    """Decide for `version`, and tell for each attempt its turns, and which head of the ledger the last one saw."""
    registry = Registry(files.project_root(), model)
    for attempt in range(attempts):
        question = f"{version}-{attempt}"
        for turn, chain in enumerate(ledger.attempts(registry), 1):
            if ledger.append(registry, chain, PROMOTE, version, version, [f"turn {turn}"], question=question):
                break
        ledger.restore_alias(registry, chain)
        line = json.dumps({"question": question, "turns": turn, "head": chain.head})
        os.write(1, line.encode() + b"\n")  # short enough to arrive whole among the others'


def main() -> None:
    model, processes, attempts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            promote(model, str(number + 1), attempts)
            return
        children.append(child)
    sys.exit(failed(children))


def failed(children: list[int]) -> bool:
    """Wait for all child processes, and say whether any ended badly; one that a signal killed has a code below 0."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return any(codes)


if __name__ == "__main__":
    main()
