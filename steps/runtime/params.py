"""`params.yaml` -> typed dataclasses, strictly: no defaults, every fault at once, the nearest right spelling."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from steps.errors import ParamsError
from steps.runtime import binding

T = TypeVar("T")


def read(root: Path) -> dict[str, Any]:
    """Return the whole of `params.yaml` under `root` as plain dicts; ParamsError if it is not a mapping."""
    path = root / "params.yaml"
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:  # the library and the dialect with which DVC reads it; a key given twice is refused
        loaded = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError([f"{path.name} does not exist in {root}; run regraft in a project's folder"]) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError([f"not readable as YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(loaded, dict):
        raise ParamsError([f"the file holds {type(loaded).__name__}, not a mapping of sections"])
    return loaded


def bind(kind: type[T], values: Any, where: str) -> T:
    """Build a `kind` (a frozen dataclass or a scalar) from the values under `where`; ParamsError lists all faults.

    Types, bounds and choices come from its annotations; a method `faults` yields the faults between fields.
    """
    try:
        instance = binding.parse(kind, json.dumps(_plain(values)), where, values)
    except binding.MisfitError as error:
        raise ParamsError(error.faults) from None
    if faults := list(_rules(instance, where)):
        raise ParamsError(faults)
    return instance


def faults_of(kind: Any, values: Any, where: str) -> Iterator[str]:
    """Yield every reason why `values` is not a `kind`; rules between fields are checked only if each field fits."""
    try:
        bind(kind, values, where)
    except ParamsError as error:
        yield from error.faults


def _plain(value: Any) -> Any:
    """Return a YAML value for JSON: keys become text; dates and infinities become a list that no type accepts."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    finite = math.isfinite(value) if isinstance(value, float) else value is None or isinstance(value, str | int)
    return value if finite else [None]


def unknown_sections(document: dict[str, Any], known: set[str]) -> Iterator[str]:
    """Yield a fault for each section that nothing reads, with the nearest right spelling."""
    for name in document:
        if name not in known:
            yield f"{name}: no such section{binding.nearest(str(name), sorted(known))}"
    for name in sorted(known - set(document)):
        yield f"{name}: the section is missing"


def _rules(instance: Any, where: str) -> Iterator[str]:
    for field in dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ():
        yield from _rules(getattr(instance, field.name), f"{where}.{field.name}")
    if hasattr(instance, "faults"):
        yield from (f"{where}.{fault}" for fault in instance.faults())
