"""Paths of the graph's artefacts, read from dvc.yaml, which alone defines them."""

import shlex
from pathlib import Path
from typing import Any

import yaml


def declared(root: Path, stage: str) -> dict[str, Any]:
    """Return a stage's entry in dvc.yaml."""
    return dict(yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage])


def paths(root: Path, stage: str) -> dict[str, Path]:
    """Return a stage's path argument -> path, absolute, without importing the stage's module."""
    _, _, _, *arguments = shlex.split(declared(root, stage)["cmd"])
    flags = (flag.removeprefix("--").replace("-", "_") for flag in arguments[::2])
    return {flag: root / path for flag, path in zip(flags, arguments[1::2], strict=True)}
