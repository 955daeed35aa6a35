"""What a person decided: contradictions are found whichever way an image is named."""

import pandas as pd
import pytest

from steps.core.curation import Decision, faults

IDS = ["a" * 64, "a" * 64, "b" * 64]
IMAGES = pd.DataFrame({"id": IDS, "path": ["1.png", "2.png", "3.png"], "label": ["ant", "bee", "bee"],
                       "split": ["train", "train", "val"]})  # fmt: skip
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
