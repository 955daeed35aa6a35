"""The graph's artefacts: their paths, which dvc.yaml alone defines, and JSON files read into their dataclasses."""

import shlex
from pathlib import Path
from typing import Any, TypeVar

import yaml

from steps.errors import GraphError

T = TypeVar("T")
OPTIONAL = {"optional": True}  # metadata of a field that JSON lacks where it is None; `files.plain` obeys


def read(kind: type[T], path: Path) -> T:
    """Read a JSON file that a stage wrote of a `kind` (a frozen dataclass), strictly.

    Raises GraphError with every fault where the file is another kind's, or another release's.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True, extra="forbid")
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        which = f"{path.name} is no {kind.__name__} of this release; `regraft run` makes it anew"
        raise GraphError("\n  ".join([f"{which}:", *faults])) from None


def declared(root: Path, stage: str) -> dict[str, Any]:
    """Return a stage's entry in dvc.yaml."""
    return dict(yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage])


def paths(root: Path, stage: str) -> dict[str, Path]:
    """Return a stage's path argument -> path, absolute, without importing the stage's module."""
    _, _, _, *arguments = shlex.split(declared(root, stage)["cmd"])
    flags = (flag.removeprefix("--").replace("-", "_") for flag in arguments[::2])
    return {flag: root / path for flag, path in zip(flags, arguments[1::2], strict=True)}
