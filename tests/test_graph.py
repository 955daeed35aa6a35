"""The contract between dvc.yaml, params.yaml and the code, without running anything: one name for everything."""

import ast
import dataclasses
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.graph import META_KEYS
from steps.promotion.terms import SECTIONS
from steps.runtime import stage as binding

ROOT = Path(__file__).parents[1]
GRAPH: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
STAGES = [
    "ingest",
    "validate",
    "extract_features",
    "screen",
    "choose_strategy",
    "train_head",
    "fine_tune",
    "baselines",
    "evaluate",
    "describe",
    "inspect",
    "register",
    "report",
]
TRAINING = ["extract_features", "choose_strategy", "train_head", "fine_tune", "baselines"]
UNTRACKED = "data/outcome/"  # what depends on the clock or the registry: written, never declared
FINAL = {  # read by people and by `promote`
    "data/reports/report.html",
    "data/reports/register.json",
    "data/reports/screen.html",
    "data/reports/suspects.csv",
    "data/reports/label_next.csv",
}
# `register` ships these with every version.
SHIPPED = {"register": "steps.registry.served_model"}

each_stage = pytest.mark.parametrize("name", GRAPH)


def outs(name: str) -> set[str]:
    listed = [*GRAPH[name].get("outs", []), *GRAPH[name].get("metrics", [])]
    return {next(iter(out)) if isinstance(out, dict) else out for out in listed}


def split_deps(name: str) -> tuple[set[str], set[str]]:
    """Return (data, code) of the declared dependencies."""
    deps = set(GRAPH[name]["deps"])
    code = {dep for dep in deps if dep.startswith("steps/") or dep == "requirements.lock"}
    return deps - code, code


def test_the_graph_holds_the_stages_that_the_readme_promises() -> None:
    assert list(GRAPH) == STAGES


@each_stage
def test_a_stage_names_its_module_and_its_function(name: str) -> None:
    assert shlex.split(GRAPH[name]["cmd"])[:3] == ["python", "-m", f"steps.{name}"]
    assert callable(getattr(importlib.import_module(f"steps.{name}"), name))
    source = (ROOT / "steps" / f"{name}.py").read_text(encoding="utf-8")
    assert source.endswith(f'if __name__ == "__main__":\n    stage.main({name})\n')


@each_stage
def test_paths_of_the_command_are_the_data_that_the_stage_declares(name: str) -> None:
    _, arguments = binding.parse(" ".join(GRAPH[name]["cmd"].split()))
    tracked = {path for path in arguments.values() if not path.startswith(UNTRACKED)}
    data, _ = split_deps(name)
    assert tracked == data | outs(name)
    assert len(arguments) == len(set(arguments.values())), "one path under two flags"
    assert not data & outs(name), "an output that is also an input"


def reached(name: str) -> set[str]:
    """Return the files that a stage imports, in the end, and those that it ships."""
    modules = {f"steps.{name}", SHIPPED.get(name, f"steps.{name}")}
    return set().union(*(binding.code_dependencies(ROOT, module) for module in modules))


def room_of(path: str) -> str:
    """Return the folder that a file of `steps` lies in, or the file itself where it lies in none."""
    folder = Path(path).parent.as_posix()
    return path if folder == "steps" else folder


@each_stage
def test_code_dependencies_are_the_rooms_of_the_transitive_imports(name: str) -> None:
    wanted = {room_of(path) for path in reached(name)} | {"requirements.lock"}
    _, declared = split_deps(name)
    assert declared == wanted, f"code in deps of dvc.yaml should be: {', '.join(sorted(wanted))}"
    assert {f"steps/{name}.py", "steps/errors.py", "steps/runtime"} < wanted


def test_a_file_is_read_beside_a_module_only_from_its_own_room() -> None:
    """What an import does not show: templates and weights lie in the room of the module that reads them."""
    readers = {
        path.relative_to(ROOT).as_posix(): re.findall(r"Path\(__file__\)\.(\w+(?:\[\d\])?)", text)
        for path in (ROOT / "steps").rglob("*.py")
        if "__file__" in (text := path.read_text(encoding="utf-8"))
    }
    beyond = {path for path, places in readers.items() if places != ["parent"]}
    # The checkout's lock and code, which `register` declares; the example's weights, which no stage reads.
    assert beyond == {"steps/registry/package_writing.py", "steps/commands/origins.py"}
    assert readers.keys() - beyond == {"steps/pages/rendering.py"}
    assert not any("steps/commands/origins.py" in reached(name) for name in GRAPH)


@pytest.mark.parametrize("name", TRAINING)
def test_an_edit_of_words_pages_or_figures_retrains_nothing(name: str) -> None:
    rooms = {dep for dep in split_deps(name)[1] if (ROOT / dep).is_dir()}
    assert rooms <= {f"steps/{room}" for room in ("runtime", "images", "backbones", "training", "evaluation")}
    shown = re.compile(r"^\s*(?:from|import) (?:matplotlib|jinja2|steps\.(?:pages|commands|promotion|serving))", re.M)
    files = [path for room in rooms for path in (ROOT / room).rglob("*")]
    assert not [path for path in files if path.suffix in (".html", ".css")]
    assert not [path for path in files if path.suffix == ".py" and shown.search(path.read_text(encoding="utf-8"))]


def test_package_files_hold_no_code() -> None:
    inits = list((ROOT / "steps").rglob("__init__.py"))
    assert inits
    for path in inits:  # importing a module runs its package's file, and that is to be nothing
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr], path


@each_stage
def test_declared_params_are_the_sections_that_the_function_takes(name: str) -> None:
    function, _ = binding.parse(" ".join(GRAPH[name]["cmd"].split()))
    assert sorted(GRAPH[name]["params"]) == binding.declared_params(function)


@each_stage
def test_a_params_section_has_the_fields_of_its_class(name: str) -> None:
    function, _ = binding.parse(" ".join(GRAPH[name]["cmd"].split()))
    for section, kind in binding.sections(function).values():
        if dataclasses.is_dataclass(kind):
            names = {field.name for field in dataclasses.fields(kind)}
            assert names <= set(PARAMS[section]) if hasattr(kind, "PART_OF") else names == set(PARAMS[section])
            for field in dataclasses.fields(kind):
                assert field.default is dataclasses.MISSING, "values live in params.yaml, defaults nowhere"
                assert field.default_factory is dataclasses.MISSING


def test_the_shipped_params_are_right_and_every_section_is_read() -> None:
    binding.check_params(ROOT, (" ".join(s["cmd"].split()) for s in GRAPH.values()), SECTIONS)


@each_stage
def test_meta_keys_are_known(name: str) -> None:
    assert set(GRAPH[name].get("meta", {})) <= META_KEYS


def test_every_output_is_read_by_another_stage_or_is_final() -> None:
    made = [path for name in GRAPH for path in outs(name)]
    read = {path for name in GRAPH for path in split_deps(name)[0]}
    assert len(made) == len(set(made)), "two stages write one path"
    assert set(made) - read == FINAL


def test_every_input_is_made_by_a_stage_or_is_the_users() -> None:
    made = {path for name in GRAPH for path in outs(name)}
    read = {path for name in GRAPH for path in split_deps(name)[0]}
    # Written by people, or by a command that they gave.
    own = {"data/decisions.csv", "data/importance.csv", "data/lost_classes.json"}
    assert read - made == {"data/raw", "data/backbone", "data/backbone/card.json"} | own
