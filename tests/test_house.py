"""The house: rooms by subject, no name twice, arrows down only. Part of `make check`."""

import re
from collections import Counter
from pathlib import Path

import pytest

from steps.runtime.stage import code_dependencies
from tests.test_graph import STAGES as LISTED

ROOT = Path(__file__).parents[1]
STAGES = set(LISTED)
ROOMS = [path for path in sorted((ROOT / "steps").iterdir()) if (path / "__init__.py").exists()]
PRODUCT = [path for folder in ("steps", "flows") for path in sorted((ROOT / folder).rglob("*.py"))]

UNTYPED = 39  # documents of unknown form (YAML, JSON of other releases); it may only fall


def modules(folder: Path) -> list[str]:
    return [path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def test_steps_shows_the_stages_and_the_rooms_and_nothing_else() -> None:
    assert set(modules(ROOT / "steps")) == STAGES | {"errors"}
    assert {room.name for room in ROOMS} == {
        path.name for path in (ROOT / "steps").iterdir() if path.is_dir() and path.name != "__pycache__"
    }


def test_no_two_modules_and_no_two_rooms_share_a_name() -> None:
    names = Counter([path.stem for path in PRODUCT if path.stem != "__init__"] + [room.name for room in ROOMS])
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_has_a_handful_of_modules_and_no_room_within(room: Path) -> None:
    if room.name == "embedded":  # the example: its pictures, and the weights and card beside
        assert modules(room) == ["digits"]
        return
    assert 7 <= len(modules(room)) <= 16
    assert not list(room.glob("*/__init__.py"))


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_read_in_one_go(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


@pytest.mark.parametrize("name", sorted(STAGES))
def test_no_stage_reaches_another_stage(name: str) -> None:
    reached = {Path(path).stem for path in code_dependencies(ROOT, f"steps.{name}") if path.count("/") == 1}
    assert reached & STAGES == {name}


def test_the_graph_fits_on_three_screens() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 260


def test_untyped_dictionaries_between_the_stages_become_fewer() -> None:
    untyped = sum(len(re.findall(r"dict\[str, Any\]", path.read_text(encoding="utf-8"))) for path in PRODUCT)
    assert untyped <= UNTYPED
