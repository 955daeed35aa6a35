"""No address that leaves the process holds a password."""

import time
from pathlib import Path

import pytest

from flows import cli
from flows.finish import _links
from steps.errors import DataError, ParamsError, RegistryError, visible, without_passwords
from steps.runtime import stage

HOSTILE = (
    "\x1b]0;owned\x07.png",  # the window's title
    "\x1b]52;c;b3duZWQ=\x07",  # the clipboard
    "\x1b[2J\x1b[31m",
    "\x9b31m",  # the same by C1
    "a\rb",
    "cats\u202egnp.exe",  # right to left
    "\u2066x\u2069\u200f",
    "\x00\x7f\x85",
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:secret@db.example/mlflow", "postgresql://ada@db.example/mlflow"),
        ("postgresql+psycopg2://ada:se/cr:et@db:5432/x", "postgresql+psycopg2://ada@db:5432/x"),
        ("(http://ada:se@cret@host:5000) no", "(http://ada@host:5000) no"),
        ("http://:secret@host/ and http://b:secret@host/", "http://@host/ and http://b@host/"),
        ("mysql://ada:5432@host/x", "mysql://ada@host/x"),
        ("http://127.0.0.1:5000/#/models/regraft@champion", "http://127.0.0.1:5000/#/models/regraft@champion"),
        (
            "models:/regraft@champion by ada@example.org: s3://b/a",
            "models:/regraft@champion by ada@example.org: s3://b/a",
        ),
        ("https://ghp_0123456789abcdefghij@github.com/x", "https://...@github.com/x"),
        ("git+ssh://git@github.com/x", "git+ssh://git@github.com/x"),
        ("http://h/x?token=abc&page=2", "http://h/x?token=...&page=2"),
        (
            "https://b.s3/x?X-Amz-Credential=AK/1&X-Amz-Signature=ab12",
            "https://b.s3/x?X-Amz-Credential=...&X-Amz-Signature=...",
        ),
        ("https://a.blob/x?sv=1&sig=a%2Bb%3D", "https://a.blob/x?sv=1&sig=..."),
        ("postgresql://h/d?user=ada&password=se;cret", "postgresql://h/d?user=ada&password=...;cret"),
        ("key=value of a param, token=8 words", "key=value of a param, token=8 words"),
        (
            "http://host:5000 does not answer: mail ada@example.org",
            "http://host:5000 does not answer: mail ada@example.org",
        ),
    ],
)
def test_a_password_in_an_address_is_left_out_and_all_else_stays(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


@pytest.mark.parametrize("text", ["://:" * 8000, "://" + "a" * 32_000, "://a:" + "b@" * 16_000, "?token" * 5000])
def test_the_time_is_linear_in_the_text(text: str) -> None:
    start = time.process_time()
    without_passwords(text)
    assert time.process_time() - start < 5  # a quadratic one takes minutes at this length; no figure is claimed


@pytest.mark.parametrize("name", HOSTILE)
def test_a_fault_cannot_drive_a_terminal(name: str) -> None:
    text = str(DataError(f"{name}: damaged"))
    assert text.isprintable() and text.endswith(": damaged")


def test_what_is_no_control_stays() -> None:
    text = "dogs/h\u00fcndchen \u56f3 \U0001f436.png\n\ttwo lines"
    assert visible(text) == text


def test_no_fault_that_a_user_sees_holds_one() -> None:
    for kind in (RegistryError, DataError):
        assert (
            str(kind("MLflow at http://ada:secret@host does not answer")) == "MLflow at http://ada@host does not answer"
        )
    assert "secret" not in str(ParamsError(["where is 'http://ada:secret@host'"]))


def test_the_outcome_page_links_to_a_server_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@host:5000")
    assert [*_links(tmp_path, "r")] == [("MLflow run", "http://ada@host:5000/#/runs/r")]


def test_a_fault_of_ours_ends_in_a_traceback_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("API request to http://ada:secret@host/api failed")

    def ingest() -> None: ...

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(stage, "call", lambda *_: fail())
    monkeypatch.setattr("sys.argv", ["ingest"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    with pytest.raises(SystemExit) as other:
        stage.main(ingest)
    for told in (capsys.readouterr().err, str(other.value.code)):
        assert "RuntimeError: API request to http://ada@host/api failed" in told and "in fail" in told
        assert "secret" not in told
