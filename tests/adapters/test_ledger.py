"""The ledger in real registries: many processes at once, kills at any point, tampering through MLflow itself."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steps.adapters import ledger, registry, tracking
from tests.conftest import REPOSITORY
from tests.servers import mlflow_server, postgresql

MODEL = "regraft"
PROCESSES = 8
ATTEMPTS = 25  # of each process: 200 in all


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql), "http"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    if request.param == "sqlite":
        yield use(f"sqlite:///{tmp_path / 'registry.db'}", monkeypatch)
    elif request.param == "postgresql":
        with postgresql(tmp_path / "postgresql") as address:
            yield use(address, monkeypatch)
    else:
        with mlflow_server(tmp_path) as address:
            yield use(address, monkeypatch)


def use(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow = tracking.client()
    registry.ensure_model(mlflow, MODEL)
    for _ in range(PROCESSES):
        mlflow.create_model_version(MODEL, "s3://nowhere/model")
    return address


def promoters(attempts: int) -> list["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.adapters.promoter", MODEL]
    return [
        subprocess.Popen([*command, str(n + 1), str(attempts)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for n in range(PROCESSES)
    ]


def test_many_processes_at_once_share_the_slots_and_lose_nothing(store: str) -> None:
    outcomes = {}
    for process in promoters(ATTEMPTS):
        told, _ = process.communicate(timeout=500)
        assert process.returncode == 0
        outcomes |= {line["question"]: line["seen"] for line in map(json.loads, told.splitlines())}
    mlflow = tracking.client()
    chain = ledger.whole(ledger.read(mlflow, MODEL))
    assert len(outcomes) == PROCESSES * ATTEMPTS, "each attempt has one outcome"
    assert sorted(d.question for _, d in chain.entries) == sorted(outcomes), "each outcome has one slot"
    for _, decision in chain.entries:
        assert decision.predecessor == outcomes[decision.question][-1], "a win follows what its last turn has seen"
    assert len(chain.void) == sum(len(seen) - 1 for seen in outcomes.values()), "each lost slot was decided anew"
    assert registry.alias_version(mlflow, MODEL, registry.CHAMPION) == chain.champion
    assert store
