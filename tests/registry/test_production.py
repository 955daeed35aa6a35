"""Who is in production is what the signed ledger says: a real registry, and what somebody may do to it."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from steps.commands.export import export
from steps.commands.serve import _follower
from steps.errors import RegistryError, RequestError
from steps.registry import chain as core
from steps.registry import ledger, package_loading
from steps.registry.model_registry import CHAMPION
from steps.registry.production import Named, Production
from steps.serving import bulk_answers as prediction
from steps.serving import served_version
from tests.registered import Registered, inside


@pytest.fixture(scope="module")
def project(registered_once: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    with inside(registered_once.copy(tmp_path_factory.mktemp("production") / "project")) as copied:
        copied.promote("2")
        yield copied


def production(project: Registered) -> Production:
    return Production(project.registry)


def test_what_has_not_changed_is_not_read_again(project: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = production(project)
    assert asked.named() == Named("2")
    monkeypatch.setattr(core, "parse", lambda _: pytest.fail("an entry was read again"))
    assert asked.named() == Named("2")


def test_an_alias_moved_by_hand_changes_nothing_but_is_told(
    project: Registered, caplog: pytest.LogCaptureFixture
) -> None:
    project.point("1")
    assert production(project).champion() == "2"
    project.point("2")
    assert "the alias champion stands on version 1, the ledger names version 2, which answers" in caplog.text


# What somebody does who can write to the database: version 2 gets files and digest of version 1, validly signed.
SWAP = (
    "update model_versions set (source, storage_location) = (select source, storage_location from model_versions "
    "where name = 'regraft' and version = 1) where name = 'regraft' and version = 2",
    "update model_version_tags set value = (select value from model_version_tags where name = 'regraft' and "
    "version = 1 and key = 'regraft.lineage') where name = 'regraft' and version = 2 and key = 'regraft.lineage'",
)


def test_a_package_that_was_swapped_under_its_number_is_refused(project: Registered, tmp_path: Path) -> None:
    with inside(project.copy(tmp_path / "project")) as copied:
        asked, registry = production(copied), copied.registry
        number = asked.champion()
        decided = asked.package_of(number)
        assert decided == package_loading.verify(registry, "2", decided)
        with sqlite3.connect(copied.root / ".regraft/mlflow.db") as database:
            for statement in SWAP:
                database.execute(statement)
        registry.point("nightly", "2")
        assert package_loading.verify(registry, "2") == package_loading.verify(registry, "1"), (
            "signature and tag are good"
        )
        with pytest.raises(RegistryError, match=f"holds the package .*, but was decided about as {str(decided)[:16]}"):
            served_version.load(registry, number, decided)
        for use in (
            lambda: prediction.load(copied.root, None),
            lambda: prediction.load(copied.root, "2"),
            lambda: _follower(copied.root, CHAMPION, "2", 3600),
            lambda: _follower(copied.root, "nightly", None, 3600),
            lambda: export(copied.root, "2", "onnx", copied.root / "out"),
        ):
            with pytest.raises(RegistryError, match="was decided about as"):
                use()


def test_an_entry_that_was_seen_has_to_stay(project: Registered, tmp_path: Path) -> None:
    with inside(project.copy(tmp_path / "project")) as copied:
        registry, asked = copied.registry, production(copied)
        chain = ledger.read(registry)
        assert asked.named() == Named("2")
        ledger.export(chain, copied.root)
        registry.client.delete_model_version(ledger.of(registry).name, str(chain.last_number))
        for one in (asked, production(copied)):  # one that has seen it, and one that has the export
            with pytest.raises(RegistryError, match="its end was cut off"):
                one.named()


def test_a_ledger_that_was_edited_names_nobody(project: Registered, tmp_path: Path) -> None:
    with inside(project.copy(tmp_path / "project")) as copied:
        mlflow, name = copied.registry.client, ledger.of(copied.registry).name
        text = mlflow.get_model_version(name, "1").tags[ledger.TEXT]
        mlflow.set_model_version_tag(name, "1", ledger.TEXT, text.replace('"champion":"1"', '"champion":"2"'))
        with pytest.raises(RegistryError, match="entry 1: its signature does not verify"):
            production(copied).champion()


def test_without_a_decision_there_is_no_champion_whatever_the_alias_says(project: Registered, tmp_path: Path) -> None:
    with inside(project.copy(tmp_path / "project")) as copied:
        copied.registry.client.delete_registered_model(ledger.of(copied.registry).name)
        assert copied.registry.alias(CHAMPION) == "2"
        with pytest.raises(RegistryError, match="the ledger of decisions is empty, and was not: entry 2 was read here"):
            production(copied).champion()
        shutil.rmtree(copied.root / ledger.MARKS)
        with pytest.raises(
            RegistryError, match=r"holds no decision, but the alias champion, .*`regraft adopt 2 --reason"
        ):
            production(copied).champion()
        copied.point(None)
        with pytest.raises(RequestError, match="the ledger of regraft names no champion; `regraft run` makes one"):
            production(copied).champion()
