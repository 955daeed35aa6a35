"""The page of broken rules shows each fault in pictures or a short table, and what it offers to paste leads out."""

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from steps.checks.feature_rules import ScreenSeverity
from steps.checks.reports import Screening, Unsound, Validation
from steps.checks.rules import KEY_OF
from steps.errors import RejectedError
from steps.pages import gate_page
from steps.pages.exhibits import MAKERS
from steps.pages.gate_page import MOST_CARDS, MOST_IMAGES
from steps.runtime import artefacts, files
from tests.checks import test_remedies as planted
from tests.checks import test_remedies_of_the_screen as of_screen
from tests.checks.test_remedies import copied
from tests.checks.world import World
from tests.outputs import validated
from tests.stages.test_screen import Screened

Plant = Callable[[World], None]
SAME = "If they show the same, leave out the copies:"


def write(world: World) -> str:
    """Write the page of the last run; return its text, empty if no rule is broken."""
    report = files.read_json(world.root / "validation.json")
    checks = artefacts.read(Validation if "decisions" in report else Unsound, world.root / "validation.json")
    page = world.root / "checks.html"
    gate_page.write_page(page, world.root / "checks.csv", world.paths, checks, None)
    return page.read_text(encoding="utf-8") if page.exists() else ""


def blocks(card: str) -> dict[str, list[str]]:
    """Return the lines that a card offers to paste, by the judgement that they carry out."""
    offered = re.findall(r'<p class="says">(.*?)</p>\s*<pre>(.*?)</pre>', card, re.DOTALL)
    return {unescape(judgement): unescape(lines).splitlines() for judgement, lines in offered}


def same_bytes(world: World) -> None:
    copied(world, "test/ant/0.png", "val/ant/copy, of 0.png")


def two_labels(world: World) -> None:
    copied(world, "train/ant/0.png", "train/bee/copy.png")


def two_labels_two_splits(world: World) -> None:
    copied(world, "test/ant/0.png", "train/bee/copy.jpg", near=True)
    copied(world, "val/bee/0.png", "train/bee/<b>.png")


def same_and_near(world: World) -> None:
    copied(world, "val/ant/0.png", "train/ant/copy.png")
    copied(world, "val/ant/0.png", "train/ant/copy.jpg", near=True)


WAYS = (
    # what is wrong, and the judgement that a person reaches on the page
    ("a file in two splits, a comma in its name", same_bytes, SAME),
    ("a file with two labels", two_labels, "If they show bee:"),
    ("copies with two labels and others, in two splits", two_labels_two_splits, "If they show ant:"),
    ("copies with two labels and others, in two splits", two_labels_two_splits, "If they show bee:"),
    ("a chain through three splits and two labels", planted.chain, "If they show bee:"),
    ("a chain through three splits and two labels", planted.chain, "If they show different things:"),
    ("identical and resized copies in one group", same_and_near, SAME),
    ("two pictures that only look alike", planted.look_alike, "If they show different things:"),
    ("files that cannot be read", planted.failed_downloads, "Leave them out:"),
)


@pytest.mark.parametrize(("fault", "plant", "judgement"), WAYS)
def test_the_lines_of_the_page_are_pasted_and_the_next_run_passes(
    fault: str, plant: Plant, judgement: str, tmp_path: Path
) -> None:
    world = World(tmp_path)
    plant(world)
    assert world.run()[0] == 3
    cards = [blocks(card) for card in write(world).split("<h3>")[1:]]
    assert any(judgement in card for card in cards), fault
    chosen = [card.get(judgement) or card[SAME] for card in cards]
    world.decide(*(line for lines in chosen for line in lines))
    assert world.run() == (0, "")
    assert write(world) == "" and not (world.root / "checks.csv").exists(), "the page outlives its reason"


