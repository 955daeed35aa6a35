"""Typed values from JSON: what fits is bound exactly, and each fault is a sentence with its place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MinLen, Predicate

from steps.errors import GraphError
from steps.runtime import artefacts
from steps.runtime.binding import Because, MisfitError, parse, rule
from steps.runtime.figure import Figure


@dataclass(frozen=True)
class Part:
    name: str
    share: Annotated[float, Interval(ge=0, le=1)] | None


@dataclass(frozen=True)
class Whole:
    kind: Literal["head", "network"]
    parts: tuple[Part, ...]
    counts: dict[str, int]
    score: Figure | None
    size: tuple[int, int]
    note: Part | str


GOOD = (
    '{"kind": "head", "parts": [{"name": "a", "share": 1}, {"name": "b", "share": null}], "counts": {"x": 2},'
    ' "score": null, "size": [1, 2], "note": "none"}'
)


def faults(*changes: tuple[str, str]) -> list[str]:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(MisfitError) as caught:
        parse(Whole, text)
    return caught.value.faults


def test_a_document_becomes_its_dataclass_with_tuples_and_parts() -> None:
    assert parse(Whole, GOOD) == Whole("head", (Part("a", 1.0), Part("b", None)), {"x": 2}, None, (1, 2), "none")
    assert parse(Whole, GOOD.encode()) == parse(Whole, GOOD)


def test_each_fault_is_told_with_its_place_the_near_ones_first() -> None:
    assert faults(
        ('"head"', '"tail"'),
        ('"share": 1', '"shares": 1'),
        ('"x": 2', '"x": "two"'),
        ("[1, 2]", "[1, null]"),
        ('"score": null', '"score": 3'),
    ) == [
        "kind is 'tail'; one of head, network",
        "score: 3 is no mapping",
        "counts.x: 'two' is text; a whole number expected",
        "size[1]: None is null; a whole number expected",
        "parts[0].shares: no such parameter; did you mean 'share'?",
        "parts[0].share: missing (a number or null expected)",
    ]


def test_inside_a_union_the_words_are_pydantics() -> None:
    unknown = faults(('"none"', '{"name": "a", "share": 0, "size": 1}'))
    assert unknown == ["note.str: Input should be a valid string", "note.Part.size: Unexpected keyword argument"]
    assert faults(('"none"', "3")) == ["note.Part: 3 is no mapping", "note.str: Input should be a valid string"]


def test_a_list_of_another_length_is_told_with_the_number_that_is_expected() -> None:
    assert faults(("[1, 2]", "[1]")) == ["size[1]: missing (a whole number expected)"]
    assert faults(("[1, 2]", "[1, 2, 3]")) == ["size is [1, 2, 3]; two whole numbers"]


def test_what_is_no_json_is_one_fault() -> None:
    assert len(faults(("}", ""))) == 1


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[int, Ge(1)], "at least 1"),
        (Annotated[float, Gt(0)], "above 0"),
        (Annotated[int, Interval(ge=1, le=256)], "1 to 256"),
        (Annotated[int, Le(256), Ge(1)], "1 to 256"),
        (Annotated[float, Ge(0), Lt(1)], "from 0 to below 1"),
        (Annotated[float, Interval(gt=0, le=1)], "above 0, at most 1"),
        (Annotated[float, Interval(gt=0, lt=0.1)], "above 0 and below 0.1"),
        (Annotated[float, Gt(0)] | None, "above 0, or null"),
        (Annotated[int, Ge(1), Because("one each")], "at least 1 (one each)"),
        (Annotated[str, Predicate(str.islower), Because("small letters")], "small letters"),
        (Literal["a", "b"], "one of a, b"),
        (Literal["a", "b"] | None, "one of a, b, or null"),
        (Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)], "numbers above 0, at least one"),
        (Annotated[tuple[float, ...], Len(3, 3)], "three numbers"),
        (Annotated[tuple[Annotated[int, Ge(1)], ...], Len(2, 2)], "two whole numbers at least 1"),
    ],
)
def test_each_kind_of_constraint_has_one_wording(hint: Any, words: str) -> None:
    assert rule(hint) == words


def test_an_artefact_of_another_kind_is_refused_with_the_remedy_and_all_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    path.write_text(GOOD, encoding="utf-8")
    assert artefacts.read(Whole, path).kind == "head"
    path.write_text('{"kind": "head", "size": 3}', encoding="utf-8")
    with pytest.raises(GraphError) as caught:
        artefacts.read(Whole, path)
    assert str(caught.value).splitlines() == [
        "whole.json is no Whole of this release; `regraft run` makes it anew:",
        "  parts: missing (a list expected)",
        "  counts: missing (a mapping expected)",
        "  score: missing (a mapping or null expected)",
        "  note: missing (a mapping or text expected)",
        "  size: 3 is no list",
    ]
