"""What a person decided: contradictions are found whichever way an image is named."""

import pandas as pd
import pytest

from steps.checks.curation import Decision, Known, absent, faults

IDS = ["a" * 64, "a" * 64, "b" * 64]
IMAGES = pd.DataFrame(
    {"id": IDS, "path": ["1.png", "2.png", "3.png"], "label": ["ant", "bee", "bee"], "split": ["train", "train", "val"]}
)
A, B = IDS[0], IDS[2]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["1.png,drop", "2.png,keep"], []),
        (["1.png,drop", f"{B},keep"], []),
        (["1.png,drop", "1.png,drop"], ["line 3: '1.png' was decided in line 2 already"]),
        (["1.png,drop", f"{A},keep"], [f"line 2: '1.png' is decided in line 3, too, by its id {A[:12]}"]),
        ([f"{A},keep", "2.png,drop"], [f"line 3: '2.png' is decided in line 2, too, by its id {A[:12]}"]),
        (["", "1.png,erase"], ["line 3: 'erase' is no decision; one of keep, relabel, drop"]),
    ],
)
def test_an_image_is_decided_once(lines: list[str], told: list[str]) -> None:
    decisions = [Decision(*[*line.split(","), "", "", ""][:4]) for line in lines]
    assert list(faults(dict(enumerate(decisions, 2)), IMAGES)) == told


PLACES = ("train/cats/cat_01.png", "train/cats/cat_02.png", "val/dogs/x9.png", "val/dogs/sunny.png")
THERE = pd.DataFrame(
    {"id": [f"{i:064x}" for i in (0xABCDEF << 232, 2, 3, 4)], "path": PLACES, "label": "cats", "split": "train"}
)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("train/cats/cat_03.png", ""),
        ("train/cats/cat_003.png", ""),
        ("train/wasps/1.png", ""),
        ("gone.png", ""),
        ("c" * 64, ""),
        ("train/cats/lion.jpeg", ""),
        ("val/dogs/sunny_1.png", ""),
        ("val/dogs/sunny (2).png", ""),
        ("train/cats/cta_02.png", PLACES[1]),
        ("train/cat/cat_02.png", PLACES[1]),
        ("cats/cat_01.png", PLACES[0]),
        ("data/raw/train/cats/cat_02.png", PLACES[1]),
        (r"train\cats\cat_01.png", PLACES[0]),
        ("Train/Cats/CAT_01.PNG", PLACES[0]),
        ("val/dogs/sunny.jpg", PLACES[3]),
        ("val/dogs/suny.png", PLACES[3]),
        (f"{0xABCDEF << 232:064x}"[:12], f"{0xABCDEF << 232:064x}"),
    ],
)
def test_a_name_is_misspelt_where_one_like_it_is_there_and_else_its_image_has_gone(name: str, meant: str) -> None:
    decision = Decision(name, "drop", "", "")
    assert Known(THERE).nearest(name) == meant
    told = f"line 2: there is no image {name!r}; did you mean {meant!r}? If the file has gone, delete the line"
    assert list(faults({2: decision}, THERE)) == ([told] if meant else [])
    assert absent([decision], THERE, []) == [name]


def test_a_decision_about_an_image_that_has_gone_is_passed_over_whatever_its_label() -> None:
    gone = Decision("gone.png", "relabel", "lions", "")
    assert list(faults({2: gone}, THERE)) == [] and absent([gone], THERE, []) == ["gone.png"]
    dropped = Decision("val/dogs/note.txt", "drop", "", "no picture")
    assert absent([dropped], THERE, [dropped.image]) == [], "a file in quarantine can be dropped, too"
    assert list(faults({2: dropped}, THERE, [dropped.image])) == []
