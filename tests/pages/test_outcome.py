"""The outcome page is the report with the verdict before its pictures and the reasons after them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from steps.errors import DataError
from steps.evaluation.results import PairedComparison
from steps.pages.outcome import PARTS, PROMOTED, PROPOSED, REFUSED, REMAINS, Outcome, markdown, write_outcome
from steps.pages.rendering import TEMPLATES
from tests.outputs import COMPARISON, FIRST, REFUSAL

REPORT = "<main>\n<!-- outcome -->\n<section>pictures</section>\n<!-- reasons -->\n<section>the report</section></main>"


def told(tmp_path: Path, outcome: Outcome) -> str:
    report, page = tmp_path / "report.html", tmp_path / "outcome" / "index.html"
    report.write_text(REPORT, encoding="utf-8")
    write_outcome(report, page, outcome)
    assert report.read_text(encoding="utf-8") == REPORT
    return page.read_text(encoding="utf-8")


def test_the_verdict_comes_before_the_pictures_and_the_reasons_after_them(tmp_path: Path) -> None:
    text = told(tmp_path, FIRST)
    places = [text.index(words) for words in ("version 4 of garden is", "pictures", "clears the floor", "the report")]
    assert places == sorted(places) and text.count('<section class="verdict promoted"') == 1
    assert not [marker for marker in PARTS if marker in text]


def test_a_refusal_gives_every_reason_and_escapes_what_it_quotes(tmp_path: Path) -> None:
    text = told(tmp_path, REFUSAL)
    assert '<section class="verdict refused"' in text and "✗ not promoted" in text
    assert re.findall(r"<li>(.*?)</li>", text) == ["too few images", "class a|b: recall *falls*"]
    assert "the &lt;b&gt;challenger&lt;/b&gt; was not promoted" in text


def test_the_comparison_is_told_with_its_interval_and_drawn_to_scale(tmp_path: Path) -> None:
    text = told(tmp_path, REFUSAL)
    assert "Version 4 minus version 3 on the same 153 test images" in text
    assert "<strong>+2.0 points</strong> of balanced accuracy (-0.7 to +4.6)" in text
    champion, low, high, value = drawn(text)
    assert (value - champion) / (high - low) == pytest.approx(0.0196 / (0.0458 + 0.0065), abs=0.01)
    assert low < champion < value < high
    assert axis(text) == ["0", "+2", "+4 points"]


def test_without_a_champion_the_challengers_own_figure_is_drawn(tmp_path: Path) -> None:
    text = told(tmp_path, FIRST)
    assert (
        "Balanced accuracy of version 4 on 153 test images: <strong>93.4\xa0%</strong> (95\xa0% interval 89.1 to 96.9)"
        in text
    )
    whole, low, high, value = drawn(text)
    assert low < value < high < whole
    assert axis(text) == ["90 %", "95 %", "100 %"]


def test_a_model_that_is_the_champion_itself_is_compared_with_nobody_and_the_page_says_so(tmp_path: Path) -> None:
    remains = replace(FIRST, verdict=REMAINS, headline="version 4 of garden remains the champion")
    text = told(tmp_path, remains)
    for page in (text, markdown(remains)):
        assert "= still the champion; nothing new" in page
        assert "model of this run" in page and "challenger" not in page
    assert "nothing new" not in told(tmp_path, FIRST) + told(tmp_path, REFUSAL)
    assert "<dt>challenger</dt><dd>version 4</dd>" in told(tmp_path, REFUSAL)
    assert "<dt>previous champion</dt><dd>none</dd>" in told(tmp_path, FIRST)


def axis(text: str) -> list[str]:
    """The numbers under the line."""
    return re.findall(r'<text x="[\d.]+" y="43"[^>]*>([^<]*)<', text)


def drawn(text: str) -> list[float]:
    """The places of reference, low, high and value along the line."""
    found = re.search(r'd="M([\d.]+) 2V.*?d="M([\d.]+) 15H([\d.]+)".*?cx="([\d.]+)"', text)
    assert found
    return [float(place) for place in found.groups()]


@pytest.mark.parametrize("comparison", [replace(COMPARISON, low=None, high=None), replace(COMPARISON, difference=0.0)])
def test_a_difference_without_interval_or_without_size_can_be_drawn(
    tmp_path: Path, comparison: PairedComparison
) -> None:
    champion, low, high, value = drawn(told(tmp_path, replace(REFUSAL, comparison=comparison)))
    assert 0 <= champion <= value <= 340 and 0 <= low <= value <= high <= 340


@pytest.mark.parametrize(
    ("state", "mark"), [("within budget", ""), ("over budget", "! over budget"), ("exhausted", "✗ too many looks")]
)
def test_looks_are_told_and_marked_past_the_budget_and_past_the_limit(tmp_path: Path, state: str, mark: str) -> None:
    outcome = replace(REFUSAL, looks={"state": state, "sentence": "27 models were judged"})
    for text in (told(tmp_path, outcome), markdown(outcome)):
        assert "27 models were judged." in text
        assert [words for words in ("! over budget", "✗ too many looks") if words in text] == [mark] * bool(mark)


@pytest.mark.parametrize(
    ("verdict", "badge"),
    [(PROMOTED, "✓ promoted"), (REMAINS, "still the champion"), (PROPOSED, "waits for approval"), (REFUSED, "✗ not")],
)
def test_only_what_was_promoted_is_called_so(tmp_path: Path, verdict: str, badge: str) -> None:
    for text in (told(tmp_path, replace(FIRST, verdict=verdict)), markdown(replace(FIRST, verdict=verdict))):
        assert badge in text and ("✓ promoted" in text) is (verdict == PROMOTED)


def test_markdown_says_the_same_and_no_label_becomes_markup() -> None:
    text = markdown(REFUSAL)
    for said in (
        "# The \\<b\\>challenger\\</b\\> was not promoted",
        "- too few images",
        "- class a\\|b: recall \\*falls\\*",
        "**+2.0 points** (-0.7 to +4.6)",
        "94.1\xa0% (89.2 to 96.8, Wilson 95\xa0%)",
        "! over budget: 27 models were judged",
    ):
        assert said in text, said
    assert "data_docs" not in markdown(FIRST), "a link to a file is no use elsewhere"
    assert "[MLflow run](http://localhost:5000/#/runs/1?a=1&b=2)" in markdown(FIRST)


def test_links_lead_where_they_were_told_to(tmp_path: Path) -> None:
    links = re.findall(r'<a href="(.*?)">(.*?)</a>', told(tmp_path, FIRST))
    assert links == [
        ("data_docs/index.html", "Data Docs"),
        ("http://localhost:5000/#/runs/1?a=1&amp;b=2", "MLflow run"),
    ]


@pytest.mark.parametrize("text", ["<main></main>", "<!-- outcome -->", "<!-- reasons --><!-- outcome -->" * 2])
def test_a_report_without_each_marker_exactly_once_is_refused(tmp_path: Path, text: str) -> None:
    report, page = tmp_path / "report.html", tmp_path / "index.html"
    report.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"{report.name} holds the marker .* (0|2) times.*dvc repro"):
        write_outcome(report, page, FIRST)
    assert not page.exists()


def test_the_reports_style_sheet_dresses_every_class_of_the_verdict(tmp_path: Path) -> None:
    text = told(tmp_path, FIRST) + told(tmp_path, REFUSAL)
    used = {name for names in re.findall(r'class="([^"]+)"', text) for name in names.split()}
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    assert {name for name in used if not re.search(rf"\.{name}\b", css)} == {"refused"}  # the plain verdict
