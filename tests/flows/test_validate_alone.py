"""`regraft validate` runs the gates alone; a refusal ends with 3 and says the same in text and in JSON."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from tests.conftest import Project, write_images

MADE = ("accepted.parquet", "screened.parquet", "reports/validation.json", "reports/screen.json")


@pytest.fixture
def project(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    project = new_project(tmp_path / "project")
    images = write_images(tmp_path / "images", per_class=40)
    project.must("regraft", "use", str(images), "--backbone", "glyphnet")
    return project


def test_what_the_gates_refuse_ends_with_3_and_is_said_alike_in_text_and_in_json(project: Project) -> None:
    project.edit("params.yaml", "min_train_per_class: 5", "min_train_per_class: 500")
    done = project.run("regraft", "validate", "--json")
    refused = json.loads(done.stdout)
    assert done.returncode == 3 and refused["accepted"] is False
    assert "enough to learn from" in refused["refusal"] and refused["refusal"] in done.stderr
    assert done.stderr.rstrip().endswith("data/outcome/checks.html"), "the page is named last"
    assert "<h1>The data was rejected</h1>" in (project / "data/outcome/checks.html").read_text()
    assert "screen" not in refused, "what the gate behind said of other data is not shown"
    for rule in refused["validate"]["rules"]:
        assert rule["passed"] or {"observed", "limit", "remedy", "what"} <= set(rule)


@pytest.mark.exhaustive
def test_the_gates_alone_what_they_warn_of_and_which_decisions_they_refuse(project: Project, tmp_path: Path) -> None:
    told = json.loads(project.must("regraft", "validate", "--json"))
    assert told["accepted"] is True and told["refusal"] is None
    assert told["validate"]["decisions"] == {"keep": 0, "relabel": 0, "drop": 0, "absent": []}
    assert not [rule for gate in ("validate", "screen") for rule in told[gate]["rules"] if not rule["passed"]]
    assert not (project / "data/models").exists(), "nothing is trained"

    _against(project, tmp_path / "production")

    project.edit("params.yaml", "min_train_per_class: 5", "min_train_per_class: 500")
    project.edit("params.yaml", "    minimum: fail", "    minimum: warn")
    warned = project.must("regraft", "validate")
    assert "  warn  enough to learn from: " in warned and "remedy  Add images of the class" in warned
    assert warned.splitlines()[-2:] == [
        "  images to review: data/reports/screen.html",
        "  warnings in pictures: data/outcome/checks.html",
    ]
    assert "<h1>Warnings about the data</h1>" in (project / "data/outcome/checks.html").read_text()
    project.edit("params.yaml", "min_train_per_class: 500", "min_train_per_class: 5")
    assert "warnings" not in project.must("regraft", "validate")
    assert not (project / "data/outcome/checks.html").exists(), "it outlives its reason"

    (project / "data/decisions.csv").write_text("image,decision,label,note\n000.png,keep,,\n")
    done = project.run("regraft", "validate")
    assert done.returncode == 3
    assert "1 fault in decisions.csv" in done.stderr and "did you mean '0/000.png'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.exhaustive
def test_a_decision_outlives_its_image_under_both_drivers(project: Project, tmp_path: Path) -> None:
    images = tmp_path / "images"
    identity = hashlib.sha256((images / "1/004.png").read_bytes()).hexdigest()
    lines = ("0/001.png,drop,,a smear", "0/002.png,relabel,1,", "2/003.png,keep,,", f"{identity},drop,,")
    (project / "data/decisions.csv").write_text("\n".join(["image,decision,label,note", *lines, ""]))
    told = json.loads(project.must("regraft", "validate", "--json"))["validate"]
    assert told["decisions"] == {"keep": 1, "relabel": 1, "drop": 2, "absent": []}
    assert sum(sum(of.values()) for of in told["counts"].values()) == 118
    made = [(project / f"data/{name}").read_bytes() for name in MADE]

    project.must("dvc", "repro", "--force", "screen")
    assert made == [(project / f"data/{name}").read_bytes() for name in MADE], "as the other driver has it"

    for name in ("0/001.png", "0/002.png", "1/004.png"):
        (images / name).unlink()
    told = json.loads(project.must("regraft", "validate", "--json"))["validate"]
    assert told["decisions"]["absent"] == ["0/001.png", "0/002.png", identity]
    assert sum(sum(of.values()) for of in told["counts"].values()) == 117
    (project / "data/manifest.parquet").write_bytes(b"written over by hand")
    (project / "data/decisions.csv").unlink()
    lost = project.run("regraft", "validate")  # it reads the images again, as a remedy says
    assert (
        "data/decisions.csv, which does not exist (write it, with the one line image,decision,label,note)"
        in lost.stderr
    )
    (project / "data/decisions.csv").write_text("image,decision,label,note\n")
    project.must("regraft", "validate")


def _against(project: Project, reference: Path) -> None:
    """The gates are passed; now production sees nothing but outlines."""
    for path in sorted((project / "data/raw").rglob("*.png"))[::4]:
        (reference / "deep").mkdir(parents=True, exist_ok=True)
        outline = Image.open(path).resize((32, 32)).filter(ImageFilter.FIND_EDGES)
        outline.save(reference / "deep" / f"{path.parent.name}-{path.name}")
    project.edit("params.yaml", "domain_shift: warn", "domain_shift: fail")
    done = project.run("regraft", "validate", "--against", str(reference), "--json")
    refused = json.loads(done.stdout)
    assert done.returncode == 3 and refused["accepted"] is False and refused["refusal"] in done.stderr
    (rule,) = refused["against"]["rules"]
    assert not rule["passed"] and rule["remedy"] in done.stderr

    assert "`screen.severity.domain_shift: warn` in params.yaml" in rule["remedy"]
    project.edit("params.yaml", "domain_shift: fail", "domain_shift: warn")
    warned = project.must("regraft", "validate", "--against", str(reference))
    assert "warn  training looks like the reference" in warned and "limit: at most 0.7" in warned
    assert "told apart with an AUC of" in warned and "width differs: 8 against 32" in warned
    assert (project / "data/outcome/against.html").exists()
    fresh = json.loads(project.must("regraft", "status", "--json"))["stages"]
    assert fresh["screen"] == "Fresh", "a comparison leaves nothing behind that the graph knows of"

    done = project.run("regraft", "validate", "--against", str(reference / "nowhere"))
    assert done.returncode == 2 and "no such folder" in done.stderr and "Traceback" not in done.stderr
