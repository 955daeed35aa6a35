"""A signature is a command line, a call and an identity; all three agree."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import steps
from steps.errors import DataError, GraphError, ParamsError
from steps.runtime import stage
from steps.runtime.stage import Lineage

TOY = '''
"""A stage."""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steps.runtime.stage import Lineage
from steps.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ToyParams:
    factor: int

    def faults(self) -> Iterator[str]:
        if self.factor < 1:
            yield f"factor is {self.factor}; at least 1"


@dataclass(frozen=True, kw_only=True)
class MachineParams:
    threads: int


def toy(params: ToyParams, seed: int, machine: MachineParams, lineage: Lineage, raw: Path, the_result: Path) -> None:
    text = raw.read_text()
    if "bad" in text:
        raise DataError("the text is bad")
    the_result.write_text(f"{text * params.factor} {seed} {machine.threads} {lineage.digest}")
'''
PARAMS: dict[str, Any] = {"seed": 7, "toy": {"factor": 3}, "machine": {"threads": 2}, "other": {"x": 1}}
CMD = "python -m steps.toy --raw data/raw.txt --the-result data/deep/result.txt"
GRAPH = {
    "stages": {
        "toy": {
            "cmd": CMD,
            "deps": ["data/raw.txt", "data/folder", "steps/toy.py", "steps/templates", "requirements.lock"],
            "params": ["seed", "toy", "machine"],
            "outs": ["data/deep/result.txt"],
        }
    }
}


@dataclass
class Toy:
    """A project with one stage, whose module is the real thing: a file that Python imports."""

    root: Path

    def write(self, name: str, content: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content, encoding="utf-8")

    def params(self, **changes: Any) -> None:
        self.write("params.yaml", yaml.safe_dump({**PARAMS, **changes}))

    def lineage(self) -> Lineage:
        return stage.lineage(self.root, stage.parse(CMD)[0])


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    made = Toy(tmp_path / "project")
    made.params()
    made.write("steps/toy.py", TOY)
    made.write("steps/empty.py", "")
    made.write("steps/templates/page.html", "<p>")
    made.write("data/raw.txt", "abc")
    made.write("data/folder/a.txt", "a")
    made.write("data/folder/deep/b.txt", "b")
    made.write("requirements.lock", "torch==1")
    made.write("dvc.yaml", yaml.safe_dump(GRAPH))
    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(made.root / "steps")])
    for name in ("steps.toy", "steps.empty"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return made


# From the command line to the function


def test_a_command_is_taken_apart_into_function_and_paths(toy: Toy) -> None:
    function, paths = stage.parse(CMD)
    assert (function.__module__, function.__name__) == ("steps.toy", "toy")
    assert paths == {"raw": "data/raw.txt", "the_result": "data/deep/result.txt"}


def test_every_path_of_the_signature_is_a_flag_and_every_other_argument_a_section(toy: Toy) -> None:
    function, _ = stage.parse(CMD)
    assert stage.path_arguments(function) == ["raw", "the_result"]
    found = {name: (section, kind.__name__) for name, (section, kind) in stage.sections(function).items()}
    assert found == {"params": ("toy", "ToyParams"), "seed": ("seed", "int"), "machine": ("machine", "MachineParams")}


def test_paths_with_spaces_and_the_equals_sign_are_understood(toy: Toy) -> None:
    _, paths = stage.parse("python -m steps.toy --raw='my data/raw.txt' --the-result=\"out\"")
    assert paths == {"raw": "my data/raw.txt", "the_result": "out"}


@pytest.mark.parametrize(
    ("cmd", "sentence"),
    [
        ("python train.py --raw x", "'python train.py --raw x' does not start with 'python -m steps.'"),
        ("python -m steps.nowhere --raw x", "'python -m steps.nowhere --raw x': there is no steps/nowhere.py"),
        ("python -m steps.empty", "steps/empty.py has no function empty"),
        ("python -m steps.toy --raw x", "python -m steps.toy: the following arguments are required: --the-result"),
        ("python -m steps.toy --raw x --the-result y --lr 3", "python -m steps.toy: unrecognized arguments: --lr 3"),
        (
            "python -m steps.toy --raw x --the_result y",
            "python -m steps.toy: the following arguments are required: --the-result",
        ),
        (
            "python -m steps.toy --raw x --the-res y",
            "python -m steps.toy: the following arguments are required: --the-result",
        ),
    ],
)
def test_a_command_that_does_not_fit_is_refused_in_words_and_ends_no_process(toy: Toy, cmd: str, sentence: str) -> None:
    with pytest.raises(GraphError) as caught:
        stage.parse(cmd)
    assert str(caught.value) == sentence


# From the function to the result


def test_the_call_binds_paths_values_and_lineage(toy: Toy) -> None:
    stage.run(CMD, toy.root)
    digest = toy.lineage().digest
    assert (toy.root / "data/deep/result.txt").read_text(encoding="utf-8") == f"abcabcabc 7 2 {digest}"
    toy.params(seed=8, toy={"factor": 1})
    stage.run(CMD, toy.root)
    assert (toy.root / "data/deep/result.txt").read_text(encoding="utf-8").startswith("abc 8 2 ")


def test_the_command_line_gives_the_bytes_that_the_call_in_process_gives(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(CMD, toy.root)
    result = toy.root / "data/deep/result.txt"
    called = result.read_bytes()
    result.unlink()
    monkeypatch.chdir(toy.root)
    monkeypatch.setattr(sys, "argv", CMD.split()[2:])
    with pytest.raises(SystemExit) as end:
        stage.main(stage.parse(CMD)[0])
    assert end.value.code == 0
    assert result.read_bytes() == called


def test_on_the_command_line_an_expected_fault_is_one_sentence(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write("data/raw.txt", "bad")
    with pytest.raises(DataError, match="the text is bad"):
        stage.run(CMD, toy.root)
    monkeypatch.chdir(toy.root)
    function, _ = stage.parse(CMD)
    for arguments, sentence in (
        (CMD.split()[2:], "toy: the text is bad"),
        (["steps.toy", "--raw", "x"], "toy: python -m steps.toy: the following arguments are required: --the-result"),
    ):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            stage.main(function)
        assert end.value.code == sentence  # a string: Python prints it and exits 1


def test_a_fault_that_nobody_expected_keeps_its_traceback(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.root)
    monkeypatch.setattr(sys, "argv", ["steps.toy", "--raw", "nowhere.txt", "--the-result", "x"])
    with pytest.raises(SystemExit) as end:
        stage.main(stage.parse(CMD)[0])
    told = str(end.value.code)
    assert told.startswith("Traceback (most recent call last)") and "FileNotFoundError: " in told


def test_all_faults_of_all_sections_are_told_before_anything_runs(toy: Toy) -> None:
    toy.write("params.yaml", yaml.safe_dump({"seed": True, "toy": {"factor": 0}, "machine": {"thread": 2}}))
    with pytest.raises(ParamsError) as caught:
        stage.run(CMD, toy.root)
    assert list(caught.value.faults) == [
        "toy.factor is 0; at least 1",
        "seed: True is true or false; a whole number expected",
        "machine.thread: no such parameter; did you mean 'threads'?",
        "machine.threads: missing (a whole number expected)",
    ]
    assert not (toy.root / "data/deep/result.txt").exists()


def test_a_missing_section_is_a_fault_and_no_crash(toy: Toy) -> None:
    toy.write("params.yaml", "seed: 1\n")
    with pytest.raises(ParamsError) as caught:
        stage.run(CMD, toy.root)
    assert list(caught.value.faults) == ["toy: None is no mapping", "machine: None is no mapping"]


# Identity

Change = Callable[[Toy], None]


def changed_graph(**changes: Any) -> Change:
    return lambda toy: toy.write("dvc.yaml", yaml.safe_dump({"stages": {"toy": {**GRAPH["stages"]["toy"], **changes}}}))


DECLARED: dict[str, Change] = {
    "code": lambda toy: toy.write("steps/toy.py", TOY + "\n# a comment\n"),
    "a template": lambda toy: toy.write("steps/templates/page.html", "<p>!"),
    "the lock": lambda toy: toy.write("requirements.lock", "torch==2"),
    "a data file": lambda toy: toy.write("data/raw.txt", "abd"),
    "a file in a data folder": lambda toy: toy.write("data/folder/deep/b.txt", "c"),
    "a new file in a data folder": lambda toy: toy.write("data/folder/c.txt", ""),
    "a file's name in a data folder": lambda toy: shutil.move(
        toy.root / "data/folder/a.txt", toy.root / "data/folder/z.txt"
    ),
    "a value of its own section": lambda toy: toy.params(toy={"factor": 4}),
    "a value of a shared section": lambda toy: toy.params(machine={"threads": 1}),
    "the seed": lambda toy: toy.params(seed=8),
    "the command": changed_graph(cmd=CMD + " "),
    "one dependency less": changed_graph(deps=GRAPH["stages"]["toy"]["deps"][:-1]),
}
UNDECLARED: dict[str, Change] = {
    "another section": lambda toy: toy.params(other={"x": 2}),
    "a comment in params": lambda toy: toy.write("params.yaml", "# hello\n" + yaml.safe_dump(PARAMS)),
    "an undeclared file": lambda toy: toy.write("data/notes.txt", "hello"),
    "undeclared code": lambda toy: toy.write("steps/empty.py", "x = 1"),
    "the policy in meta": changed_graph(meta={"retries": 3}),
    "the outputs": lambda toy: toy.write("data/deep/result.txt", "something"),
    "the order of dependencies": changed_graph(deps=GRAPH["stages"]["toy"]["deps"][::-1]),
    "the age of a file": lambda toy: (toy.root / "data/raw.txt").touch(),
}


@pytest.mark.parametrize("what", DECLARED)
def test_the_lineage_changes_with_everything_declared(toy: Toy, what: str) -> None:
    before = toy.lineage()
    DECLARED[what](toy)
    assert toy.lineage().digest != before.digest


@pytest.mark.parametrize("what", UNDECLARED)
def test_the_lineage_changes_with_nothing_else(toy: Toy, what: str) -> None:
    before = toy.lineage()
    UNDECLARED[what](toy)
    assert toy.lineage() == before


def test_the_lineage_does_not_know_where_the_project_lies(toy: Toy, tmp_path: Path) -> None:
    shutil.copytree(toy.root, tmp_path / "elsewhere")
    function, _ = stage.parse(CMD)
    assert stage.lineage(tmp_path / "elsewhere", function) == stage.lineage(toy.root, function)


def test_the_lineage_tells_code_values_and_inputs_apart(toy: Toy) -> None:
    found = toy.lineage().to_dict()
    assert set(found) == {"stage", "digest", "code", "params", "inputs"}
    assert (found["stage"], set(found["inputs"])) == ("toy", {"data/raw.txt", "data/folder"})
    assert found["params"] == {"machine": {"threads": 2}, "seed": 7, "toy": {"factor": 3}}
    # printf abc | sha256sum (FIPS 180-4)
    assert found["inputs"]["data/raw.txt"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    DECLARED["a data file"](toy)
    assert toy.lineage().code == found["code"]
    DECLARED["a template"](toy)
    assert toy.lineage().code != found["code"]


def test_data_that_dvc_tracks_is_known_by_dvcs_own_hash(toy: Toy) -> None:
    pointer = {"outs": [{"md5": "d41d8cd98f00b204e9800998ecf8427e.dir", "path": "folder"}]}
    toy.write("data/folder.dvc", yaml.safe_dump(pointer))
    assert toy.lineage().inputs["data/folder"] == "d41d8cd98f00b204e9800998ecf8427e.dir"


def test_a_digest_knows_no_order_of_keys_but_every_value() -> None:
    value = {"b": [1, 2.5, None], "a": {"x": "é"}}
    assert stage.digest_of(value) == stage.digest_of(dict(reversed(value.items())))
    for other in ({**value, "b": [2.5, 1, None]}, {**value, "a": {"x": "e"}}, {**value, "c": 0}, [value]):
        assert stage.digest_of(other) != stage.digest_of(value)


def test_the_code_of_a_stage_is_every_file_it_reaches_by_imports(tmp_path: Path) -> None:
    sources = {
        "steps/toy.py": "import json\nfrom steps.core import a\nfrom steps.core.b import thing\n",
        "steps/core/a.py": "def f():\n    from steps.adapters import lazy, other\n    import steps.far\n",
        "steps/core/b.py": "import steps.toy  # a circle\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from steps.typed import T\n",
        "steps/adapters/lazy.py": "class C:\n    def m(self):\n        from steps.errors import E as F\n",
        "steps/adapters/other.py": "",
        "steps/far.py": "from stepsister import x\n",
        "steps/typed.py": "",
        "steps/errors.py": "",
        "steps/unreached.py": "import steps.toy\n",
        "stepsister.py": "import steps.unreached\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert stage.code_dependencies(tmp_path, "steps.toy") == set(sources) - {"steps/unreached.py", "stepsister.py"}
    assert stage.code_dependencies(tmp_path, "steps.errors") == {"steps/errors.py"}
