"""MLflow runs over a real SQLite store: one finished run a lineage, whatever happened before."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.errors import RegistryError
from steps.registry import tracking
from steps.registry.tracking import Runs
from steps.runtime.stage import Lineage

LINEAGE = Lineage("train_head", "d" * 64, "c" * 64, {"seed": 0, "train_head": {"c": [0.1, 1.0]}}, {"data/x": "f" * 64})
EPOCHS = [{"epoch": 0, "val_log_loss": 0.9, "train_loss": None}, {"epoch": 1, "val_log_loss": 0.5, "train_loss": 0.7}]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_registry: Callable[[Path], None]) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    empty_registry(tmp_path)
    return tmp_path


def log(store: Path) -> tuple[str, str]:
    runs = Runs(store)
    experiment = runs.experiment("regraft")
    artifact = store / "history.json"
    artifact.write_text("{}")
    return experiment, runs.log_run(experiment, LINEAGE, EPOCHS, (artifact,), {"kind": "head"})


def test_a_run_holds_params_every_epoch_tags_and_artefacts(store: Path) -> None:
    _, run_id = log(store)
    mlflow = tracking.client()
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0", "train_head.c": "[0.1, 1.0]"}
    assert run.data.tags[tracking.LINEAGE] == LINEAGE.digest
    assert run.data.tags["stage"] == "train_head"
    history = mlflow.get_metric_history(run_id, "val_log_loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.9), (1, 0.5)]
    assert {file.path for file in mlflow.list_artifacts(run_id)} == {"history.json", "lineage.json", "circumstances"}


def test_the_same_lineage_is_logged_once(store: Path) -> None:
    experiment, first = log(store)
    assert log(store)[1] == first
    assert len(tracking.client().search_runs([experiment])) == 1


def test_a_run_that_a_kill_left_open_is_marked_failed_and_made_anew(store: Path) -> None:
    runs = Runs(store)
    experiment = runs.experiment("regraft")
    half = runs.client.create_run(experiment, tags={tracking.LINEAGE: LINEAGE.digest}).info.run_id
    whole = log(store)[1]
    assert whole != half
    assert runs.client.get_run(half).info.status == "FAILED"
    assert runs.find_run(experiment, LINEAGE.digest) == whole


def test_everything_stays_in_the_project(store: Path) -> None:
    log(store)
    assert (store / ".regraft/mlflow.db").exists()
    assert list((store / ".regraft/mlartifacts").rglob("lineage.json"))


@pytest.mark.parametrize("address", ["http://ada:secret@127.0.0.1:9", "postgresql://ada:secret@127.0.0.1:9/mlflow"])
def test_a_password_in_the_address_stays_here(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    with pytest.raises(RegistryError) as caught:
        tracking.client()
    assert "ada@127.0.0.1" in str(caught.value) and "secret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        tracking.client()


class ClientError(Exception):
    """As botocore's: no OSError, and none of MLflow's."""


ClientError.__module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ClientError("AccessDenied"), "does not answer: AccessDenied"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/only"), "--serve-artifacts"),
    ],
)
def test_what_a_store_of_files_says_is_a_sentence(error: Exception, told: str) -> None:
    with pytest.raises(RegistryError, match=told), tracking.answering():
        raise error


def test_a_fault_of_ours_is_not_blamed_on_a_server() -> None:
    with pytest.raises(KeyError), tracking.answering():
        raise KeyError("ours")
