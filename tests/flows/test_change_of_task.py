"""What `use` says of classes that are not the champion's, from files of the project alone."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from flows.lost_classes import ACCEPTED, LOST, change_of_task
from steps.registry.chain import PROMOTE, REFUSE, Decision
from steps.runtime import files
from tests.conftest import Project, make_project, write_images
from tests.outputs import validated

KNOWN = ["ant", "bee", "cat"]
TWO_IN_COMMON = "the two are compared on the {} classes in common (a person approves if promote.keep_classes is true)"
OTHER = "set register.model_name in params.yaml, then `regraft run` (not if the classes were only renamed)"
SENTENCES = {  # the classes of the new images: what is said, in part
    "ant bee cat": "",
    "cat ant bee": "",
    "ant bee cat dog": "'dog' added; " + TWO_IN_COMMON.format(3),
    "ant bee": "'cat' dropped; " + TWO_IN_COMMON.format(2),
    "ant bee dog": "'cat' dropped, 'dog' added; " + TWO_IN_COMMON.format(2),
    "ant dog fox": OTHER,
    "good broken": OTHER,
}


def project(root: Path, isolated: dict[str, str], champion: str | None = "1", name: str = "regraft") -> Path:
    """Make a project whose last accepted images had three classes, and whose last decision names this champion."""
    root = make_project(root, isolated).root
    files.write_json(root / ACCEPTED, validated(pd.DataFrame(columns=["path", "id"]), KNOWN))
    registered = {"cmd": "", "params": {"params.yaml": {"register": {"model_name": name}}}}
    accepted = {"cmd": "", "outs": [{"path": ACCEPTED, "hash": "md5", "md5": files.md5_of(root / ACCEPTED)}]}
    stages = {"validate": accepted, "register": registered}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    kind = PROMOTE if champion else REFUSE
    entry = Decision(kind, "1", champion, None, (), "", "ada", "2026-01-01T00:00:00Z", "")
    files.write_text(root / "data/ledger.jsonl", entry.text() + "\n")
    return root


@pytest.fixture(scope="module")
def served(isolated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("served"), isolated)


@pytest.mark.parametrize("labels", SENTENCES)
def test_other_classes_than_the_champions_are_said_in_one_sentence(served: Path, labels: str) -> None:
    said = change_of_task(served, labels.split())
    assert len(said) == bool(SENTENCES[labels])
    assert SENTENCES[labels] in "".join(said)


def test_nothing_is_said_without_a_champion_or_of_a_model_of_another_name(
    tmp_path: Path, isolated: dict[str, str]
) -> None:
    assert change_of_task(project(tmp_path / "a", isolated, champion=None), ["x", "y"]) == ()
    assert change_of_task(project(tmp_path / "b", isolated, name="before"), ["x", "y"]) == ()
    assert change_of_task(make_project(tmp_path / "c", isolated).root, ["x", "y"]) == ()


def test_use_prints_it_below_the_layout(served: Path, tmp_path: Path, isolated: dict[str, str]) -> None:
    printed = Project(served, isolated).must(
        "regraft", "use", str(write_images(tmp_path / "digits", per_class=2)), "--backbone", "glyphnet"
    )
    (note,) = [line for line in printed.splitlines() if line.startswith("note")]
    assert OTHER in note
    assert json.loads((served / LOST).read_text()) == []
