"""`regraft validate` runs the gates alone; a refusal ends with 3 and says the same in text and in JSON."""

import json
from collections.abc import Callable
from pathlib import Path

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
