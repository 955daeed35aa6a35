"""Pages hold everything themselves, follow the reader's colours, and never take a label for markup."""

import base64
import io
import itertools
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from PIL import Image

from steps.pages import figures, rendering
from steps.runtime.figure import Figure

HOSTILE = "<script>alert(1)</script>"
CSS = (rendering.TEMPLATES / "report.css").read_text(encoding="utf-8")


def balance(name: str, label: str = "ant") -> str:
    figure = figures.class_balance({"train": {label: 3}}, [label])
    return rendering.inline_svg(figure, name, f"Images of {label}")


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def test_the_same_figure_gives_the_same_svg() -> None:
    assert balance("balance") == balance("balance")


def test_two_figures_share_no_id_and_each_refers_to_its_own() -> None:
    first, second = balance("first"), balance("second")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', first))
    assert used and used <= ids[0]


def test_an_svg_names_itself_to_a_screen_reader() -> None:
    svg = ElementTree.fromstring(balance("balance"))
    assert svg.attrib["role"] == "img"
    title = svg.find("title")
    assert title is not None and title.text == "Images of ant"
    assert svg.attrib["aria-labelledby"] == title.attrib["id"]


def test_an_svg_brings_no_address_no_date_no_style_and_no_font_of_its_own() -> None:
    svg = balance("balance")
    for foreign in ("http", "<style", "<metadata", "font-family", "xmlns"):
        assert foreign not in svg


def test_every_colour_of_a_figure_is_one_that_the_page_defines() -> None:
    svg = balance("balance") + rendering.inline_svg(figures.confusion_matrix([[2, 1], [0, 3]], ["a", "b"]), "c", "")
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert set(re.findall(r"var\(--(\w+)\)", svg)) == {"ink", "soft", "line", "accent", "bad"}
    assert set(figures.COLOURS) <= set(re.findall(r"--(\w+):", CSS))


@pytest.mark.parametrize("label", [HOSTILE, '" onload="x', "<!-- outcome -->", "]]>", "$x_{$", "a\x01b"])
def test_a_hostile_label_stays_text_in_a_figure(label: str) -> None:
    svg = ElementTree.fromstring(balance("balance", label))
    assert {node.tag for node in svg.iter()} <= {"svg", "title", "g", "defs", "path", "use", "clipPath", "rect", "text"}
    assert figures.shorten(label) in [node.text for node in svg.iter("text")]


def test_letters_that_matplotlibs_font_lacks_reach_the_page_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert "蜜蜂" in balance("balance", "蜜蜂")
    assert not recwarn.list


@pytest.mark.parametrize(("size", "kind", "shown"), [((400, 200), "jpeg", (100, 50)), ((8, 8), "png", (8, 8))])
def test_a_picture_fits_its_square_and_is_never_enlarged(
    size: tuple[int, int], kind: str, shown: tuple[int, int]
) -> None:
    made = rendering.picture(Image.new("RGB", size, "red"), 100)
    assert made.uri.startswith(f"data:image/{kind};base64,")
    assert (made.width, made.height) == shown == Image.open(io.BytesIO(decoded(made.uri))).size


def test_a_picture_leaves_the_original_alone_and_its_secrets_behind() -> None:
    exif = Image.Exif()
    exif[0x010E] = "home address"
    buffer = io.BytesIO()
    Image.new("RGB", (300, 300)).save(buffer, "JPEG", comment=b"home address", exif=exif)
    original = Image.open(buffer)
    for side in (200, 20):
        assert b"home address" not in decoded(rendering.picture(original, side).uri)
    assert original.size == (300, 300)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "no"),
        (3, "3"),
        (0.123456, "0.1235"),
        (76040.4, "76,040"),
        (12345, "12,345"),
        ("RGB", "RGB"),
        ([0.485, 0.456], "0.485, 0.456"),
        ({"RGB": 4, "L": None}, "RGB: 4, L: –"),
        ([], "–"),
    ],
)
def test_plain_says_any_json_value(value: object, text: str) -> None:
    assert rendering.plain(value) == text


