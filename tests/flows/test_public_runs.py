"""Six kinds of public data sets, from folder to verdict by commands alone, with at most one remedy, as printed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import Project
from tests.flows.test_public_sets import VERDICTS, setting
from tests.public_sets import SETS
from tests.test_pipeline import QUICK

REJECTED = 3
CHAMPION, UNDER_THE_FLOOR = "version {} of regraft is the new champion", "version {} of regraft was not promoted"
OUTCOMES = {  # exit code 0 each: a set too small for a good model ends in a verdict with its reason
    "split folders": CHAMPION,
    "medical": CHAMPION,
    "industrial": CHAMPION,
    "tiny": UNDER_THE_FLOOR,
    "imbalanced": CHAMPION,
    "nested": CHAMPION,
}


def set_param(project: Project, line: str) -> None:
    """Write a line `section.name: value` into params.yaml, as a refusal prints it."""
    key, value = line.split(": ")
    section, name = key.split(".")
    yaml = YAML()
    document = yaml.load(project / "params.yaml")
    document[section][name] = yaml.load(value)
    yaml.dump(document, project / "params.yaml")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SETS)
def test_a_public_set_comes_to_its_verdict_with_at_most_one_remedy(
    name: str, new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project, remedy = new_project(tmp_path / "project"), VERDICTS[name].remedy
    for before, after in QUICK.items():
        project.edit("params.yaml", before, after)
    flag = remedy.split() if remedy.startswith("--") else []
    said = project.must("regraft", "use", str(SETS[name](tmp_path / "set")), "--backbone", "glyphnet", *flag)
    assert said.endswith("regraft run\n")
    done = project.run("regraft", "run")
    if remedy and not flag:
        assert (done.returncode, setting(done.stderr)) == (REJECTED, remedy), done.stderr
        set_param(project, remedy)
        done = project.run("regraft", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(OUTCOMES[name].format(version) in done.stdout for version in (1, 2)), done.stdout
    assert (project / "data/outcome/index.html").stat().st_size > 0
