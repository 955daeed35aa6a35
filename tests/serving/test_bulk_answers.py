"""Predict: every file gets its row, whatever happens to the run or to the files."""

import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from steps.commands.predict import predict as command
from steps.errors import DataError, IntegrityError, RequestError
from steps.images import named_pictures
from steps.runtime import files
from steps.serving import bulk_answers as prediction
from steps.serving.answer_store import FOLDER
from steps.serving.served_version import Served
from tests.conftest import BIN, write_images
from tests.registered import ABSTAIN_BELOW, Registered, inside, other


@pytest.fixture(scope="module")
def project(registered_once: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    with inside(registered_once.copy(tmp_path_factory.mktemp("predict") / "project")) as copied:
        yield copied


@pytest.fixture(scope="module")
def served(project: Registered) -> Served:
    return prediction.load(project.root, None)


def rows(project: Registered, served: Served, *paths: Path) -> list[prediction.Answer]:
    return list(prediction.predict(project.root, served, named_pictures.find([str(path) for path in paths]), threads=2))


def test_each_picture_gets_the_probabilities_of_evaluation(project: Registered, served: Served) -> None:
    told = rows(project, served, project.root / "pictures")
    assert [row.path for row in told] == [str(path) for path in project.pictures]
    assert [row.sha256 for row in told] == [files.sha256_of(path) for path in project.pictures]
    for row, expected in zip(told, project.evaluated("1", project.pictures), strict=True):
        assert row.probabilities == pytest.approx(expected, abs=1e-5)
        assert (row.error, row.version, row.digest) == (None, "1", served.digest)
        assert row.abstain is (max(expected) < ABSTAIN_BELOW)
        assert row.unfamiliar is False


def test_a_picture_of_something_else_is_unfamiliar_and_answers_are_counted(project: Registered, tmp_path: Path) -> None:
    other(tmp_path / "other.png")
    paths = [str(tmp_path / "other.png"), str(project.pictures[0])]
    (line,) = command(project.root, paths, tmp_path / "answers.csv", None, False, False).lines()
    assert " 1 unfamiliar, 0 with an error; " in line
    assert pd.read_csv(tmp_path / "answers.csv")["unfamiliar"].tolist() == [True, False]


@pytest.mark.parametrize("output", ["answers.csv", None])
def test_a_request_with_no_answer_at_all_fails_with_the_first_reason(
    project: Registered, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str | None
) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    (tmp_path / "b.jpg").write_bytes(b"")
    target = tmp_path / output if output else None
    for paths, count in (("a.jpg",), 1), (("a.jpg", "b.jpg"), 2):
        expected = rf"not one of {count} files could be answered; the first, .*a.jpg: not an image format$"
        with pytest.raises(RequestError, match=expected):
            command(project.root, [str(tmp_path / path) for path in paths], target, None, False, as_json=True)
        written = target.read_text() if target else capsys.readouterr().out
        assert written.count(".jpg") == count


def odd_folder(folder: Path) -> Path:
    """Write one good picture among all that a folder may hold."""
    (folder / "deep/er").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "deep/er/good, really.png")
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no picture")
    (folder / ".hidden.png").touch()
    (folder / "Thumbs.db").touch()
    (folder / "nowhere.png").symlink_to(folder / "gone")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).touch()
    return folder


def test_what_is_no_picture_has_its_reason_in_its_row(project: Registered, served: Served, tmp_path: Path) -> None:
    told = rows(project, served, odd_folder(tmp_path))
    assert {Path(row.path).name: row.error for row in told} == {
        "good, really.png": None,
        "empty.png": "the file is empty",
        "text.jpg": "not an image format",
        "nowhere.png": "cannot be read: No such file or directory",
        "loop": "a linked folder; it may loop, so name the folder itself",
        "pipe.png": "a pipe, socket or device, not a file",
        "\\udcff.png": "the name is not UTF-8; rename it",
    }
    assert all((row.label is None) == (row.error is not None) for row in told)


def test_folders_patterns_listings_and_names_are_each_told_once(tmp_path: Path) -> None:
    write_images(tmp_path / "some", per_class=2, classes=2)
    listing = tmp_path / "some" / "listing.csv"
    listing.write_text("path,who\n1/000.png,Ada\n0/001.png,Bob\n")
    named = [str(listing), str(tmp_path / "some/0/*.png"), str(tmp_path / "some/1")]
    found = [Path(one.name).relative_to(tmp_path / "some").as_posix() for one in named_pictures.find(named)]
    assert found == ["1/000.png", "0/001.png", "0/000.png", "1/001.png"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("picture\na.png\n", "lacks the column path"),
        ("path\n../a.png\n", "points outside"),
        ("path\n/a.png\n", "outside"),
    ],
)
def test_a_listing_that_is_wrong_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        named_pictures.find([str(tmp_path / "list.csv")])


def test_a_request_that_leads_nowhere_is_refused(project: Registered, tmp_path: Path) -> None:
    for arguments, output, sentence in (
        (["nowhere"], None, "nowhere does not exist"),
        ([str(tmp_path)], None, "there is no file in"),
        (["nowhere"], tmp_path / "a.txt", "ends in .csv or .parquet"),
        (["nowhere"], tmp_path / "b/a.csv", "not a file that can be written"),
    ):
        with pytest.raises(RequestError, match=sentence):
            command(project.root, arguments, output, None, False, False)
    with pytest.raises(RequestError, match="has no version 9"):
        command(project.root, [str(project.pictures[0])], None, "9", False, False)


