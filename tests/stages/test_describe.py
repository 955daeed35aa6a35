"""The model card is what Hugging Face's own library reads, says what was measured, and asks nobody."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from steps.describe import DescribeParams
from steps.runtime.params import faults_of
from tests.outputs import HOSTILE, UNSTATED, Inputs, make

STATED = DescribeParams(licence="apache-2.0", intended_use="Sorting | *garden* pictures.", out_of_scope="Medicine.")


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    def refuse(*_: Any) -> None:
        raise AssertionError("a model card is made without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return make(tmp_path)


def test_the_library_reads_back_every_figure_of_the_chosen_model_with_its_interval(inputs: Inputs) -> None:
    facts = ModelCard.load(inputs.card()).data
    found = {result.metric_type: result for result in facts.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        "accuracy": 0.928,
        "balanced_accuracy": pytest.approx(0.918),
        "macro_f1": pytest.approx(0.908),
        "auroc": 0.98,
        "log_loss": 0.2144,
        "brier": 0.11,
        "calibration_error": 0.03,
    }
    assert found["accuracy"].metric_args == {
        "low": pytest.approx(0.876),
        "high": pytest.approx(0.959),
        "method": "Wilson",
        "confidence": 0.95,
    }
    assert (facts.pipeline_tag, facts.model_name) == ("image-classification", "fine-tuned on tiny")


def test_what_nobody_stated_is_said_to_be_unstated_and_what_was_stated_is_quoted(inputs: Inputs) -> None:
    empty = inputs.card().read_text(encoding="utf-8")
    assert empty.count("ot stated") == 3 and "license:" not in empty
    told = inputs.card(STATED).read_text(encoding="utf-8")
    assert "Sorting \\| \\*garden\\* pictures." in told and "**Not for:** Medicine." in told and "ot stated" not in told
    assert ModelCard(told).data.license == "apache-2.0"


def test_the_body_says_both_models_figures_the_data_and_the_weakest_classes(inputs: Inputs) -> None:
    text = inputs.card().read_text(encoding="utf-8")
    for said in (
        "| accuracy | 86.1\xa0% (80.9 to 89.2, Wilson 95\xa0%) | 92.8\xa0% (87.6 to 95.9, Wilson 95\xa0%) |",
        "| train | 12 | 3 |",
        "recall 75.0\xa0% (31.0 to 95.0, Wilson 95\xa0%)",
        f"SHA-256 `{'ab' * 32}`",
        "Rules about the data that do not hold: classes are balanced.",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("linear", "the head is a linear layer"),
        ("mlp", "the head has one hidden layer"),
        ("prototype", "the head version holds the mean features of each class"),
        ("knn", "the head version holds the features of all 16 images of training and validation"),
    ],
)
def test_the_card_lists_what_a_version_contains_about_the_data(inputs: Inputs, kind: str, words: str) -> None:
    inputs.change("train_head", kind=kind, n_train=12, n_val=4)
    section = inputs.card().read_text(encoding="utf-8").split("## What a version contains about the data")[1]
    listed = section.split("\n## ")[0]
    assert "the input example is a made-up gradient" in listed and "the names of the 3 classes" in listed
    assert words in listed and "data/decisions.csv" in listed


def test_the_same_inputs_give_the_same_bytes_and_another_image_another_revision(tmp_path: Path) -> None:
    first, again = (make(tmp_path / name).card().read_bytes() for name in ("a", "b"))
    assert first == again
    other = make(tmp_path / "c", ["ants", "bees"]).card()
    revisions = {
        ModelCard.load(path).data.eval_results[0].dataset_revision for path in (tmp_path / "a/model_card.md", other)
    }
    assert len(revisions) == 2


def test_labels_cannot_become_markup(tmp_path: Path) -> None:
    text = make(tmp_path, HOSTILE).card().read_text(encoding="utf-8")
    assert "\\<script\\>alert(1)\\</script\\>" in text
    assert not re.findall(r"(?<!\\)<(?:script|img|!--)", text)
    assert ModelCard(text).data.pipeline_tag == "image-classification"


def test_plain_text_stays_plain_text(inputs: Inputs) -> None:
    """Markdown has its own escapes, and no reader of a raw file reads HTML's."""
    told = inputs.card(DescribeParams(licence="", intended_use="The garden's R&D.", out_of_scope='"Medicine"'))
    text = told.read_text(encoding="utf-8")
    assert "The garden's R\\&D." in text and '"Medicine"' in text
    assert "images like the test split's" in text
    assert not re.findall(r"&(?:#\d+|[a-z]+);", text)


def test_a_licence_of_two_words_is_refused() -> None:
    assert list(faults_of(DescribeParams, vars(UNSTATED), "describe")) == []
    assert "one word" in next(faults_of(DescribeParams, vars(UNSTATED) | {"licence": "all rights"}, "describe"))
