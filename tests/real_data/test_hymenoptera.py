"""Real photographs, real ImageNet weights: the head transfers, and only because of the weights."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from tests.browser import HEIGHTS, browser
from tests.conftest import NEEDS, Project

pytestmark = pytest.mark.real_data


def use(project: Project, weights: Path) -> None:
    images = Path(os.environ["REGRAFT_DATASETS"], "hymenoptera")
    project.must("regraft", "use", str(images), "--backbone", "squeezenet1_1", "--weights", str(weights))


def head_accuracy(project: Project) -> float:
    found = json.loads((project / "data/reports/evaluation.json").read_text())["test"]["head"]
    assert found["n"] == 153
    return float(found["accuracy"]["value"])


def shortened(project: Project) -> Project:
    project.edit("params.yaml", "epochs: 12 ", "epochs: 1 ")  # the claims are about the head
    for old, new in (
        ("epochs: 20 ", "epochs: 6 "),
        ("least_steps: 100 ", "least_steps: 0 "),
        ("draws: 3 ", "draws: 1 "),
        ("[3.0e-4, 1.0e-3, 3.0e-3]", "[1.0e-3]"),
    ):
        project.edit("params.yaml", old, new)  # from scratch: seconds an epoch
    return project


@pytest.fixture
def project(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    return shortened(new_project(tmp_path / "project"))


@pytest.fixture(scope="module")
def transferred(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project, committed, after a run with ImageNet weights."""
    project = shortened(new_project(tmp_path_factory.mktemp("transferred") / "project"))
    use(project, Path(os.environ["REGRAFT_WEIGHTS"], "squeezenet1_1-imagenet.safetensors"))
    for command in (["add", "--all"], ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "-"]):
        subprocess.run(["git", *command], cwd=project.root, env=dict(project.environment), check=True)
    project.must("regraft", "run", timeout=900)
    return project


def test_the_frozen_head_reaches_092_with_imagenet_weights(transferred: Project) -> None:
    project = transferred
    assert head_accuracy(project) >= 0.92
    manifest = json.loads((project / "data/reports/validation.json").read_text())["counts"]
    assert sum(manifest["test"].values()) == 153, "val/ alone beside train/ is the test set"
    assert sum(manifest["train"].values()) + sum(manifest["val"].values()) == 245
    transfer = json.loads((project / "data/reports/evaluation.json").read_text())["transfer"]
    assert (transfer["verdict"], transfer["against"]) == ("helps", "scratch")
    assert min(row["low"] for row in transfer["baselines"]) > 0.1, "ten points beyond doubt, against every baseline"
    assert transfer["labels"] == transfer["labels_of"] == sum(manifest["train"].values())
    (pair,) = json.loads((project / "data/reports/evaluation.json").read_text())["comparisons"]
    assert (pair["a"], pair["b"], pair["verdict"]) == ("fine_tuned", "head", "no evidence")


@pytest.mark.browser
@pytest.mark.skipif(not NEEDS["axe"][0], reason=f"axe: {NEEDS['axe'][1]}")
def test_the_report_of_photographs_is_light_asks_for_nothing_and_keeps_nobody_out(
    transferred: Project, tmp_path: Path
) -> None:
    with browser(tmp_path) as tab:
        for page in (transferred / "data/reports/report.html", transferred / "data/outcome/index.html"):
            assert page.stat().st_size < 5_000_000, "photographs weigh more than digits"
            for width in HEIGHTS:
                tab.screen(width)
                assert tab.asked_for(page) == []
                assert tab.evaluate("document.images.length") > 10, "a report of photographs shows them"
                assert [found for found in tab.barriers() if found[0] in ("serious", "critical")] == []


def test_random_weights_stay_under_075_and_do_not_help(project: Project, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(squeezenet1_1(weights=None).state_dict(), tmp_path / "random.safetensors")
    use(project, tmp_path / "random.safetensors")
    project.edit("params.yaml", "least_steps: 0 ", "least_steps: 100 ")  # in fewer, the rival stays at chance
    project.must("regraft", "run", "evaluate", timeout=600)
    assert head_accuracy(project) < 0.75
    transfer = json.loads((project / "data/reports/evaluation.json").read_text())["transfer"]
    assert (transfer["verdict"], transfer["against"]) == ("no evidence", "scratch"), "weights that know nothing"


@pytest.mark.exhaustive
def test_the_champion_of_real_photographs_is_made_again_to_the_byte(transferred: Project) -> None:
    champion = json.loads(transferred.must("regraft", "status", "--json"))["champion"]
    told = json.loads(transferred.must("regraft", "replay", champion, "--json", timeout=1200))
    assert told["verdict"] == "identical", told
    links = json.loads(transferred.must("regraft", "audit", "--verify", "--json"))["links"]
    assert [link["what"] for link in links if not link["signed"] or link["gaps"] or link["contradictions"]] == []


def test_the_placeholder_labelled_ant_is_on_the_sheet_and_the_photographs_are_not_accused(project: Project) -> None:
    images, weights = (Path(os.environ[f"REGRAFT_{name}"]) for name in ("DATASETS", "WEIGHTS"))
    project.must(
        "regraft",
        "use",
        str(images / "hymenoptera"),
        "--backbone",
        "squeezenet1_1",
        "--weights",
        str(weights / "squeezenet1_1-imagenet.safetensors"),
    )
    told = json.loads(project.must("regraft", "validate", "--json", timeout=600))
    suspects = [*told["screen"]["label_errors"], *told["screen"]["odd"]]
    assert "train/ants/imageNotFound.gif" in {row["path"] for row in suspects}
    assert "train/ants/imageNotFound.gif" in (project / "data/reports/screen.html").read_text(encoding="utf-8")
    assert len(suspects) < 20, "a sheet that accuses everything is read by nobody"
    assert not [rule for gate in ("validate", "screen") for rule in told[gate]["rules"] if not rule["passed"]]
