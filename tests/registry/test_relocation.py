"""A project that was moved, copied or restored uses the models that lie in it, and no others."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from steps.errors import RegistryError
from steps.registry import package_loading, relocation
from steps.registry.relocation import ARTIFACTS
from tests.conftest import tree
from tests.registered import Registered, inside


def addresses(root: Path) -> set[str]:
    """Return the project folders that the database names."""
    with sqlite3.connect(root / ".regraft/mlflow.db") as held:
        return {address.partition(f"/{ARTIFACTS}")[0] for _, _, address in relocation._addresses(held)}


@pytest.mark.parametrize("name", ["moved", "Fotos von Ömer (2)", "100% #1"])
def test_a_copy_reads_and_writes_its_own_files_under_any_name(
    registered_once: Registered, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    original = tree(registered_once.root / ".regraft")
    with inside(registered_once.copy(tmp_path / name)) as copied:
        assert package_loading.verify(copied.registry, "1")
        assert addresses(copied.root) == {copied.root.as_uri()}
        assert caplog.text.count(f"was moved or copied from {registered_once.root}:") == 1
        copied.register(4)
        assert len(list((copied.root / ARTIFACTS / "models").iterdir())) == 4
        assert caplog.text.count("was moved or copied") == 1
    assert tree(registered_once.root / ".regraft") == original


def test_a_project_that_was_not_moved_is_not_written(registered_once: Registered) -> None:
    before = (registered_once.root / ".regraft/mlflow.db").stat().st_mtime_ns
    relocation.follow(registered_once.root)
    assert (registered_once.root / ".regraft/mlflow.db").stat().st_mtime_ns == before


def test_addresses_outside_of_a_project_are_left(registered_once: Registered, tmp_path: Path) -> None:
    copied = registered_once.copy(tmp_path / "project")
    with sqlite3.connect(copied.root / ".regraft/mlflow.db") as held:
        held.execute("insert into experiments (experiment_id, name, artifact_location) values (7, 's3', 's3://b/x')")
        held.execute("insert into experiments (experiment_id, name, artifact_location) values (8, 'd', 'file:///mnt')")
    relocation.follow(copied.root)
    with sqlite3.connect(copied.root / ".regraft/mlflow.db") as held:
        kept = held.execute("select artifact_location from experiments where experiment_id > 6").fetchall()
    assert kept == [("s3://b/x",), ("file:///mnt",)]


def test_a_database_whose_models_stayed_behind_is_refused_with_both_folders(
    registered_once: Registered, tmp_path: Path
) -> None:
    copied = registered_once.copy(tmp_path / "project")
    shutil.rmtree(copied.root / ARTIFACTS)
    with inside(copied), pytest.raises(RegistryError) as refused:
        copied.registry.client.search_experiments()
    for folder in (copied.root / ARTIFACTS, registered_once.root / ARTIFACTS):
        assert f"{folder}" in str(refused.value)
    shutil.copytree(registered_once.root / ARTIFACTS, copied.root / ARTIFACTS)
    with inside(copied):
        assert package_loading.verify(copied.registry, "1"), "the remedy, as printed"


def test_a_single_model_that_stayed_behind_is_not_lost(registered_once: Registered, tmp_path: Path) -> None:
    copied = registered_once.copy(tmp_path / "project")
    shutil.rmtree(next((copied.root / ARTIFACTS / "models").iterdir()))
    with inside(copied), pytest.raises(RegistryError, match="copy that folder"):
        copied.registry.client.search_experiments()
    assert addresses(copied.root) == {registered_once.root.as_uri()}, "the database still says where it is"


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(
    registered_once: Registered, tmp_path: Path
) -> None:
    with inside(registered_once.copy(tmp_path / "a project")) as copied:
        mlflow = copied.registry.client
        known = next(e for e in mlflow.search_experiments() if e.name != "Default")
        mlflow.delete_experiment(known.experiment_id)
        with pytest.raises(RegistryError) as refused:
            copied.registry.experiment(known.name)
        assert f"mlflow experiments restore --experiment-id {known.experiment_id}`" in str(refused.value)
        assert f"'sqlite:///{copied.root}/.regraft/mlflow.db'" in str(refused.value)
        mlflow.restore_experiment(known.experiment_id)
        assert copied.registry.experiment(known.name) == known.experiment_id
