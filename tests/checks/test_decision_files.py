"""data/decisions.csv as people and their spreadsheets write it."""

from pathlib import Path

import pandas as pd
import pytest

from steps.checks import decision_files
from steps.checks.curation import Decision
from steps.errors import DataError

IMAGES = pd.DataFrame(
    {"id": ["a" * 64, "b" * 64], "path": ["1.png", "a, b.png"], "label": ["ant", "bee"], "split": ["train", "train"]}
)
HEAD = "image,decision,label,note\n"


def read(tmp_path: Path, text: str | bytes) -> list[Decision]:
    path = tmp_path / "decisions.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return decision_files.read(path, IMAGES)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + '1.png,drop,,"looked, twice"\n',
        HEAD.replace("\n", "\r\n") + '1.png,drop,,"looked, twice"\r\n',
        b"\xef\xbb\xbf" + HEAD.encode() + b'1.png, drop,,"looked, twice"',
        HEAD + '\n\n,,,\n1.png,drop,,"looked, twice"\n',
    ],
)
def test_what_spreadsheets_make_of_it_is_read(tmp_path: Path, text: str | bytes) -> None:
    assert read(tmp_path, text) == [Decision("1.png", "drop", "", "looked, twice")]


def test_empty_fields_at_the_end_may_be_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, HEAD + '1.png,drop\n"a, b.png",relabel,ant\n') == [
        Decision("1.png", "drop", "", ""),
        Decision("a, b.png", "relabel", "ant", ""),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has the columns of an empty file; its first line has to be image,decision,label,note"),
        ("image;decision;label;note\n", "has the columns image;decision;label;note; its first line has to be"),
        (HEAD + "1.png,keep,,looked, twice\n", "line 2: 5 fields for image, decision, label, note; a comma within"),
        (HEAD + "\n1.png,keep,,\na, b.png,drop,,\n", "line 4: 5 fields for"),
        (HEAD + "\n\n1.png,erase,,\n", "line 4: 'erase' is no decision"),
        (HEAD.encode() + b"\xff\xfe,drop,,\n", "cannot be read: 'utf-8' codec"),
        (HEAD + "1.png,drop,," + "x" * 200_000, "cannot be read from line 2 on (a quote too many?): field larger than"),
        (
            HEAD + '1.png,drop,,\n"a, b.png,drop,,\n1.png,drop,,\n',
            "line 3 on (a quote too many?): unexpected end of data",
        ),
        (
            HEAD + '1.png,drop,,"no\n"a, b.png",drop,,\n',
            "cannot be read from line 2 on (a quote too many?): ',' expected",
        ),
        (HEAD + '1.png,drop,,"two\nlines"\nc.png,erase,,\n', "line 4: 'erase' is no decision"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, text)
    assert told in str(refused.value)