def test_figures_are_written_with_their_interval_and_method() -> None:
    accuracy = Figure(0.9281, 0.8764, 0.9593, "Wilson")
    loss = Figure(0.2144, 0.1518, 0.2906, "bootstrap")
    assert rendering.percent(accuracy.value) == "92.8\xa0%"
    assert rendering.bounds(accuracy, 0.95) == "87.6 to 95.9, Wilson 95\xa0%"
    assert rendering.bounds(loss, 0.9, share=False) == "0.152 to 0.291, bootstrap 90\xa0%"
    assert rendering.percent(None) == rendering.decimal(float("nan")) == "–"
    assert rendering.bounds(replace(loss, low=None), 0.95) == ""
    assert rendering.bounds(accuracy, 0.95, method=False) == "87.6 to 95.9"
    assert [rendering.decimal(number) for number in (76041.87, 0.015985, -0.0213)] == ["76,042", "0.016", "-0.021"]


def test_an_interval_is_told_without_its_method_and_p_without_idle_digits() -> None:
    assert rendering.interval(Figure(0.9281, 0.8764, 0.9593, "Wilson"), 0.95) == "95\xa0% interval 87.6 to 95.9"
    assert rendering.interval(Figure(0.9, None, None, "Wilson"), 0.95) == ""
    said = [rendering.chance(p) for p in (1.0, 0.4, 0.0213, 0.0005)]
    assert said == ["1.00", "0.40", "0.021", "< 0.001"]


@pytest.mark.parametrize(
    ("start", "stop", "found"),
    [
        (0.965, 1.0, [0.97, 0.98, 0.99, 1.0]),
        (0.891, 1.0, [0.9, 0.95, 1.0]),
        (-0.0065, 0.0458, [0.0, 0.02, 0.04]),
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.98, 1.0, [0.98, 0.99, 1.0]),
        (-0.02, 0.0, [-0.02, -0.01, 0.0]),
    ],
)
def test_an_axis_has_three_round_numbers_or_a_few_more(start: float, stop: float, found: list[float]) -> None:
    assert rendering.ticks(start, stop) == found


@given(st.floats(-1, 1), st.floats(0.02, 2))
def test_no_axis_is_without_numbers_and_none_is_crowded(start: float, span: float) -> None:
    found = rendering.ticks(start, start + span)
    assert 3 <= len(found) <= 7
    assert all(start - 1e-6 <= at <= start + span + 1e-6 for at in found)
    steps = {round(later - at, 9) for at, later in itertools.pairwise(found)}
    assert len(steps) == 1


def test_lists_and_counts_read_like_sentences() -> None:
    assert rendering.few(["a", "b", "c"], limit=3) == "a, b, c"
    assert rendering.few(["a", "b", "c"], limit=1) == "a and 2 more"
    assert [rendering.counted(n, "image") for n in (0, 1, 1024)] == ["0 images", "1 image", "1,024 images"]
    assert rendering.counted(2, "class", "classes") == "2 classes"


def test_a_template_escapes_its_values_and_refuses_missing_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.html").write_text('<p title="{{ x }}">{{ x }}</p>')
    monkeypatch.setattr(rendering, "TEMPLATES", tmp_path)
    monkeypatch.setattr(rendering, "_environment", rendering._environment.__wrapped__)
    assert rendering.render("t.html", x='"<b>') == '<p title="&#34;&lt;b&gt;">&#34;&lt;b&gt;</p>'
    with pytest.raises(UndefinedError):
        rendering.render("t.html")


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two #rrggbb colours."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def palettes() -> list[dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in blocks[:2]]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_has_the_contrast_that_wcag_aa_asks_for(scheme: int) -> None:
    palette = palettes()[scheme]
    ratios = {
        (text, ground): contrast(palette[text], palette[ground])
        for text in ("ink", "soft", "accent", "second", "bad")
        for ground in ("paper", "card")
    }
    assert min(ratios.values()) >= 4.5, ratios


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["accent", "bad"])
def test_counts_stay_legible_on_the_darkest_tile_of_the_confusion_matrix(scheme: int, name: str) -> None:
    palette = palettes()[scheme]
    figure = figures.confusion_matrix([[5, 0], [5, 0]], ["a", "b"])
    alpha = max(tile.get_alpha() for tile in figure.axes[0].patches)
    mixed = "#" + "".join(
        f"{round(alpha * int(palette[name][i : i + 2], 16) + (1 - alpha) * int(palette['paper'][i : i + 2], 16)):02x}"
        for i in (1, 3, 5)
    )
    assert contrast(palette["ink"], mixed) >= 4.5
