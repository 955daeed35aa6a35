"""MLflow's scoring protocol: the same pictures in each of its forms, and a sentence for everything else."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.errors import RequestError
from steps.serving.invocations import parsed, pictures


def forms(texts: list[str]) -> list[dict[str, Any]]:
    return [
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}},
        {"dataframe_split": {"index": [*range(len(texts))], "columns": ["image"], "data": texts}},
        {"dataframe_records": [{"image": text} for text in texts]},
        {"inputs": {"image": texts}},
        {"inputs": texts},
        {"instances": texts},
        {"instances": [{"image": text} for text in texts]},
        {"instances": [{"b64": text} for text in texts]},
        {"instances": [{"image": {"b64": text}} for text in texts]},
    ]


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_every_form_gives_the_bytes_that_were_encoded(data: list[bytes]) -> None:
    """Zero bytes at the end included, which numpy's fixed-width strings would cut off."""
    for encode in (base64.b64encode, base64.encodebytes):  # the second breaks lines, as MLflow's own client does
        for document in forms([encode(one).decode() for one in data]):
            assert pictures(document) == data, document


def test_what_a_browser_encodes_is_read() -> None:
    data = bytes(range(256))
    safe = base64.urlsafe_b64encode(data).decode()
    for text in (safe, safe.rstrip("="), f"data:image/png;base64,{base64.b64encode(data).decode()}"):
        assert pictures({"instances": [text]}) == [data]


@pytest.mark.parametrize("body", [b"[" + b"[]," * 10**6 + b"1]", b"[" * 10**6, b'{"inputs":[' + b"0," * 10**6 + b"0]}"])
def test_json_of_too_many_parts_is_refused_before_it_is_parsed(body: bytes) -> None:
    with pytest.raises(RequestError, match="lists, objects and values; 64 rows"):
        parsed(body, 64)


def test_every_form_of_the_most_rows_is_parsed() -> None:
    texts = ["data:image/png;base64,AA=="] * 64
    assert all(len(pictures(parsed(json.dumps(form).encode(), 64))) == 64 for form in forms(texts))


def test_one_picture_needs_no_list() -> None:
    assert pictures({"inputs": {"image": "AAE="}}) == pictures({"inputs": "AAE="}) == [b"\0\1"]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "exactly one of dataframe_split, dataframe_records, inputs, instances; this one has none of them"),
        ({"data": []}, "has none of them"),
        ({"inputs": [], "instances": []}, "this one has inputs, instances"),
        ({"inputs": []}, "inputs holds no row"),
        ({"dataframe_split": []}, 'takes {"columns": '),
        ({"dataframe_split": {"columns": ["a"], "data": []}}, r"columns \['a'\]; expected \['image'\]"),
        ({"dataframe_records": [{"picture": "AA=="}]}, r"columns are \['picture'\]"),
        ({"dataframe_records": [{"image": "AA==", "more": 1}]}, r"columns are \['image', 'more'\]"),
        ({"inputs": ["AA==", 7]}, "row 1: 7 where base64 text"),
        ({"inputs": [None]}, "row 0: None where base64 text"),
        ({"instances": ["AA==", "A"]}, "row 1: 'A' is no base64 text"),
        ({"instances": ["/etc/hostname.txt"]}, "row 0: '/etc/hostname.txt' is no base64 text"),
        ({"instances": ["\u00e4" * 100]}, r"\.\.\. is no base64 text"),
    ],
)
def test_what_is_no_picture_is_told_with_its_row(document: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        pictures(document)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "b64", "columns", "data", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"]), JSONS)
def test_any_json_gives_bytes_or_a_sentence(form: str, value: Any) -> None:
    document = json.loads(json.dumps({form: value}))
    try:
        assert all(isinstance(one, bytes) for one in pictures(document))
    except RequestError as error:
        assert str(error)
