"""The pages in a real browser: nothing asked for, nothing cut off, nothing that a reader cannot see or reach."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steps.checks.reports import Copies, Covariate, Listed, Mislabelled, Oddity, Shift, Stranger, Unreadable, Validation
from steps.checks.rule import RuleResult
from steps.pages import gate_page
from steps.pages.album import Album
from steps.pages.caveats import Caveat
from steps.pages.outcome import REMAINS, write_outcome
from steps.pages.rendering import render
from steps.runtime import artefacts
from steps.runtime.figure import Figure
from tests.browser import HEIGHTS, Tab, browser
from tests.checks import test_remedies as planted
from tests.checks.world import World
from tests.conftest import NEEDS
from tests.outputs import CLASSES, FIRST, HOSTILE, REFUSAL, SCREENED, Inputs, honest, make

pytestmark = pytest.mark.browser
PRINTED = 718  # CSS pixels between the margins of A4
ODD = [*HOSTILE, "\u202eright to left", "نحلة " * 9, "蜜蜂" * 30, "w" * 120, "a\nb"]
SHORTCUT = Caveat(
    "no shortcut to the label: 'mean brightness' has 85.9 % (limit: at most 50 %)", "it may not hold in use", "Look."
)
PAGES = ("report", "outcome", "first", "sheet", "against", "gate", "warned", "many", "odd", "one", "none")
each_page = pytest.mark.parametrize("name", PAGES)
each_width = pytest.mark.parametrize("width", HEIGHTS)
each_scheme = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    def inputs(name: str, *args: Any) -> Inputs:
        return make(tmp_path_factory.mktemp(name), *args)

    plain = inputs("plain")
    plain.change("evaluation", **honest(CLASSES))
    found = {"report": plain.page(), "sheet": sheet(plain), "against": against(plain)}
    found["gate"] = gate(tmp_path_factory.mktemp("gate"))
    remains = replace(FIRST, verdict=REMAINS, looks=REFUSAL.looks, headline="version 4 of garden remains the champion")
    warned = replace(REFUSAL, caveats=(SHORTCUT,) * 3)
    for name, outcome in (("outcome", REFUSAL), ("first", FIRST), ("remains", remains), ("warned", warned)):
        found[name] = plain.root / f"{name}.html"
        write_outcome(found["report"], found[name], outcome)
    found["many"] = inputs("many", [f"species {i:03d}" for i in range(120)]).page()
    odd = inputs("odd", ODD)
    odd.change("evaluation", **honest(ODD))
    found["odd"] = odd.page()
    found["one"], found["none"] = inputs("one", CLASSES, 1).page(), inputs("none", CLASSES, 0).page()
    return found


def sheet(inputs: Inputs) -> Path:
    """The sheet of suspects, with one of each kind."""
    row = inputs.images().iloc[0].to_dict()
    image, shown = Listed(**row), Album(inputs.raw, 96, 10**6, None).add(row["path"], row["id"])
    found = replace(
        SCREENED,
        searched=9,
        credible=False,
        wrong_share=0.04,
        label_errors=(Mislabelled(**row, suggested="bees", credibility=0.02),),
        like=(Copies((image, image), leaking=True, conflicting=True, identical=True),),
        odd=(Oddity(**row, distance=3.0, reasons=("dark", "far from all others")),),
    )
    page = inputs.root / "screen.html"
    page.write_text(
        render(
            "screen.html",
            label_errors=[(found.label_errors[0], shown)],
            like=[(found.like[0], [(image, shown)] * 2)],
            odd=[(found.odd[0], shown)],
            found=found,
            unlabelled="unlabelled",
        ),
        encoding="utf-8",
    )
    return page


def against(inputs: Inputs) -> Path:
    """The page of training against a reference."""
    image = inputs.images().iloc[0]
    row = Stranger(image["id"], image["path"], image["label"], odds=3.21)
    shown = [(row, Album(inputs.raw, 96, 10**6, None).add(row.path, row.id))]
    measure = Covariate("brightness", "Kolmogorov-Smirnov", 0.71, 1e-10, 0.123456, "2026-01-01", 1e-9, True)
    report = Shift(
        reference=40,
        training=146,
        left_out=3,
        unreadable=(Unreadable("a" * 90, "truncated", "OSError"),),
        auc=Figure(0.9, 0.8, 0.95, "DeLong"),
        p=0.001,
        effective=31.0,
        covered=0.4,
        measures=(measure,) * 3,
        strange=(row,),
        unseen=(row,),
        rules=(RuleResult("domain shift", False, "0.9", (), "warn", "at most 0.7", "how far apart", "Look."),),
        page="against.html",
    )
    page = inputs.root / "against.html"
    page.write_text(
        render("against.html", strange=shown, unseen=shown, confidence=0.95, found=report), encoding="utf-8"
    )
    return page


def gate(root: Path) -> Path:
    """The page of broken rules, with pictures, tables, hostile names and lines to paste."""
    world = World(root)
    planted.chain(world)
    planted.capitals(world)
    planted.failed_downloads(world)
    planted.copied(world, "test/ant/2.png", f"train/ant/{'w' * 120}, <b>.png")
    world.lose("beetle", *ODD)
    assert world.run()[0] == 3
    page = root / "checks.html"
    checks = artefacts.read(Validation, root / "validation.json")
    gate_page.write_page(page, root / "checks.csv", world.paths, checks, None)
    return page


@each_width
@each_page
def test_a_page_asks_for_nothing_and_never_scrolls_sideways(
    tab: Tab, pages: dict[str, Path], name: str, width: int
) -> None:
    tab.screen(width)
    assert tab.asked_for(pages[name]) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0


@each_width
@pytest.mark.parametrize("name", ["outcome", "first", "remains"])
def test_the_first_screen_of_an_outcome_holds_the_verdict_the_looks_and_three_pictures(
    tab: Tab, pages: dict[str, Path], name: str, width: int
) -> None:
    tab.screen(width)
    tab.open(pages[name])
    assert on_screen(tab, ".verdict h2") == [True]
    assert on_screen(tab, ".standing") == [True] * (name != "first")
    assert on_screen(tab, ".verdict figure, .result figure") == [True, True, True]


@each_width
def test_the_first_screen_of_a_warned_outcome_holds_the_gravest_warning(
    tab: Tab, pages: dict[str, Path], width: int
) -> None:
    tab.screen(width)
    tab.open(pages["warned"])
    assert on_screen(tab, ".verdict h2, .standing") == [True, True, True]
    assert tab.evaluate("document.querySelector('.standing').innerText").startswith("! no shortcut to the label")
    assert tab.evaluate("document.querySelectorAll('#caveats li').length") > 0, "its link leads nowhere"


def on_screen(tab: Tab, selector: str) -> list[bool]:
    """Return for each element that a selector finds whether all of it is on the first screen."""
    within = "element => { const b = element.getBoundingClientRect(); return b.height > 0 && b.bottom <= innerHeight }"
    return list(tab.evaluate(f"[...document.querySelectorAll('{selector}')].map({within})"))


@each_scheme
def test_a_page_follows_the_readers_colours(tab: Tab, pages: dict[str, Path], scheme: str) -> None:
    tab.screen(390, scheme)
    tab.open(pages["outcome"])
    red, green, blue = tab.picture().convert("RGB").getpixel((2, 2))  # type: ignore[misc]
    assert (red + green + blue < 150) is (scheme == "dark")


@pytest.mark.skipif(not NEEDS["axe"][0], reason=f"axe: {NEEDS['axe'][1]}")
@each_scheme
@each_page
def test_axe_finds_nothing_that_keeps_a_reader_out(tab: Tab, pages: dict[str, Path], name: str, scheme: str) -> None:
    for width in HEIGHTS if name == "outcome" else (390,):
        tab.screen(width, scheme)
        tab.open(pages[name])
        assert tab.barriers() == []


@each_page
def test_print_cuts_no_table_no_picture_and_hides_nothing(tab: Tab, pages: dict[str, Path], name: str) -> None:
    tab.screen(PRINTED, "dark", media="print")
    tab.open(pages[name])
    cut = (
        "[...document.querySelectorAll('table, svg, img, p')].filter(one => !one.closest('.skip'))"
        ".filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"
    )
    assert tab.evaluate(cut) == []
    rows = "[...document.querySelectorAll('tr, figure')].every(one => getComputedStyle(one).breakInside === 'avoid')"
    assert tab.evaluate(rows), "a row may be torn apart between two sheets"
    heights = (
        "[...document.querySelectorAll('details')].map(one => one.lastElementChild.getBoundingClientRect().height)"
    )
    assert min(tab.evaluate(heights), default=99) > 10, "what is folded on the screen is missing on paper"
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.pdf().startswith(b"%PDF")


def test_the_first_key_leads_past_the_title_to_the_result(tab: Tab, pages: dict[str, Path]) -> None:
    tab.screen(1280)
    tab.open(pages["outcome"])
    tab.press("Tab", 9)
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0, "it has to be seen"
    tab.press("Enter", 13)
    assert tab.evaluate("document.activeElement.id") == "main"


def test_what_scrolls_can_be_scrolled_by_key_and_has_a_name(tab: Tab, pages: dict[str, Path]) -> None:
    for name in PAGES:
        tab.screen(390)
        tab.open(pages[name])
        unreached = (
            "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)"
            ".filter(one => one.tabIndex !== 0 || !one.getAttribute('aria-label')).length"
        )
        assert tab.evaluate(unreached) == 0
