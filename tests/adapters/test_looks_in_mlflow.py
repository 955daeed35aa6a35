"""The ledger of looks in a real registry: nothing outside of it is needed, and nobody edits it unseen."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from steps.adapters import files, looks, tracking
from steps.errors import RegistryError
from tests.conftest import REPOSITORY

IMAGES = [f"{i:02x}" * 32 for i in range(153)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    files.write_table(root / "data/screened.parquet", pd.DataFrame({"id": IMAGES, "split": "test"}))
    judged = {"n": 153, "accuracy": {"value": 0.95, "low": 0.93}}
    files.write_json(root / "data/reports/evaluation.json", {"chosen": "head", "test": {"head": judged}})
    return root


@pytest.fixture
def home(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(root))
    return root


def test_the_26th_look_shows_its_optimism_and_the_limit_is_passed_by_the_201st(home: Path) -> None:
    looks.record([f"model {i}" for i in range(25)], IMAGES)
    assert looks.standing(home).count == 25
    looks.record(["model 3", "model 24"], IMAGES)
    assert looks.standing(home).count == 25, "a rerun of the same models is no look"
    looks.record(["model 25"], [*IMAGES, "ff" * 32])
    found = looks.standing(home)
    assert (found.count, found.over_budget, found.exhausted) == (26, True, False)
    assert 0.03 < found.optimism < 0.05
    assert looks.count(home, [*IMAGES, "ee" * 32]) == 26, "one new image does not reset it"
    document = yaml.safe_load((home / "params.yaml").read_text())
    document["promote"]["look_limit"] = 25
    (home / "params.yaml").write_text(yaml.safe_dump(document))
    assert looks.standing(home).exhausted


def test_it_survives_the_loss_of_every_report(home: Path) -> None:
    before = looks.count(home, IMAGES)
    shutil.rmtree(home / "data/reports")
    assert looks.count(home, IMAGES) == before > 0


def test_a_deleted_entry_stops_every_further_evaluation(home: Path) -> None:
    tracking.client().delete_model_version("regraft.looks", "3")
    with pytest.raises(RegistryError, match="the ledger of looks was tampered with:\n  entry 3 is missing: deleted"):
        looks.record(["another model"], IMAGES)
    with pytest.raises(RegistryError, match="entry 3 is missing"):
        looks.count(home, IMAGES)
