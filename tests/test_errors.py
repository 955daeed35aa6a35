"""No address that leaves the process holds a password."""

from pathlib import Path

import pytest

from flows import cli
from flows.finish import _links
from steps.errors import DataError, ParamsError, RegistryError, without_passwords
from steps.runtime import stage


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
        (
            "http://host:5000 does not answer: mail ada@example.org",
            "http://host:5000 does not answer: mail ada@example.org",
        ),
    ],
)
def test_a_password_in_an_address_is_left_out_and_all_else_stays(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


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
