"""A replay's verdict: identical, equivalent or different, and where the two part."""

import copy
from typing import Any

import pandas as pd
import pytest

from steps.promotion.reproduction import DIFFERENT, EQUIVALENT, IDENTICAL, Difference, Verdict, differences, gaps, judge

ORDER = ["ingest", "train_head", "evaluate"]


def item(path: str, digest: str) -> dict[str, str]:
    return {"path": path, "md5": digest}


def lock() -> dict[str, Any]:
    return {
        "ingest": {
            "cmd": "python -m steps.ingest",
            "params": {"params.yaml": {"ingest": {"share": 0.2}}},
            "deps": [item("data/raw", "r.dir"), item("steps/ingest.py", "i")],
            "outs": [item("data/manifest", "m")],
        },
        "train_head": {
            "cmd": "python -m steps.train_head",
            "params": {"params.yaml": {"seed": 0, "train_head": {"kind": "linear", "epochs": 3}}},
            "deps": [item("data/manifest", "m"), item("steps/train_head.py", "t")],
            "outs": [item("data/head", "h"), item("data/head.json", "j")],
        },
        "evaluate": {
            "cmd": "python -m steps.evaluate",
            "deps": [item("data/head", "h"), item("steps/evaluate.py", "e")],
            "outs": [item("data/evaluation.json", "v")],
        },
    }


def changed(**digests: str) -> dict[str, Any]:
    """Return the lock with other digests, wherever the paths named by their last part occur."""
    made = copy.deepcopy(lock())
    for stage in made.values():
        for entry in (*stage["deps"], *stage["outs"]):
            name = entry["path"].rsplit("/", 1)[-1].replace(".", "_")
            entry["md5"] = digests.get(name, entry["md5"])
    return made


def test_the_same_lock_and_package_are_identical() -> None:
    assert differences(ORDER, lock(), lock()) == []
    assert judge([], True, {"probability": 0.0}, 0.0).kind == IDENTICAL
    assert judge([], True, None, 0.0).kind == IDENTICAL, "identical bytes need no measuring"


def test_an_edit_of_params_is_different_and_names_its_stage_and_value() -> None:
    now = changed(head="H", head_json="J", evaluation_json="V")
    now["train_head"]["params"]["params.yaml"]["train_head"]["epochs"] = 4
    found = differences(ORDER, lock(), now)
    assert found == [Difference("train_head", "params", "train_head.epochs: 3 -> 4")]
    verdict = judge(found, False, {"probability": 0.02}, 1.0)
    assert (verdict.kind, verdict.reasons) == (
        DIFFERENT,
        (
            "stage train_head differs in its params: train_head.epochs: 3 -> 4",
            "largest difference of a probability: 0.02",
        ),
    )
    assert judge(found, False, None, 1.0) == Verdict(DIFFERENT, verdict.reasons[:1])


@pytest.mark.parametrize(
    ("digests", "stage", "kind", "where"),
    [
        ({"raw": "R.dir", "manifest": "M", "head": "H"}, "ingest", "data", "data/raw"),
        ({"train_head_py": "T", "head": "H", "evaluation_json": "V"}, "train_head", "code", "steps/train_head.py"),
        ({"head": "H", "evaluation_json": "V"}, "train_head", "output", "data/head"),
        ({"evaluation_json": "V"}, "evaluate", "output", "data/evaluation.json"),
    ],
)
def test_the_first_stage_that_departs_is_named_and_what_follows_from_it_is_not(
    digests: dict[str, str], stage: str, kind: str, where: str
) -> None:
    assert differences(ORDER, lock(), changed(**digests)) == [Difference(stage, kind, where)]


def test_a_stage_that_one_side_lacks_and_another_command_are_told() -> None:
    now = {name: stage for name, stage in lock().items() if name != "evaluate"}
    assert differences(ORDER, lock(), now) == [Difference("evaluate", "missing", "the replay")]
    assert differences(ORDER, now, lock()) == [Difference("evaluate", "missing", "the original's dvc.lock")]
    now = lock()
    now["ingest"]["cmd"] += " --fast"
    assert [found.kind for found in differences(ORDER, lock(), now)] == ["command"]


def test_other_bytes_of_the_same_inputs_are_equivalent_within_the_tolerance_and_say_why_not_identical() -> None:
    found = [Difference("train_head", "output", "data/head")]
    verdict = judge(found, False, {"test figure": 0.0, "probability": 2e-6}, 1e-5)
    assert (verdict.kind, verdict.reasons[0]) == (
        EQUIVALENT,
        "stage train_head made other bytes of the same inputs: data/head",
    )
    assert "largest difference of a probability: 2e-06" in verdict.reasons
    assert judge(found, False, {"test figure": 0.0, "probability": 2e-5}, 1e-5).kind == DIFFERENT
    assert judge(found, False, None, 1.0).kind == DIFFERENT
    assert judge([], False, {"probability": 0.0}, 1e-5).reasons[0].startswith("the package has another digest")


def test_a_cause_outweighs_a_departure_that_has_none() -> None:
    found = [Difference("ingest", "output", "data/manifest"), Difference("train_head", "params", "seed: 0 -> 1")]
    verdict = judge(found, False, {"probability": 0.0}, 1.0)
    assert (verdict.kind, verdict.reasons[0]) == (DIFFERENT, "stage train_head differs in its params: seed: 0 -> 1")


def answers(first: float) -> pd.DataFrame:
    rows = [("a", "a.png", "head", [first, 1 - first]), ("b", "b.png", "head", [0.5, 0.5])]
    return pd.DataFrame(rows, columns=["id", "path", "model", "probabilities"])


def figures(accuracy: float) -> dict[str, Any]:
    values = {"accuracy": accuracy, "balanced_accuracy": 0.5, "log_loss": 0.3}
    return {"head": {name: {"value": value} for name, value in values.items()}}


def test_gaps_are_the_largest_differences_and_infinite_where_the_images_differ() -> None:
    found = gaps(answers(0.9), answers(0.8).iloc[::-1], figures(0.9), figures(0.85))
    assert found == {"test figure": pytest.approx(0.05), "probability": pytest.approx(0.1)}
    missing = gaps(answers(0.9), answers(0.9).iloc[:1], figures(0.9), figures(0.9))
    assert set(missing.values()) == {float("inf")}
