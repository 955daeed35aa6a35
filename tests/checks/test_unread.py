"""What is refused before a rule can be asked says what to do, and is read then."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from steps.runtime import files
from tests.checks.world import SIZES, World


class Unread(NamedTuple):
    """What is refused before a rule can be asked: the exit code, the sentence, and what makes it good."""

    code: int
    told: str
    piece: str
    plant: Callable[[World], object]
    act: Callable[[World], object]
    of_the_gate: bool = False  # that is, not of ingest


def move(old: str, new: str) -> Callable[[World], object]:
    return lambda world: shutil.move(world.raw / old, world.raw / new)


def listing(old: str, new: str) -> Callable[[World], object]:
    """Write a listing in which `old` reads `new`."""

    def plant(world: World) -> None:
        world.list_images()
        path = world.raw / "listing.csv"
        path.write_text(path.read_text().replace(old, new, 1))

    return plant


def loose(world: World) -> None:
    for path in sorted(world.raw.rglob("*.png")):
        path.rename(world.root / "raw" / path.relative_to(world.raw).as_posix().replace("/", "-"))
    for split in SIZES:
        shutil.rmtree(world.raw / split)


def sorted_by_class(world: World) -> None:
    for path in sorted(world.raw.glob("*.png")):
        folder = world.raw.joinpath(*path.name.split("-")[:2])
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name.split("-")[2])


FIRST = "test/ant/0.png,ant,test"
UNREAD = (
    Unread(
        3,
        "there is no folder of images",
        "`regraft use FOLDER` sets one",
        lambda world: world.raw.rename(world.root / "elsewhere"),
        lambda world: (world.root / "elsewhere").rename(world.raw),
    ),
    Unread(3, "no class folders, 48 loose files", "one folder of images per class", loose, sorted_by_class),
    Unread(
        3,
        "extra/ beside it is not a split",
        "rename it to one of train, val",
        move("val", "extra"),
        move("extra", "val"),
    ),
    Unread(
        3,
        "some labelled images have a split and some have none",
        "give all of them or none",
        listing(FIRST, "test/ant/0.png,ant,"),
        listing("", ""),
    ),
    Unread(3, "lacks the column(s) label", "label", listing("label", "class"), listing("", "")),
    Unread(
        3, "unknown split 'dev'", "one of train, val, test", listing(FIRST, "test/ant/0.png,ant,dev"), listing("", "")
    ),
    Unread(
        3,
        "faults in decisions.csv",
        "did you mean 'train/ant/0.png'?",
        lambda world: world.decide("Train/ant/0.png,keep,,", "train/ant/1.png,erase,,", "train/ant/2.png,relabel,b,"),
        lambda world: world.decide("train/ant/0.png,keep,,", "train/ant/1.png,drop,,", "train/ant/2.png,relabel,bee,"),
        True,
    ),
    Unread(
        3,
        "decisions.csv has the columns image,",
        "its first line has to be image,decision,label,note",
        lambda world: files.write_text(world.root / "decisions.csv", "image,verdict\n"),
        World.decide,
        True,
    ),
    Unread(
        2,
        "population_prior names ant, wasp",
        "the classes are ant, bee",
        lambda world: world.set("validate.population_prior", {"ant": 1, "wasp": 1}),
        lambda world: world.set("validate.population_prior", {"ant": 1, "bee": 1}),
        True,
    ),
)


@pytest.mark.parametrize("case", UNREAD, ids=lambda case: case.told)
def test_what_cannot_be_read_says_what_to_do_and_is_read_then(case: Unread, tmp_path: Path) -> None:
    world = World(tmp_path)
    case.plant(world)
    code, told = world.run()
    assert code == case.code and case.told in told and case.piece in told
    case.act(world)
    assert world.run(gate=case.of_the_gate) == (0, "")
