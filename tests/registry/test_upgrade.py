"""An upgrade orphans no champion: a registry that older code filled answers, is audited, compared and rolled back.

`filled_2026_11.tar.xz` is a project after two runs by the code of November 2026 whose modules lay in `core` and
`adapters`: digits of three classes, versions 1 and 3 champions in turn, signed. The backbone's weights are rounded to
eleven levels, so that they pack well. MLflow's absolute addresses begin with /project.
"""

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import Project

FILLED = Path(__file__).with_name("filled_2026_11.tar.xz")
ADDRESSES = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("experiments", "artifact_location"),
    ("model_versions", "storage_location"),
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]) -> Project:
    """Return today's code in a project whose registry and data are from before."""
    project = new_project(tmp_path_factory.mktemp("upgraded") / "project")
    with tarfile.open(FILLED) as archive:
        archive.extractall(project.root, filter="data")
    (project / ".regraft/key.pem").chmod(0o600)
    with sqlite3.connect(project / ".regraft/mlflow.db") as database:
        for table, column in ADDRESSES:
            database.execute(f"UPDATE {table} SET {column} = replace({column}, '/project', ?)", [str(project.root)])
    database.close()
    return project


@pytest.fixture
def project(filled: Project, tmp_path: Path) -> Project:
    """Return a copy at the place that MLflow's addresses name: what a test decides does not reach the next."""
    kept = filled.root.with_name("kept")
    if not kept.exists():
        shutil.copytree(filled.root, kept, symlinks=True)
    shutil.rmtree(filled.root)
    shutil.copytree(kept, filled.root, symlinks=True)
    return filled


def test_old_champions_answer_as_they_did(project: Project) -> None:
    before = pd.read_parquet(project / "data/predictions.parquet")
    chosen = json.loads((project / "data/reports/evaluation.json").read_text())["chosen"]
    before = before[(before["model"] == chosen) & (before["split"] == "test")].set_index("id")
    project.must("regraft", "predict", "data/raw", "--output", "answers.csv", "--probabilities")
    answers = pd.read_csv(project / "answers.csv", dtype={"version": str, "label": str})
    assert len(answers) == 180 and answers["error"].isna().all() and set(answers["version"]) == {"3"}
    answers = answers.set_index("sha256").loc[before.index]
    columns = [column for column in answers if column.startswith("probability_")]
    np.testing.assert_allclose(answers[columns], np.stack(before["probabilities"].tolist()), atol=1e-6)
    first = project.must("regraft", "predict", "data/raw/0/000.png", "--version", "1", "--json")
    assert json.loads(first)[0]["label"] == "0"


def test_the_ledger_is_whole_and_every_package_as_it_was_signed(project: Project) -> None:
    told = json.loads(project.must("regraft", "history", "--json"))
    assert told["champion"] == "3" and told["faults"] == [] and [e["version"] for e in told["entries"]] == ["1", "3"]
    for version in ("1", "3"):
        audited = json.loads(project.must("regraft", "audit", version, "--verify", "--json"))
        assert audited["faults"] == []
        assert all(link["signed"] for link in audited["links"] if link["what"] in ("code", "params", "package"))


def test_old_versions_are_compared_and_one_is_rolled_back_to(project: Project) -> None:
    compared = json.loads(project.must("regraft", "compare", "1", "3", "--json"))
    assert compared["n"] == 36 and compared["low"] <= 0 <= compared["high"]
    project.must("regraft", "rollback", "--reason", "the older was better", "--by", "anna")
    told = json.loads(project.must("regraft", "history", "--json"))
    assert told["champion"] == "1" and told["entries"][-1]["by"] == "anna" and told["faults"] == []
    assert "version 1" in project.must("regraft", "status")


def copied_to_another_name(project: Project) -> None:
    """Copy the model and its ledger, whose entries name no model, under the name that params.yaml now has."""
    with sqlite3.connect(project / ".regraft/mlflow.db") as database:
        for table in ("registered_models", "model_versions", "model_version_tags", "registered_model_aliases"):
            columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
            for name in ("regraft", "regraft.ledger"):
                taken = ", ".join(f"'{name.replace('regraft', 'other')}'" if c == "name" else c for c in columns)
                database.execute(f"insert into {table} select {taken} from {table} where name = '{name}'")
    database.close()
    project.edit("params.yaml", "model_name: regraft ", "model_name: other ")
    (project / "data/ledger.jsonl").unlink()


def test_an_old_ledger_under_another_models_name_serves_nothing(project: Project) -> None:
    copied_to_another_name(project)
    for command in (["predict", "data/raw/0/000.png"], ["rollback", "--reason", "why"], ["audit", "--verify"]):
        done = project.run("regraft", *command)
        assert done.returncode == 1 and "holds a package that was signed for the model regraft" in (
            done.stdout + done.stderr
        )


def test_an_old_ledger_that_was_wiped_waits_for_a_person(project: Project) -> None:
    with sqlite3.connect(project / ".regraft/mlflow.db") as database:
        for table in ("model_version_tags", "model_versions", "registered_models"):
            database.execute(f"delete from {table} where name = 'regraft.ledger'")
        database.execute("update registered_model_aliases set version = 1 where alias = 'champion'")
    database.close()
    done = project.run("regraft", "rollback", "--reason", "why")
    assert done.returncode == 1 and "`regraft adopt 3 --reason TEXT`" in done.stderr
    project.must("regraft", "adopt", "3", "--reason", "it was champion by the export")
    told = json.loads(project.must("regraft", "history", "--json"))
    assert told["champion"] == "3" and told["entries"][-1]["kind"] == "adopt" and told["faults"] == []
    assert "version 3" in project.must("regraft", "status")


@pytest.mark.exhaustive
def test_the_next_run_judges_its_challenger_against_an_old_champion(project: Project) -> None:
    project.edit("params.yaml", "  scratch: true ", "  scratch: false ")
    project.edit("params.yaml", "  strategy: auto ", "  strategy: head_only ")
    report = json.loads(project.must("regraft", "run", "--json"))
    promotion = report["promotion"]
    assert set(report["stages"].values()) == {"Ran"}
    assert promotion["challenger"] not in ("1", "3") and promotion["previous"] == "3"
    assert promotion["comparison"]["n"] == 36, "the old champion answered today's test images beside the challenger"