SHOWN: tuple[tuple[str, Plant, tuple[str, ...], int], ...] = (
    # what is wrong, what the page says of it, how many pictures it shows
    ("a patient in three splits", planted.patient, ("group patient 7: 2 in test, 2 in validation, 2 in training",), 6),
    ("labels that look alike", planted.capitals, ("'Ant' (24 images) and 'ant' (24 images)",), 4),
    ("a source of one class", planted.clinic, ("source clinic: 12 images, all labelled ant",), 12),
    ("a shortcut", planted.formats, ("<bdi>format</bdi>", "<h3>ant</h3>", "<h3>bee</h3>"), 8),
    ("another filter and crop", planted.unlike, ("validate.preprocessing.crop", "bicubic"), 0),
    ("too few images", planted.fewer, ("<bdi>ant</bdi></th><td>4</td><td>1</td><td>4</td><td>0</td>",), 0),
    ("a lost class", lambda world: world.lose("beetle"), ("<bdi>beetle</bdi></th><td>0</td><td>bee</td>",), 0),
    ("a manifest that is none", planted.spoilt, ("ids are digests", "Run <code>regraft validate</code>"), 0),
)


@pytest.mark.parametrize(("fault", "plant", "words", "pictures"), SHOWN)
def test_each_fault_is_shown_as_pictures_or_as_a_short_table(
    fault: str, plant: Plant, words: tuple[str, ...], pictures: int, tmp_path: Path
) -> None:
    world = World(tmp_path)
    plant(world)
    assert world.run()[0] == 3
    page = write(world)
    assert [text for text in words if text not in unescape(page)] == [], fault
    assert page.count("<img") == pictures
    assert page.index("✗ fail") < page.index("<main"), "the way out comes first"


def test_every_key_of_a_severity_has_its_exhibit() -> None:
    assert set(MAKERS) == set(KEY_OF.values())


def many(world: World) -> None:
    """Thirty pictures with a copy in another split, and one with forty copies."""
    for number in range(30):
        world.draw(f"test/ant/more{number}.png")
        copied(world, f"test/ant/more{number}.png", f"train/ant/copy{number}.png")
    for number in range(40):
        copied(world, "test/ant/0.png", f"train/ant/again{number}.png")


def test_a_page_is_bounded_and_the_csv_lists_all(tmp_path: Path) -> None:
    world = World(tmp_path)
    many(world)
    assert world.run()[0] == 3
    page = write(world)
    assert f"And {31 - MOST_CARDS} more; <code>data/outcome/checks.csv</code> lists them all" in page
    assert f"And {41 - MOST_IMAGES} more." in page and "40 lines; <code>data/outcome/checks.csv</code>" in page
    table = pd.read_csv(tmp_path / "checks.csv", keep_default_na=False)
    assert len(table) == 70 and set(table["decision"]) == {"drop"}
    world.decide(*(tmp_path / "checks.csv").read_text().splitlines()[1:])
    assert world.run() == (0, "")


def test_names_stay_text_and_a_warning_has_the_same_page(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.set("validate.severity.leakage", "warn")
    copied(world, "test/ant/0.png", "train/ant/<script>alert(1)<.png")
    assert world.run() == (0, "")
    page = write(world)
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "<h1>Warnings about the data</h1>" in page and "! warn" in page and "✗ fail" not in page


def test_what_the_screen_refuses_is_shown_with_its_lines_and_they_lead_out(tmp_path: Path) -> None:
    project = Screened(tmp_path)
    project.lay_out()
    of_screen.two_labels(project)
    severity = ScreenSeverity(label_errors="fail", like_images="fail", domain_shift="off")
    with pytest.raises(RejectedError):
        project.run(severity=severity)
    inputs = {
        "raw": tmp_path / "raw",
        "manifest": tmp_path / "accepted.parquet",
        "quarantine": tmp_path / "quarantine.csv",
        "decisions": tmp_path / "decisions.csv",
        "lost_classes": tmp_path / "lost_classes.json",
    }
    inputs["quarantine"].write_text("path,label,kind,reason\n")
    files.write_json(inputs["lost_classes"], [])
    checks = replace(validated(files.read_table(inputs["manifest"]), ["0", "1", "2"]), rules=())
    page = tmp_path / "checks.html"
    gate_page.write_page(
        page, tmp_path / "checks.csv", inputs, checks, artefacts.read(Screening, tmp_path / "screen.json")
    )
    text = page.read_text(encoding="utf-8")
    cards = [blocks(card) for card in text.split("<h3>")[1:]]
    assert "If it shows neither:" in cards[0] and "If they show different things:" in cards[-1]
    assert text.count("<img") >= len(cards), "a card without a picture"
    keeps = (line for card in cards for lines in card.values() for line in lines if ",keep," in line)
    project.decide(*dict.fromkeys(keeps))
    project.run(severity=severity)
