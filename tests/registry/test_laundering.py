"""Production cannot be laundered: what somebody without a key does to the registry, and what each command answers.

The attacker writes into MLflow's database and moves files; the project's folder, its key and git belong to the victim.
"""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import preflight
from steps.errors import RegistryError, RequestError
from steps.promotion import release
from steps.promotion.links import tampered
from steps.registry import ledger
from steps.registry.chain import Decision, walk
from steps.registry.model_registry import CHAMPION, Registry
from steps.registry.production import Production, present
from tests.registered import NAME, Registered, inside

TABLES = ("registered_models", "model_versions", "model_version_tags", "registered_model_aliases")


@pytest.fixture
def project(registered_once: Registered, tmp_path: Path) -> Iterator[Registered]:
    """Return a project with two decisions, exported; version 2 is champion."""
    with inside(registered_once.copy(tmp_path / "project")) as copied:
        copied.promote("2")
        ledger.export(ledger.read(copied.registry), copied.root)
        yield copied


def execute(project: Registered, *statements: str) -> None:
    with sqlite3.connect(project.root / ".regraft/mlflow.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def wipe(project: Registered, and_set: str | None = "1") -> None:
    """Delete the whole ledger, and set the alias to another version or to nothing."""
    execute(project, *(f"delete from {table} where name = '{NAME}.ledger'" for table in TABLES))
    if and_set:
        execute(project, f"update registered_model_aliases set version = {and_set} where name = '{NAME}'")
    else:
        execute(project, f"delete from registered_model_aliases where name = '{NAME}'")


def cut(project: Registered) -> None:
    """Delete the last decision, and set the alias back."""
    tables = ("model_version_tags", "model_versions")
    execute(project, *(f"delete from {table} where name = '{NAME}.ledger' and version = 2" for table in tables))
    execute(project, f"update registered_model_aliases set version = 1 where name = '{NAME}'")


def copy_rows(project: Registered, source: str, target: str) -> None:
    """Copy all rows of a registered model under another name, signatures and all."""
    with sqlite3.connect(project.root / ".regraft/mlflow.db") as database:
        for table in TABLES:
            columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
            taken = ", ".join(f"'{target}'" if column == "name" else column for column in columns)
            database.execute(f"insert into {table} select {taken} from {table} where name = '{source}'")
    database.close()


def commit_export(project: Registered) -> None:
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "add", "--force", str(ledger.EXPORT)], cwd=project.root, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "the export"], cwd=project.root, check=True)


def drop_mark(project: Registered) -> None:
    shutil.rmtree(project.root / ledger.MARKS)


def drop_export(project: Registered) -> None:
    (project.root / ledger.EXPORT).unlink()


def keep_mark(project: Registered) -> None:
    drop_export(project)


def keep_export(project: Registered) -> None:
    drop_mark(project)


def keep_commit(project: Registered) -> None:
    commit_export(project)
    drop_export(project)
    drop_mark(project)


def keep_alias(project: Registered) -> None:
    drop_export(project)
    drop_mark(project)


def decide(project: Registered) -> None:
    ledger.reconcile(project.registry)


def repair(project: Registered) -> None:
    ledger.restore_alias(project.registry)


def serve(project: Registered) -> None:
    Production(project.registry).champion()


def roll_back(project: Registered) -> None:
    release.rollback(project.root, None, "Ada", "why")


DECISIONS = (decide, repair, roll_back)
EVIDENCE = [  # what is left where a wiped ledger's alias stands on version 1, or is gone
    (keep_mark, "1", "its entry 2 was read here before"),
    (keep_mark, None, "its entry 2 was read here before"),
    (keep_export, "1", "data/ledger.jsonl holds 2"),
    (keep_export, None, "data/ledger.jsonl holds 2"),
    (keep_commit, "1", "data/ledger.jsonl as committed holds 2"),
    (keep_commit, None, "data/ledger.jsonl as committed holds 2"),
    (keep_alias, "1", "the alias champion, which nobody signs, stands on version 1"),
]


@pytest.mark.parametrize(("keep", "alias", "sentence"), EVIDENCE)
def test_an_emptied_ledger_is_no_new_one(
    project: Registered, keep: Callable[[Registered], None], alias: str | None, sentence: str
) -> None:
    keep(project)
    wipe(project, alias)
    named = "1" if keep is keep_alias else "2"  # the last champion, wherever anything signed says which that was
    for command in DECISIONS:
        with pytest.raises(RegistryError, match=f"{sentence}.*`regraft adopt {named} --reason TEXT`"):
            command(project)
    (finding,) = preflight.registry(project.root)
    assert finding.state == preflight.FAULT and sentence in finding.found
    with pytest.raises(RegistryError, match="`regraft adopt "):
        serve(project)
    assert ledger.read(project.registry).slots == () and project.registry.alias(CHAMPION) == alias


def test_a_registry_without_any_of_that_is_new(project: Registered) -> None:
    keep_alias(project)
    wipe(project, None)
    for command in (decide, repair):
        command(project)
    with pytest.raises(RequestError, match="regraft has no champion yet: `regraft run` makes one"):
        release.adopt(project.root, "1", "Ada", "why")
    project.promote("1")
    assert present(project.registry) == "1"


