"""`params.yaml` -> typed dataclasses, strictly: no defaults, every fault at once, the nearest right spelling."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from steps.errors import ParamsError

T = TypeVar("T")


def read(root: Path) -> dict[str, Any]:
    """Return the whole of `params.yaml` under `root` as plain dicts; ParamsError where it is no mapping."""
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
    """Build a `kind` (a frozen dataclass or a scalar) from the values under `where`; ParamsError lists all faults."""
    faults = list(faults_of(kind, values, where))
    if faults:
        raise ParamsError(faults)
    return typing.cast(T, _convert(kind, values))


def faults_of(kind: Any, values: Any, where: str) -> Iterator[str]:
    """Yield every reason why `values` is no `kind`: shape and types first, then the class's own `faults()`."""
    before = [*_misfits(kind, values, where)]
    yield from before
    if not before and dataclasses.is_dataclass(kind):
        yield from _rules(_convert(kind, values), where)


def unknown_sections(document: dict[str, Any], known: set[str]) -> Iterator[str]:
    """Yield a fault for each section that nothing reads, with the nearest right spelling."""
    for name in document:
        if name not in known:
            yield f"{name}: no such section{nearest(str(name), sorted(known))}"
    for name in sorted(known - set(document)):
        yield f"{name}: the section is missing"


def _rules(instance: Any, where: str) -> Iterator[str]:
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            yield from _rules(value, f"{where}.{field.name}")
    if hasattr(instance, "faults"):
        yield from (f"{where}.{fault}" for fault in instance.faults())


def _misfits(kind: Any, value: Any, where: str) -> Iterator[str]:
    if dataclasses.is_dataclass(kind):
        yield from _section_misfits(kind, value, where)
    elif typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
        else:
            for i, item in enumerate(value):
                yield from _misfits(typing.get_args(kind)[0], item, f"{where}[{i}]")
    elif not _fits(kind, value):
        yield f"{where}: {value!r} is {_name(type(value))}; {_name(kind)} expected"


def _section_misfits(kind: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no mapping"
        return
    hints = typing.get_type_hints(kind)
    missing = [name for name in hints if name not in value]
    for name in value:
        if name not in hints:
            yield f"{where}.{name}: no such parameter{nearest(str(name), missing or list(hints))}"
    for name in missing:
        yield f"{where}.{name}: missing ({_name(hints[name])} expected)"
    for name, hint in hints.items():
        if name in value:
            yield from _misfits(hint, value[name], f"{where}.{name}")


def _fits(kind: Any, value: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(option, value) for option in typing.get_args(kind))
    if kind is types.NoneType:
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _convert(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _convert(hints[name], value[name]) for name in hints})  # type: ignore[operator]
    if typing.get_origin(kind) is tuple:
        return tuple(_convert(typing.get_args(kind)[0], item) for item in value)
    return float(value) if kind is float else value


def nearest(word: str, known: list[str]) -> str:
    """Return the end of a sentence that names the nearest known word, or all known words where none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(known)})"


def _name(kind: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        types.NoneType: "null",
        list: "a list",
        dict: "a mapping",
    }
    if isinstance(kind, types.UnionType):
        return " or ".join(_name(option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list"
    if dataclasses.is_dataclass(kind):
        return "a mapping"
    return names.get(kind, str(kind))
