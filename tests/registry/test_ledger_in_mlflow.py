"""The ledger in real registries: many processes at once, kills at any point, tampering through MLflow itself."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steps.errors import RegistryError
from steps.registry import ledger
from steps.registry.chain import PROMOTE, parse
from steps.registry.model_registry import CHAMPION, Registry
from steps.runtime import files
from tests import servers
from tests.conftest import EXHAUSTIVE, REPOSITORY
from tests.registry import promoter
from tests.servers import STORES

MODEL = "regraft"
PROCESSES = 8
ATTEMPTS = 25 if EXHAUSTIVE else 3  # of each process: 200 in all


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with servers.store(request.param, tmp_path) as address:
        yield use(address, monkeypatch)


def use(address: str, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    registry = Registry(files.project_root(), MODEL)
    registry.ensure()
    for _ in range(PROCESSES):
        registry.client.create_model_version(MODEL, "s3://nowhere/model")
    return registry


def promote(registry: Registry, version: str, reason: str) -> None:
    for chain in ledger.attempts(registry):
        if ledger.append(registry, chain, PROMOTE, version, version, [reason]):
            break
    ledger.restore_alias(registry, chain)


@pytest.mark.alone
def test_many_processes_at_once_share_the_slots_and_lose_nothing(store: Registry) -> None:
    command = [sys.executable, "-m", "tests.registry.promoter", MODEL, str(PROCESSES), str(ATTEMPTS)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=800, check=True)
    outcomes = {told["question"]: told for told in map(json.loads, done.stdout.splitlines())}
    chain = ledger.whole(ledger.read(store))
    assert len(outcomes) == PROCESSES * ATTEMPTS, "each attempt has one outcome"
    assert sorted(d.question for _, d in chain.entries) == sorted(outcomes), "each outcome has one slot"
    for _, decision in chain.entries:
        assert decision.predecessor == outcomes[decision.question]["head"], "a win follows what its last turn has seen"
    lost = [parse(slot.text) for slot in chain.slots if slot.number in chain.void]
    # A process may also find a slow one's alias and ask for it to be set back or, before the first entry, adopted;
    # those claims answer no question, and none of them counts (checked above)
    attempts = [decision for decision in lost if decision.question]
    assert len(attempts) == sum(told["turns"] - 1 for told in outcomes.values()), "each lost slot was decided anew"
    assert store.alias(CHAMPION) == chain.champion


def test_a_child_that_a_signal_killed_is_not_hidden_by_one_that_ended_well() -> None:
    children = [subprocess.Popen(["sleep", "60"]), subprocess.Popen(["true"])]
    children[0].kill()
    assert promoter.failed([child.pid for child in children])


# For each number on its input: a child process that dies, as if killed, before (odd) or after (even) its n-th write.
MORTAL = """
import os, sys
from pathlib import Path
from mlflow import MlflowClient
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store  # once, for all children
from steps.registry import ledger
from steps.registry.model_registry import Registry

def counted(method, fatal):
    def call(*arguments, **named):
        if writes.append("before") or len(writes) == fatal: os._exit(9)
        found = method(*arguments, **named)
        if writes.append("after") or len(writes) == fatal: os._exit(9)
        return found
    return call

writes = []
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        registry = Registry(Path(os.environ["DVC_ROOT"]), "regraft")
        for name in ("create_model_version", "set_registered_model_alias", "set_model_version_tag"):
            setattr(MlflowClient, name, counted(getattr(MlflowClient, name), int(line)))
        for chain in ledger.attempts(registry):
            if ledger.append(registry, chain, "promote", "2", "2", ["better"]): break
        ledger.restore_alias(registry, chain)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_kill_at_any_write_leaves_the_old_or_the_new_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    registry = use(f"sqlite:///{tmp_path / 'registry.db'}", monkeypatch)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    seen, exits = [], []
    with subprocess.Popen([sys.executable, "-c", MORTAL], cwd=REPOSITORY, text=True, bufsize=1, **pipes) as mortal:  # type: ignore[call-overload]
        while 0 not in exits:
            promote(registry, "1", "old")
            mortal.stdin.write(f"{len(exits) + 1}\n")
            exits.append(int(mortal.stdout.readline()))
            alias = registry.alias(CHAMPION)
            chain = ledger.restore_alias(registry)
            seen.append((alias, chain.champion))
            assert registry.alias(CHAMPION) == chain.champion
            assert not chain.faults and not chain.void
        mortal.stdin.close()
    assert exits == [9, 9, 9, 9, 9, 9, 0]
    assert seen == [("1", "1"), ("1", "2"), ("1", "2"), ("2", "2"), ("2", "2"), ("2", "2"), ("2", "2")]


def test_what_is_changed_in_the_registry_is_found_and_stops_every_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    registry = use(f"sqlite:///{tmp_path / 'registry.db'}", monkeypatch)
    for version in ("1", "2", "3"):
        promote(registry, version, "it is better")
    mlflow, name = registry.client, ledger.of(registry).name
    text = mlflow.get_model_version(name, "2").tags[ledger.TEXT]
    mlflow.set_model_version_tag(name, "2", ledger.TEXT, text.replace("better", "worse"))
    with pytest.raises(RegistryError, match="entry 2: its signature does not verify"):
        ledger.restore_alias(registry)
    mlflow.set_model_version_tag(name, "2", ledger.TEXT, text)
    assert ledger.restore_alias(registry).champion == "3"
    mlflow.delete_model_version(name, "2")
    with pytest.raises(RegistryError, match="entry 2 is missing: deleted"):
        ledger.restore_alias(registry)
