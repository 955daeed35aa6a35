"""A stage's signature is its command line: the only place that turns a `cmd` of dvc.yaml into a call.

Both drivers come through `call`: `dvc repro` by way of `main` in a subprocess, `regraft run` in its own process.
"""

import argparse
import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from steps.errors import GraphError, ParamsError, RegraftError, without_passwords
from steps.runtime import artefacts
from steps.runtime import params as params_file
from steps.runtime.files import COMPILED, sha256_of

Function = Callable[..., None]
PREFIX = "python -m steps."


@dataclass(frozen=True)
class Lineage:
    """The identity of a stage's result: a digest of its code, params and inputs, but not of when or where it ran."""

    stage: str
    digest: str
    code: str
    params: dict[str, Any]
    inputs: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))


def main(function: Function) -> NoReturn:
    """Run a stage as `python -m steps.NAME --flag path ...` from the project's root; a fault exits with 1."""
    arguments = sys.argv[1:]
    if os.access(COMPILED.parent, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(COMPILED.resolve()))
    try:
        call(function, _parse(function, arguments), Path.cwd())
    except RegraftError as error:
        sys.exit(f"{function.__name__}: {error}")  # DVC turns any failure into 255; the message is what counts
    except Exception:  # a bug; its traceback may quote an address that was passed to a library
        sys.exit(without_passwords(traceback.format_exc()))
    sys.exit(0)


def run(cmd: str, root: Path) -> None:
    """Run the `cmd` of a stage in this process, with paths relative to `root`."""
    function, arguments = parse(cmd)
    call(function, arguments, root)


def parse(cmd: str) -> tuple[Function, dict[str, str]]:
    """Parse a `cmd`: the stage's function, and path argument -> path. Raises GraphError if it is not a stage's."""
    if not cmd.startswith(PREFIX):
        raise GraphError(f"{cmd!r} does not start with {PREFIX!r}")
    name, *arguments = shlex.split(cmd.removeprefix(PREFIX))
    if importlib.util.find_spec(f"steps.{name}") is None:
        raise GraphError(f"{cmd!r}: there is no steps/{name}.py")
    function = getattr(importlib.import_module(f"steps.{name}"), name, None)
    if function is None:
        raise GraphError(f"steps/{name}.py has no function {name}")
    return function, _parse(function, arguments)


def call(function: Function, paths: dict[str, str], root: Path) -> None:
    """Bind paths, values from `params.yaml` and the lineage to the function's arguments by name, and call it."""
    root = root.resolve()
    hints = inspect.get_annotations(function, eval_str=True)
    bound: dict[str, Any] = {name: root / path for name, path in paths.items()}
    bound |= values(function, params_file.read(root))
    if "lineage" in hints:
        bound["lineage"] = lineage(root, function)
    for path in (bound[name] for name in paths):
        path.parent.mkdir(parents=True, exist_ok=True)
    function(**bound)


def check_params(root: Path, cmds: Iterable[str], others: Mapping[str, Any]) -> None:
    """Check all of `params.yaml` before anything runs: the sections of the stages of `cmds`, and of `others`.

    Raises ParamsError with every fault of every section.
    """
    document = params_file.read(root)
    kinds = dict(others)
    for cmd in cmds:
        kinds |= {section: kind for section, kind in sections(parse(cmd)[0]).values() if not _is_part(kind)}
    faults = [*params_file.unknown_sections(document, set(kinds))]
    for section, kind in kinds.items():
        if section in document:
            faults += params_file.faults_of(kind, document[section], section)
    if faults:
        raise ParamsError(faults)


def values(function: Function, document: dict[str, Any]) -> dict[str, Any]:
    """Return the function's arguments that come from `params.yaml`: its own section as `params`, others by name."""
    bound: dict[str, Any] = {}
    faults: list[str] = []
    for argument, (section, kind) in sections(function).items():
        try:
            bound[argument] = params_file.bind(kind, _values(kind, document.get(section)), section)
        except ParamsError as error:
            faults += error.faults
    if faults:
        raise ParamsError(faults)
    return bound


def sections(function: Function) -> dict[str, tuple[str, Any]]:
    """Return argument -> (section of params.yaml, type) for every argument that is neither a path nor the lineage.

    A type with the attribute `PART_OF` takes its fields from that section, which is another stage's.
    """
    hints = inspect.get_annotations(function, eval_str=True)
    return {
        name: (function.__name__ if name == "params" else getattr(kind, "PART_OF", name), kind)
        for name, kind in hints.items()
        if kind not in (Path, Lineage, None) and name != "return"
    }


def declared_params(function: Function) -> list[str]:
    """Return the params that dvc.yaml has to declare: sections, and the fields of parts of other sections, sorted."""
    names: list[str] = []
    for section, kind in sections(function).values():
        names += [f"{section}.{field}" for field in _fields(kind)] if _is_part(kind) else [section]
    return sorted(names)


def _is_part(kind: Any) -> bool:
    return hasattr(kind, "PART_OF")


def _fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _values(kind: Any, section: Any) -> Any:
    if _is_part(kind) and isinstance(section, dict):
        return {name: section[name] for name in _fields(kind) if name in section}
    return section


def path_arguments(function: Function) -> list[str]:
    """Return the names of the arguments that are paths: each is a required flag."""
    return [n for n, kind in inspect.get_annotations(function, eval_str=True).items() if kind is Path]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GraphError(f"{self.prog}: {message}")  # argparse would end the process, and with it the whole flow


def _parse(function: Function, arguments: list[str]) -> dict[str, str]:
    parser = _Parser(prog=f"python -m steps.{function.__name__}", allow_abbrev=False)
    for name in path_arguments(function):
        parser.add_argument(f"--{name.replace('_', '-')}", required=True, dest=name)
    return vars(parser.parse_args(arguments))


def lineage(root: Path, function: Function) -> Lineage:
    """Compute the identity of the result of `function` from the dependencies that dvc.yaml declares."""
    declared = artefacts.declared(root, function.__name__)
    document = params_file.read(root)
    is_code = {path: path.endswith((".py", ".lock")) or path.startswith("steps/") for path in declared["deps"]}
    facts: dict[str, Any] = {
        "stage": function.__name__,
        "code": digest_of({path: _content(root / path) for path, code in is_code.items() if code}),
        "params": {name: document[name] for name in sorted(declared["params"])},
        "inputs": {path: _content(root / path) for path, code in sorted(is_code.items()) if not code},
    }
    return Lineage(digest=digest_of({"cmd": declared["cmd"], **facts}), **facts)


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _content(path: Path) -> str:
    pointer = path.with_name(path.name + ".dvc")
    if pointer.exists():  # `dvc add` hashed it already, and both drivers add it again if it has changed
        return str(yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"])
    if path.is_dir():
        members = (p for p in sorted(path.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)  # as .dvcignore
        return digest_of({p.relative_to(path).as_posix(): sha256_of(p) for p in members})
    return sha256_of(path)


def code_files(root: Path) -> set[str]:
    """Return all Python files of `steps`, as POSIX paths under `root`."""
    return {path.relative_to(root).as_posix() for path in (root / "steps").rglob("*.py")}


def code_dependencies(root: Path, module: str) -> set[str]:
    """Return the files of `steps` that a module reaches by imports, its own included, as POSIX paths under `root`.

    Imports inside functions count.
    """
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = root / Path(*name.split(".")).with_suffix(".py")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        waiting += _imports(ast.parse(path.read_text(encoding="utf-8")))
    return {f"{name.replace('.', '/')}.py" for name in seen}


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "steps"]
