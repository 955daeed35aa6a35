"""The graph's artefacts: their paths, which dvc.yaml alone defines, and JSON files read into their dataclasses."""

import shlex
from pathlib import Path
from typing import Any, TypeVar

from steps.errors import GraphError
from steps.runtime import binding

T = TypeVar("T")
OPTIONAL = {"optional": True}  # metadata of a field that `files.plain` leaves out of JSON if it is None


def read(kind: type[T], path: Path, remedy: str = "`regraft run` makes it anew", lenient: bool = False) -> T:
    """Read a JSON file that was written from a `kind` (a frozen dataclass), strictly.

    `lenient` reads the file of another release, too: keys that the class lacks are ignored. Raises GraphError with
    every fault if the file is of another kind or another release.
    """
    try:
        return binding.parse(kind, path.read_bytes(), lenient=lenient)
    except binding.MisfitError as error:
        which = f"{path.name} is no {kind.__name__} of this release; {remedy}"
        raise GraphError("\n  ".join([f"{which}:", *error.faults])) from None


def declared(root: Path, stage: str) -> dict[str, Any]:
    """Return a stage's entry in dvc.yaml."""
    import yaml  # here: this module travels with registered versions, which declare no YAML

    return dict(yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage])


def paths(root: Path, stage: str) -> dict[str, Path]:
    """Return a stage's path argument -> absolute path, without importing the stage's module."""
    _, _, _, *arguments = shlex.split(declared(root, stage)["cmd"])
    flags = (flag.removeprefix("--").replace("-", "_") for flag in arguments[::2])
    return {flag: root / path for flag, path in zip(flags, arguments[1::2], strict=True)}