def test_a_person_adopts_after_a_wipe_and_the_decision_is_signed(project: Registered) -> None:
    wipe(project)
    decision = release.adopt(project.root, "2", "Ada", "restored after the incident")
    assert (decision.kind, decision.champion, decision.by) == ("adopt", "2", "Ada")
    assert decision.reasons[0] == "restored after the incident" and "holds no decision, but" in decision.reasons[1]
    assert project.registry.alias(CHAMPION) == "2" and release.history(project.root)[1] == []
    assert len(list((project.root / "data").glob("ledger-*.jsonl"))) == 1, "the old export is kept"
    roll = ledger.whole(ledger.read(project.registry), ledger.exported(project.root))
    assert [entry.kind for _, entry in roll.entries] == ["adopt"]


def test_a_ledger_cut_off_is_refused_where_any_trace_of_its_end_is_left(project: Registered) -> None:
    drop_export(project)
    cut(project)
    for command in (*DECISIONS, serve):
        with pytest.raises(RegistryError, match="entry 2 was read here before, and is gone: its end was cut off"):
            command(project)
    assert "its end was cut off" in release.history(project.root)[1][0]
    assert any("its end was cut off" in fault for fault in tampered(project.root, "1")[0])


def test_a_container_without_export_warns_and_with_it_refuses(
    project: Registered, caplog: pytest.LogCaptureFixture
) -> None:
    export = (project.root / ledger.EXPORT).read_text()
    drop_export(project)
    drop_mark(project)
    serve(project)
    assert "nothing here says how long the ledger of regraft was (no data/ledger.jsonl)" in caplog.text
    drop_mark(project)
    (project.root / ledger.EXPORT).write_text(export)
    caplog.clear()
    serve(project)
    assert caplog.text == ""
    drop_mark(project)
    cut(project)
    with pytest.raises(RegistryError, match="the export holds 2 entries, the ledger 1: its end was cut off"):
        serve(project)


def test_a_container_remembers_what_it_served_over_a_restart(project: Registered) -> None:
    drop_export(project)
    drop_mark(project)
    serve(project)
    cut(project)
    with pytest.raises(RegistryError, match="its end was cut off"):
        serve(project)


def test_another_models_ledger_verifies_nowhere(project: Registered) -> None:
    for name in (NAME, f"{NAME}.ledger"):
        copy_rows(project, name, name.replace(NAME, "other"))
    other = Registry(project.root, "other")
    faults = ledger.read(other).faults
    assert faults == tuple(f"entry {n}: it was signed for the model regraft, not for other" for n in (1, 2))
    for ask in (lambda: Production(other).champion(), lambda: ledger.reconcile(other), lambda: present(other)):
        with pytest.raises(RegistryError, match="was signed for the model regraft"):
            ask()


def test_an_export_of_another_model_is_no_evidence_and_is_kept(project: Registered) -> None:
    copy_rows(project, NAME, "other")
    execute(project, "delete from registered_model_aliases where name = 'other'")
    other = Registry(project.root, "other")
    ledger.reconcile(other)
    assert ledger.exported(project.root, "other") == [] and len(ledger.exported(project.root, NAME)) == 2
    assert ledger.append(other, ledger.read(other), "promote", "1", "1", ["a test wants it"])
    ledger.export(ledger.read(other), project.root)
    (kept,) = (project.root / "data").glob("ledger-*.jsonl")
    assert len(kept.read_text().splitlines()) == 2


def test_two_ledgers_of_one_model_cannot_be_spliced(project: Registered) -> None:
    chain = ledger.read(project.registry)
    (_, first), (_, second) = chain.entries
    assert (first.model, first.ledger) == (NAME, second.ledger) and first.ledger
    slot = chain.slots[1]
    for change in ({"ledger": "f" * 32}, {"ledger": None, "model": None}):
        entry = Decision(**{**vars(second), **change})
        spliced = walk([chain.slots[0], ledger.Slot(2, entry.text(), slot.signature)], lambda *_: True, NAME)
        assert spliced.faults == ("entry 2: it was signed for another ledger than the entries before it",)


def test_entries_of_before_verify_and_the_next_ones_name_model_and_ledger(project: Registered) -> None:
    fields = {"package": None, "model": None, "ledger": None}
    first = Decision(**{**vars(ledger.read(project.registry).entries[0][1]), **fields})
    old = walk([ledger.Slot(1, first.text(), "s")], lambda *_: True, NAME)
    assert not {"model", "ledger"} & set(json.loads(first.text())) and (old.faults, old.ledger) == ((), None)
    later = Decision(**{**vars(first), "predecessor": old.head, "model": NAME, "ledger": "a" * 32})
    both = walk([ledger.Slot(1, first.text(), "s"), ledger.Slot(2, later.text(), "s")], lambda *_: True, NAME)
    assert both.faults == () and both.ledger == "a" * 32


def test_a_mark_that_is_damaged_is_said(project: Registered) -> None:
    (project.root / ledger.MARKS / f"{NAME}.json").write_text("{")
    with pytest.raises(RegistryError, match=r"regraft\.json is damaged .*: restore it from a backup, or move it away"):
        serve(project)
