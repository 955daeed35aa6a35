"""`regraft validate` runs the gates alone; a refusal ends with 3 and says the same in text and in JSON."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageFilter

from tests.conftest import Project, write_images


def test_the_gates_alone_and_what_they_refuse(new_project: Callable[[Path], Project], tmp_path: Path) -> None:
    project = new_project(tmp_path / "project")
    images = write_images(tmp_path / "images", per_class=40)
    project.must("regraft", "use", str(images), "--backbone", "glyphnet")
    told = json.loads(project.must("regraft", "validate", "--json"))
    assert told["accepted"] is True and told["refusal"] is None
    assert told["validate"]["decisions"] == {"keep": 0, "relabel": 0, "drop": 0}
    assert not [rule for gate in ("validate", "screen") for rule in told[gate]["rules"] if not rule["passed"]]
    assert not (project / "data/models").exists(), "nothing is trained"

    _against(project, tmp_path / "production")

    project.edit("params.yaml", "min_train_per_class: 5", "min_train_per_class: 500")
    done = project.run("regraft", "validate", "--json")
    refused = json.loads(done.stdout)
    assert done.returncode == 3 and refused["accepted"] is False
    assert "enough to learn from" in refused["refusal"] and refused["refusal"] in done.stderr
    assert "screen" not in refused, "what the gate behind said of other data is not shown"
    for rule in refused["validate"]["rules"]:
        assert rule["passed"] or {"observed", "limit", "remedy", "what"} <= set(rule)

    (project / "data/decisions.csv").write_text("image,decision,label,note\nnowhere.png,keep,,\n")
    done = project.run("regraft", "validate")
    assert done.returncode == 3
    assert "1 fault in decisions.csv" in done.stderr and "Traceback" not in done.stderr


def _against(project: Project, reference: Path) -> None:
    """The gates are passed; now production sees nothing but outlines."""
    for path in sorted((project / "data/raw").rglob("*.png"))[::4]:
        (reference / "deep").mkdir(parents=True, exist_ok=True)
        outline = Image.open(path).resize((32, 32)).filter(ImageFilter.FIND_EDGES)
        outline.save(reference / "deep" / f"{path.parent.name}-{path.name}")
    warned = project.must("regraft", "validate", "--against", str(reference))
    assert "warn  training looks like the reference" in warned and "limit: at most 0.7" in warned
    assert "told apart with an AUC of" in warned and "width differs: 8 against 32" in warned
    assert (project / "data/outcome/against.html").exists()
    fresh = json.loads(project.must("regraft", "status", "--json"))["stages"]
    assert fresh["screen"] == "Fresh", "a comparison leaves nothing behind that the graph knows of"

    project.edit("params.yaml", "domain_shift: warn", "domain_shift: fail")
    done = project.run("regraft", "validate", "--against", str(reference), "--json")
    refused = json.loads(done.stdout)
    assert done.returncode == 3 and refused["accepted"] is False and refused["refusal"] in done.stderr
    assert not refused["against"]["rules"][0]["passed"] and refused["against"]["rules"][0]["remedy"] in done.stderr
    done = project.run("regraft", "validate", "--against", str(reference / "nowhere"))
    assert done.returncode == 2 and "no such folder" in done.stderr and "Traceback" not in done.stderr
