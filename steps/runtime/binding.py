"""Typed values from JSON, strictly: pydantic finds the faults, the sentences (value, rule, remedy) are written here."""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import GroupedMetadata, Interval

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
Share = Annotated[float, Interval(ge=0, le=1)]
Place = Sequence[int | str]
UNIONS = (typing.Union, types.UnionType)

NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}
RANGES = {
    (): "",
    ("ge", "le"): "{ge} to {le}",
    ("ge", "lt"): "from {ge} to below {lt}",
    ("gt", "le"): "above {gt}, at most {le}",
    ("gt", "lt"): "above {gt} and below {lt}",
    ("ge",): "at least {ge}",
    ("gt",): "above {gt}",
}
MARKS = ("ge", "gt", "le", "lt", "min_length", "max_length", "words")
COUNTS = {1: "one", 2: "two", 3: "three"}
UNKNOWN, MISSING = "unexpected_keyword_argument", "missing"
ORDER = {UNKNOWN: 0, MISSING: 1}  # within a section: misspelt keys before those that they leave missing


@dataclasses.dataclass(frozen=True)
class Because:
    """A mark in `Annotated`: the reason for the bounds beside it, or what a predicate requires, in words."""

    words: str


class MisfitError(ValueError):
    """A document is not of the requested type; carries all the faults."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


def parse(kind: type[T], document: str | bytes, where: str = "", values: Any = None, lenient: bool = False) -> T:
    """Return the JSON document as a `kind`: a scalar, or a frozen dataclass whose annotations hold types and bounds.

    Lists become tuples, and whole numbers are accepted as floats; nothing else is converted, and no key may be
    unknown, unless `lenient`. Raises MisfitError with a sentence for each fault, located under `where`; `values` is
    what the document was made from, if that was not JSON.
    """
    from pydantic import TypeAdapter, ValidationError  # 50 ms, which `regraft status` need not spend

    try:
        return TypeAdapter(kind).validate_json(document, strict=True, extra="ignore" if lenient else "forbid")
    except ValidationError as error:
        faults = sorted(error.errors(), key=lambda fault: (len(fault["loc"]), ORDER.get(fault["type"], 2)))
    if faults[0]["type"] == "json_invalid":
        raise MisfitError([f"{where}: {faults[0]['msg']}".removeprefix(": ")])
    read = json.loads(document) if values is None else values
    raise MisfitError([*dict.fromkeys(_sentence(kind, fault, where, read) for fault in faults)])


def _sentence(kind: Any, fault: "ErrorDetails", where: str, values: Any) -> str:
    """Translate one of pydantic's errors; one about a type that is not described here keeps pydantic's message."""
    loc, error = fault["loc"], fault["type"]
    of_type = error.endswith("_type")
    while not of_type and error != MISSING and loc and isinstance(loc[-1], int):
        loc = loc[:-1]  # the rule of a list names the whole list
    path, hint, value = _path(where, loc), _hint(kind, loc), _value(values, loc)
    if error == UNKNOWN and (section := _hint(kind, loc[:-1])):
        hints, given = _hints(section), _value(values, loc[:-1])
        absent = [name for name in hints if name not in given]
        rest = f": no such parameter{nearest(str(loc[-1]), absent, list(hints))}"
    elif error == MISSING and hint:
        rest = f": missing ({_name(hint)} expected)"
    elif error in ("dataclass_type", "dict_type"):
        rest = f": {value!r} is no mapping"
    elif error in ("tuple_type", "list_type"):
        rest = f": {value!r} is no list"
    elif of_type and hint:
        infinite = isinstance(value, float) and not math.isfinite(value)
        rest = f": {value!r} is {'not finite' if infinite else _name(type(value))}; {_name(hint)} expected"
    elif hint and (asked := rule(hint)):
        rest = f" is {value!r}; {asked}"
    else:
        rest = f": {fault['msg']}"
    return path + rest


def _path(where: str, loc: Place) -> str:
    return "".join([where, *(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)]).removeprefix(".")


def _value(values: Any, loc: Place) -> Any:
    for part in loc:
        if isinstance(values, dict):  # YAML's keys need not be text
            values = next((value for key, value in values.items() if str(key) == part), None)
        elif isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part] if part < len(values) else None
    return values


def _hint(kind: Any, loc: Place) -> Any:
    """Return the annotation of the value at `loc`; None inside a union, where pydantic's locations are not keys."""
    for part in loc:
        base, _, _ = parts(kind)
        arguments = typing.get_args(base)
        if dataclasses.is_dataclass(base):
            kind = _hints(base).get(str(part))
        elif typing.get_origin(base) is tuple and isinstance(part, int):
            kind = arguments[0 if arguments[-1] is Ellipsis else part]
        else:
            kind = arguments[-1] if typing.get_origin(base) in (list, dict) else None
    return kind


def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(parts(kind)[0], include_extras=True)


def parts(hint: Any) -> tuple[Any, list[Any], bool]:
    """Return an annotation's type, its marks (bounds, reasons) and whether null is allowed beside it."""
    options = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    others = [option for option in options if option is not types.NoneType or len(options) == 1]
    base, marks = others[0] if len(others) == 1 else hint, []
    if typing.get_origin(base) is typing.Annotated:
        base, *grouped = typing.get_args(base)
        marks = [mark for group in grouped for mark in (group if isinstance(group, GroupedMetadata) else (group,))]
    return base, marks, len(others) < len(options)


def rule(hint: Any) -> str:
    """Return what an annotation requires, in words: `1 to 256`, `one of a, b`, `numbers above 0, at least one`."""
    base, marks, nullable = parts(hint)
    of_marks = {name: getattr(mark, name) for mark in marks for name in MARKS if hasattr(mark, name)}
    reason = of_marks.get("words", "")
    if typing.get_origin(base) is Literal:
        words = _name(base)
    elif typing.get_origin(base) is tuple:
        items = typing.get_args(base)
        fixed = 0 if items[-1] is Ellipsis else len(items)
        words = _list_rule(items[0], of_marks.get("min_length", fixed), of_marks.get("max_length", fixed or None))
    else:
        bounds = {name: of_marks[name] for name in MARKS[:4] if name in of_marks}
        words = RANGES[tuple(bounds)].format(**bounds)
    words = f"{words} ({reason})" if words and reason else words or reason
    return f"{words}, or null" if nullable else words


def _list_rule(item: Any, least: int, most: int | None) -> str:
    items = f"{_name(parts(item)[0]).removeprefix('a ')}s {rule(item)}".rstrip()
    if least == most:
        return f"{COUNTS.get(least, least)} {items}"
    return f"{items}, at least {COUNTS.get(least, least)}" if least else items


def _name(hint: Any) -> str:
    if typing.get_origin(hint) in UNIONS:
        return " or ".join(map(_name, typing.get_args(hint)))
    base, _, _ = parts(hint)
    if typing.get_origin(base) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(base)))}"
    known = dict if dataclasses.is_dataclass(base) else typing.get_origin(base) or base
    return NAMES.get(known, getattr(known, "__name__", str(known)))


def nearest(word: str, *known: Sequence[str]) -> str:
    """Return the known word that was probably meant, or all of them, as the end of a sentence.

    The first of several lists that holds a close one decides.
    """
    close = [match for words in known for match in difflib.get_close_matches(word, words, n=1, cutoff=0.5)]
    return f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(known[0] or known[-1])})"
