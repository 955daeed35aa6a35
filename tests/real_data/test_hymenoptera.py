"""Real photographs, real ImageNet weights: the head transfers, and only because of the weights."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from tests.conftest import Project

pytestmark = pytest.mark.real_data


def head_accuracy(project: Project, weights: Path) -> float:
    images = Path(os.environ["REGRAFT_DATASETS"], "hymenoptera")
    project.must("regraft", "use", str(images), "--backbone", "squeezenet1_1", "--weights", str(weights))
    project.must("regraft", "run", "evaluate", timeout=600)
    found = json.loads((project / "data/reports/evaluation.json").read_text())["test"]["head"]
    assert found["n"] == 153
    return float(found["accuracy"]["value"])


@pytest.fixture
def project(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    project = new_project(tmp_path / "project")
    project.edit("params.yaml", "epochs: 12 ", "epochs: 1 ")  # the claims are about the head
    for old, new in (
        ("epochs: 20 ", "epochs: 6 "),
        ("draws: 3 ", "draws: 1 "),
        ("[3.0e-4, 1.0e-3, 3.0e-3]", "[1.0e-3]"),
    ):
        project.edit("params.yaml", old, new)  # from scratch: seconds an epoch
    return project


def test_the_frozen_head_reaches_092_with_imagenet_weights(project: Project) -> None:
    weights = Path(os.environ["REGRAFT_WEIGHTS"], "squeezenet1_1-imagenet.safetensors")
    assert head_accuracy(project, weights) >= 0.92
    manifest = json.loads((project / "data/reports/validation.json").read_text())["counts"]
    assert sum(manifest["test"].values()) == 153, "val/ alone beside train/ is the test set"
    assert sum(manifest["train"].values()) + sum(manifest["val"].values()) == 245
    transfer = json.loads((project / "data/reports/evaluation.json").read_text())["transfer"]
    assert (transfer["verdict"], transfer["against"]) == ("helps", "scratch")
    assert min(row["low"] for row in transfer["baselines"]) > 0.1, "ten points beyond doubt, against every baseline"
    assert transfer["labels"] == transfer["labels_of"] == sum(manifest["train"].values())
    (pair,) = json.loads((project / "data/reports/evaluation.json").read_text())["comparisons"]
    assert (pair["a"], pair["b"], pair["verdict"]) == ("fine_tuned", "head", "no evidence")


def test_random_weights_stay_under_075_and_do_not_help(project: Project, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(squeezenet1_1(weights=None).state_dict(), tmp_path / "random.safetensors")
    assert head_accuracy(project, tmp_path / "random.safetensors") < 0.75
    transfer = json.loads((project / "data/reports/evaluation.json").read_text())["transfer"]
    assert (transfer["verdict"], transfer["against"]) == ("no evidence", "scratch"), "weights that know nothing"


def test_the_placeholder_labelled_ant_is_on_the_sheet_and_the_photographs_are_not_accused(project: Project) -> None:
    images, weights = (Path(os.environ[f"REGRAFT_{name}"]) for name in ("DATASETS", "WEIGHTS"))
    project.must(
        "regraft", "use", str(images / "hymenoptera"), "--backbone", "squeezenet1_1",
        "--weights", str(weights / "squeezenet1_1-imagenet.safetensors"),
    )  # fmt: skip
    told = json.loads(project.must("regraft", "validate", "--json", timeout=600))
    suspects = [*told["screen"]["label_errors"], *told["screen"]["odd"]]
    assert "train/ants/imageNotFound.gif" in {row["path"] for row in suspects}
    assert "train/ants/imageNotFound.gif" in (project / "data/reports/screen.html").read_text(encoding="utf-8")
    assert len(suspects) < 20, "a sheet that accuses everything is read by nobody"
    assert not [rule for gate in ("validate", "screen") for rule in told[gate]["rules"] if not rule["passed"]]
