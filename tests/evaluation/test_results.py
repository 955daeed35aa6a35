"""evaluation.json is read back as it was written."""

from dataclasses import replace
from pathlib import Path

import pytest

from steps.errors import GraphError
from steps.evaluation.results import Evaluation
from steps.runtime import artefacts, files
from steps.runtime.figure import Figure
from tests.outputs import CLASSES, JUDGED, evaluated, honest

WHOLE = replace(evaluated({"head": JUDGED}, CLASSES, "head"), **honest(CLASSES))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    files.write_json(tmp_path / "evaluation.json", WHOLE)
    assert artefacts.read(Evaluation, tmp_path / "evaluation.json") == WHOLE


def test_a_figure_that_was_not_asked_for_leaves_no_key_and_one_that_was_stands_in_its_place(tmp_path: Path) -> None:
    asked = replace(JUDGED, top_3_accuracy=Figure(1.0, 0.9, 1.0, "Wilson"))
    files.write_json(tmp_path / "evaluation.json", replace(WHOLE, test={"head": JUDGED, "fine_tuned": asked}))
    plain, topped = (list(of) for of in files.read_json(tmp_path / "evaluation.json")["test"].values())
    assert not [name for name in plain if name.startswith("top_")]
    assert topped == [*plain[:4], "top_3_accuracy", *plain[4:]] and plain[3:5] == ["macro_f1", "auroc"]


def test_a_file_of_another_release_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    files.write_json(path, WHOLE)
    files.write_json(path, {**files.read_json(path), "luck": 1})
    with pytest.raises(GraphError, match=r"evaluation.json is no Evaluation of this release.*\n  luck: "):
        artefacts.read(Evaluation, path)
