"""Six kinds of public data sets, from folder to the gate, with at most one remedy, done exactly as it is printed."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from flows.overview import of_source
from flows.sources import Source, mirror
from steps.runtime import params
from tests.checks.world import PROJECT, World
from tests.flows.test_layouts import written
from tests.public_sets import SETS, SPELLINGS, split_folders

SPLIT = "cross 32 disc 32 square 32 | train 48 val 18 test 30 | 0 | 0"


class Verdict(NamedTuple):
    """What `use` reads, and the remedy that leads on, "" if none is needed."""

    reading: str
    remedy: str = ""


VERDICTS = {
    "split folders": Verdict(SPLIT),
    "medical": Verdict("normal 37 pneumonia 32 | train 37 val 12 test 20 | 0 | 0", "validate.drop_leaking: true"),
    "industrial": Verdict("broken 48 good 48 | hash 96 | 0 | 0"),
    "tiny": Verdict("a 12 b 12 c 12 | hash 36 | 0 | 0"),
    "imbalanced": Verdict("common 320 rare 20 | hash 340 | 0 | 0"),
    "nested": Verdict("angular 80 round 80 | hash 160 | 0 | 161", "--labels leaf"),
}


def setting(text: str) -> str:
    """Return the first `section.name: value` that a refusal prints, "" if there is none; `number found`: its number."""
    to_number = [
        f"{name}: {number}"
        for number, name in re.findall(r"has (\d+) image[^`]*`([\w.]+)` in params.yaml to the number found", text)
    ]
    return next(iter(re.findall(r"`(\w+\.\w+: \w+)`", text) + to_number), "")


def brought(tmp_path: Path, source: Source) -> World:
    """Return the gate's world with the pictures of a source, and the severities of the repository."""
    world = World(tmp_path / "world")
    shutil.rmtree(world.raw)
    mirror(source, world.raw, tmp_path / "memory")
    world.document["validate"]["severity"] = params.read(PROJECT)["validate"]["severity"]
    return world


@pytest.mark.parametrize("name", SETS)
def test_a_public_set_passes_the_gate_with_at_most_one_remedy(tmp_path: Path, name: str) -> None:
    source = Source(SETS[name](tmp_path / "set"), store=tmp_path / "store")
    seen, verdict = of_source(PROJECT, source), VERDICTS[name]
    assert written(seen) == verdict.reading
    world = brought(tmp_path, source)
    code, refusal = world.run()
    if setting(refusal):
        assert (code, setting(refusal)) == (3, verdict.remedy)
        key, value = verdict.remedy.split(": ")
        world.set(key, yaml.safe_load(value))
        code, refusal = world.run()
    assert (code, refusal) == (0, "")


@pytest.mark.parametrize("names", SPELLINGS, ids="-".join)
def test_one_set_in_five_spellings_is_read_and_accepted_alike(tmp_path: Path, names: tuple[str, str, str]) -> None:
    source = Source(split_folders(tmp_path / "set", names), store=tmp_path / "store")
    assert written(of_source(PROJECT, source)) == SPLIT
    assert brought(tmp_path, source).run() == (0, "")


def test_the_other_reading_of_nested_classes_is_the_one_printed(tmp_path: Path) -> None:
    folder = SETS["nested"](tmp_path / "set")
    (note,) = of_source(PROJECT, Source(folder, store=tmp_path / "store")).notes
    (labels,) = re.findall(r"--labels (\w+)", note)
    chosen = Source(folder, labels=labels, store=tmp_path / "store")
    listed = Source(folder / "archive/labels.csv", store=tmp_path / "store")
    for source, over in ((chosen, 161), (listed, 0)):
        expected = f"cross 40 disc 40 ring 40 square 40 | hash 160 | 0 | {over}"
        assert written(of_source(PROJECT, source)).startswith(expected.rsplit(" | ", 1)[0])
