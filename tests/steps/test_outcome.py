"""The outcome page is the report with one section more."""

import re
from pathlib import Path

import pytest

from steps.adapters.pages import TEMPLATES
from steps.errors import DataError
from steps.outcome import MARKER, Outcome, write_outcome

PROMOTED = Outcome(
    promoted=True,
    headline="Version 4 is the new champion",
    reasons=("balanced accuracy 0.934, the champion's is 0.915",),
    champion_version="4",
    challenger_version="4",
    model_name="garden",
    links=(("Data Docs", "data_docs/index.html"), ("MLflow run", "http://localhost:5000/#/runs/1?a=1&b=2")),
)
REFUSED = Outcome(
    promoted=False,
    headline="The first <b>model</b> was refused",
    reasons=("too few images", "under the floor"),
    champion_version=None,
    challenger_version="1",
    model_name="garden",
    links=(),
)
REPORT = f"<main>\n{MARKER}\n<section>the report</section></main>"


def told(tmp_path: Path, outcome: Outcome) -> str:
    report, page = tmp_path / "report.html", tmp_path / "outcome" / "index.html"
    report.write_text(REPORT, encoding="utf-8")
    write_outcome(report, page, outcome)
    assert report.read_text(encoding="utf-8") == REPORT
    return page.read_text(encoding="utf-8")


def test_the_verdict_stands_once_at_the_head_of_the_report(tmp_path: Path) -> None:
    text = told(tmp_path, PROMOTED)
    assert text.count('<section class="verdict promoted"') == 1
    assert text.index("<main>") < text.index("Version 4 is the new champion") < text.index("the report")
    assert MARKER not in text
    assert text.endswith(REPORT.partition(MARKER)[2])


def test_a_refusal_gives_every_reason_and_says_that_there_is_no_champion(tmp_path: Path) -> None:
    text = told(tmp_path, REFUSED)
    assert '<section class="verdict refused"' in text
    assert re.findall(r"<li>(.*?)</li>", text) == ["too few images", "under the floor"]
    assert "none yet" in text and "version 1" in text
    assert "The first &lt;b&gt;model&lt;/b&gt; was refused" in text


def test_links_lead_where_they_were_told_to(tmp_path: Path) -> None:
    links = re.findall(r'<a href="(.*?)">(.*?)</a>', told(tmp_path, PROMOTED))
    assert links == [
        ("data_docs/index.html", "Data Docs"),
        ("http://localhost:5000/#/runs/1?a=1&amp;b=2", "MLflow run"),
    ]


@pytest.mark.parametrize("text", ["<main></main>", f"{MARKER}{MARKER}"])
def test_a_report_without_exactly_one_marker_is_refused(tmp_path: Path, text: str) -> None:
    report, page = tmp_path / "report.html", tmp_path / "index.html"
    report.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"{report.name} holds the marker .* {text.count(MARKER)} times.*dvc repro"):
        write_outcome(report, page, PROMOTED)
    assert not page.exists()


def test_the_reports_style_sheet_dresses_every_class_of_the_verdict(tmp_path: Path) -> None:
    text = told(tmp_path, PROMOTED) + told(tmp_path, REFUSED)
    used = {name for names in re.findall(r'class="([^"]+)"', text) for name in names.split()}
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    assert used == {"verdict", "promoted", "refused", "state", "good", "warn", "facts", "links"}
    assert {name for name in used if not re.search(rf"\.{name}\b", css)} == {"refused"}  # the plain verdict
