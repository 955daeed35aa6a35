"""The ledger of looks in a real registry: no other name, no deletion and no other checkout makes it forget."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from steps.errors import RegistryError
from steps.registry import look_ledger, tracking
from steps.runtime import files
from steps.runtime.figure import Figure
from tests import servers
from tests.conftest import REPOSITORY
from tests.outputs import JUDGED, evaluated
from tests.servers import STORES

IMAGES = [f"{i:02x}" * 32 for i in range(153)]
EVALUATED = replace(
    evaluated({"head": replace(JUDGED, n=153, accuracy=Figure(0.95, 0.93, 0.97, "Wilson"))}, ["0", "1"], "head"),
    weights={"head": "model 3", "fine_tuned": "model 24"},
)


@pytest.fixture(scope="module", params=STORES)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.store(request.param, tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(scope="module")
def root(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    files.write_table(root / "data/screened.parquet", pd.DataFrame({"id": IMAGES, "split": "test"}))
    files.write_json(root / "data/reports/evaluation.json", EVALUATED)
    return root


@pytest.fixture
def home(root: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("DVC_ROOT", str(root))
    return root


def test_the_26th_look_shows_its_optimism_and_the_limit_is_passed_by_the_201st(home: Path) -> None:
    look_ledger.record([f"model {i}" for i in range(25)], IMAGES)
    assert look_ledger.standing(home).count == 25
    look_ledger.record(["model 3", "model 24"], IMAGES)
    assert look_ledger.standing(home).count == 25, "a rerun of the same models is no look"
    look_ledger.record(["model 25"], [*IMAGES, "ff" * 32])
    found = look_ledger.standing(home)
    assert (found.count, found.over_budget, found.exhausted) == (26, True, False)
    assert 0.03 < found.optimism < 0.05
    assert look_ledger.count([*IMAGES, "ee" * 32]) == 26, "one new image does not reset it"
    document = yaml.safe_load((home / "params.yaml").read_text())
    document["promote"]["look_limit"] = 25
    (home / "params.yaml").write_text(yaml.safe_dump(document))
    assert look_ledger.standing(home).exhausted


def test_another_name_of_the_model_begins_no_new_count(home: Path) -> None:
    path = home / "params.yaml"
    before, text = look_ledger.standing(home).count, path.read_text()
    path.write_text(text.replace("model_name: regraft", "model_name: garden"))
    assert look_ledger.standing(home).count == before > 0
    path.write_text(text)


def test_an_older_ledger_under_the_name_of_its_model_is_carried_over_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look_ledger.count(IMAGES)
    with monkeypatch.context() as patched:
        patched.setattr(look_ledger, "NAME", "garden.looks")
        patched.setattr(look_ledger, "OF_OLD", ".none")
        patched.setattr(look_ledger, "EXPORT", Path("data/other.jsonl"))
        look_ledger.record(["model 3", "an old model"], IMAGES)
    assert look_ledger.standing(home).count == before + 1, "model 3 was known"
    tracking.client().delete_registered_model("garden.looks")
    assert look_ledger.standing(home).count == before + 1


def test_it_survives_the_loss_of_every_report(home: Path) -> None:
    before = look_ledger.count(IMAGES)
    shutil.rmtree(home / "data/reports")
    assert look_ledger.count(IMAGES) == before > 0


def test_a_registry_that_forgot_is_reminded_by_the_export(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = look_ledger.count(IMAGES)
    tracking.client().delete_registered_model("regraft.looks")
    with caplog.at_level(logging.WARNING, "regraft"):
        assert look_ledger.record([], IMAGES).count(IMAGES) == before > 25
    assert "the registry held no look of data/looks.jsonl: the looks of 27 models stand in it now" in caplog.text


def test_a_reminder_that_was_killed_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = look_ledger.count(IMAGES)
    tracking.client().delete_registered_model("regraft.looks")
    append, told = look_ledger._append, []

    def killed(*arguments: Any) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(append(*arguments))

    with monkeypatch.context() as patched:
        patched.setattr(look_ledger, "_append", killed)
        with pytest.raises(KeyboardInterrupt):
            look_ledger.record([], IMAGES)
    assert look_ledger.count(IMAGES) == 1
    assert look_ledger.record([], IMAGES).count(IMAGES) == before


def test_a_registry_that_forgot_everything_still_counts_the_models_that_evaluate_has_judged(home: Path) -> None:
    path = home / "data/reports/evaluation.json"
    files.write_json(path, EVALUATED)
    kept = (home / look_ledger.EXPORT).read_bytes()
    tracking.client().delete_registered_model("regraft.looks")
    (home / look_ledger.EXPORT).unlink()
    assert look_ledger.standing(home).count == 2
    tracking.client().delete_registered_model("regraft.looks")
    (home / look_ledger.EXPORT).write_bytes(kept)


def test_an_entry_that_was_exported_and_is_gone_is_named(home: Path) -> None:
    look_ledger.record(["model 3"], IMAGES)
    tracking.client().delete_model_version("regraft.looks", "27")
    with pytest.raises(RegistryError, match="line 27 of the export is not in the ledger: model an old model on"):
        look_ledger.record(["another model"], IMAGES)
    text = (home / look_ledger.EXPORT).read_text()
    (home / look_ledger.EXPORT).write_text(text.splitlines()[0][:-5])
    with pytest.raises(RegistryError, match="holds a line that is no entry"):
        look_ledger.record(["another model"], IMAGES)
    (home / look_ledger.EXPORT).unlink()


def test_a_deleted_entry_stops_every_further_evaluation(home: Path) -> None:
    tracking.client().delete_model_version("regraft.looks", "3")
    with pytest.raises(RegistryError, match="the ledger of looks was tampered with:\n  entry 3 is missing: deleted"):
        look_ledger.record(["another model"], IMAGES)
    with pytest.raises(RegistryError, match="entry 3 is missing"):
        look_ledger.count(IMAGES)