def test_csv_parquet_and_json_say_the_same(
    project: Registered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = odd_folder(tmp_path / "odd")
    (line,) = command(project.root, [str(folder)], folder / "answers.csv", None, True, False).lines()
    assert re.fullmatch(
        r"version 1: 1 of 7 files answered, [01] abstained, [01] unfamiliar, 6 with an error; .*/odd/answers.csv", line
    )
    (folder / "answers.csv").rename(tmp_path / "answers.csv")
    command(project.root, [str(folder)], tmp_path / "answers.parquet", None, True, False)
    command(project.root, [str(folder)], None, None, True, True)
    as_json = json.loads(capsys.readouterr().out)
    command(project.root, [str(folder)], None, None, True, False)  # what a pipe gets
    with (tmp_path / "answers.csv").open(newline="") as file:
        as_csv = list(csv.DictReader(file))
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == as_csv
    as_parquet = pd.read_parquet(tmp_path / "answers.parquet").astype(object)
    as_parquet = as_parquet.where(as_parquet.notna(), None)
    assert as_parquet.to_dict("records") == as_json
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in as_json] == as_csv
    assert [*as_json[0]][-3:] == ["probability_0", "probability_1", "probability_2"]


def test_only_what_changed_is_answered_anew(project: Registered, served: Served, tmp_path: Path) -> None:
    write_images(tmp_path / "some", per_class=2)
    before = rows(project, served, tmp_path / "some")
    silent = Served(replace(served.package, model=None))  # has to look everything up
    assert rows(project, silent, tmp_path / "some") == before
    (tmp_path / "some/0/000.png").write_bytes((tmp_path / "some/2/001.png").read_bytes())
    after = rows(project, silent, tmp_path / "some")
    assert after[0] == before[-1]._replace(path=before[0].path)
    assert after[1:] == before[1:]
    project.promote("2")
    other = prediction.load(project.root, None)
    project.promote("1")
    assert [row.version for row in rows(project, other, tmp_path / "some")] == ["2"] * 6
    assert rows(project, other, tmp_path / "some")[1].probabilities != after[1].probabilities


def test_the_champion_is_the_ledgers_whatever_the_alias_says(
    project: Registered, caplog: pytest.LogCaptureFixture
) -> None:
    project.point("2")
    try:
        assert prediction.load(project.root, None).number == "1"
    finally:
        project.point("1")
    assert "the alias champion stands on version 2, the ledger names version 1, which answers" in caplog.text


def test_a_picture_that_an_old_version_cannot_read_has_its_reason_in_its_row(
    project: Registered, served: Served
) -> None:
    """Its code is of its day: what it raises has a type of its own, and today's decoder reads the picture."""
    old = Served(replace(served.package, digest="old"))
    model, bad = old._python_model, project.pictures[1].read_bytes()

    class Old:
        classes = model.classes

        def predict(self, context: None, frame: pd.DataFrame) -> pd.DataFrame:
            if frame["image"][0] == bad:
                raise MlflowException("1 of 1 rows hold no image")
            return model.predict(context, frame)

    old.__dict__["_python_model"] = Old()
    told = rows(project, old, *project.pictures[:3])
    assert [row.error for row in told] == [None, "version 1 failed on a sound picture: 1 of 1 rows hold no image", None]
    assert told[1].label is None and told[2].label is not None


def test_a_damaged_store_is_named(project: Registered, served: Served) -> None:
    damaged = Served(replace(served.package, digest="damaged"))
    rows(project, damaged, project.pictures[0])
    (path,) = (p for p in (project.root / FOLDER).glob("*.sqlite") if kept(p) == 1)
    for part in (path, *path.parent.glob(f"{path.name}-*")):
        part.write_bytes(b"no database" * 1000)
    with pytest.raises(IntegrityError, match=f"{path.name}.*delete it"):
        rows(project, damaged, project.pictures[0])
    path.unlink()
    assert rows(project, damaged, project.pictures[0])[0].error is None


def kept(store: Path) -> int:
    with closing(sqlite3.connect(store)) as database, suppress(sqlite3.OperationalError):  # not made yet
        return int(database.execute("SELECT count(*) FROM answers").fetchone()[0])
    return 0


def test_a_killed_run_goes_on_and_writes_the_bytes_of_an_undisturbed_one(
    project: Registered, isolated: dict[str, str], tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", per_class=80)
    undisturbed, killed = tmp_path / "undisturbed.csv", tmp_path / "killed.csv"
    request: dict[str, Any] = {"version": None, "probabilities": True, "as_json": False}
    with inside(project.copy(tmp_path / "other")) as other:
        command(other.root, [str(images)], undisturbed, **request)

    arguments = [str(BIN / "regraft"), "predict", str(images), "--output", str(killed), "--probabilities"]
    running = subprocess.Popen(arguments, cwd=project.root, env=isolated, stderr=subprocess.DEVNULL)
    before = sum(map(kept, (project.root / FOLDER).glob("*.sqlite")))
    answered = lambda: sum(map(kept, (project.root / FOLDER).glob("*.sqlite"))) - before  # noqa: E731
    while answered() < 20:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert 20 <= answered() < 240
    assert not killed.exists()
    command(project.root, [str(images)], killed, **request)
    assert killed.read_bytes() == undisturbed.read_bytes()
    assert len(killed.read_text().splitlines()) == 241
