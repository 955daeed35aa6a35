"""The mirror of the images' source."""

import os
from pathlib import Path

import pytest

from flows.sources import Source, mirror
from steps.errors import DataError


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, text in {"cats/1.png": "one", "cats/deep/2.png": "two", "dogs/3.png": "three"}.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(text)
    return tmp_path / "source"


def test_a_mirror_holds_what_the_source_holds_and_a_second_pass_copies_nothing(source: Path, tmp_path: Path) -> None:
    assert mirror(Source(source), tmp_path / "raw") == (3, 0)
    assert tree(tmp_path / "raw") == tree(source)
    assert mirror(Source(source), tmp_path / "raw") == (0, 0)


def test_changed_added_and_removed_files_follow(source: Path, tmp_path: Path) -> None:
    mirror(Source(source), tmp_path / "raw")
    (source / "cats/1.png").write_text("ONE!")
    (source / "birds").mkdir()
    (source / "birds/4.png").write_text("four")
    (source / "dogs/3.png").unlink()
    (source / "dogs").rmdir()
    assert mirror(Source(source), tmp_path / "raw") == (2, 1)
    assert tree(tmp_path / "raw") == tree(source)
    assert not (tmp_path / "raw/dogs").exists(), "an empty folder would be a class without images"


def test_a_folder_that_becomes_a_file(source: Path, tmp_path: Path) -> None:
    mirror(Source(source), tmp_path / "raw")
    (source / "dogs/3.png").unlink()
    (source / "dogs").rmdir()
    (source / "dogs").write_text("now a file")
    mirror(Source(source), tmp_path / "raw")
    assert tree(tmp_path / "raw") == tree(source)


def test_litter_loops_and_dangling_links_are_passed_over_and_links_are_told(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = tree(source)
    (source / "cats/Thumbs.db").write_text("litter")
    (source / "__MACOSX/cats").mkdir(parents=True)
    (source / "__MACOSX/cats/1.png").write_text("litter")
    (source / "linked class").symlink_to(source / "cats", target_is_directory=True)
    os.mkfifo(source / "cats/pipe.png")
    (source / ".DS_Store").write_text("litter")
    (source / "cats/loop").symlink_to(source, target_is_directory=True)
    (source / "cats/nowhere.png").symlink_to(source / "missing.png")
    (source / "cats/self.png").symlink_to(source / "cats/self.png")
    mirror(Source(source), tmp_path / "raw")
    assert tree(tmp_path / "raw") == wanted
    told = [record.getMessage() for record in caplog.records]
    assert all("a linked folder, a link to nowhere, or no regular file" in line for line in told)
    names = ["cats/loop", "cats/nowhere.png", "cats/pipe.png", "cats/self.png", "linked class"]
    assert sorted(line.split("'")[1] for line in told) == [str(source / name) for name in names]


def test_a_write_to_the_mirror_never_reaches_the_source(source: Path, tmp_path: Path) -> None:
    mirror(Source(source), tmp_path / "raw")
    assert (source / "cats/1.png").stat().st_ino != (tmp_path / "raw/cats/1.png").stat().st_ino
    (tmp_path / "raw/cats/1.png").write_text("changed here")
    assert (source / "cats/1.png").read_text() == "one"


def test_a_listing_brings_the_files_that_it_names_and_itself(source: Path, tmp_path: Path) -> None:
    (source / "labels.csv").write_text("path,label\ncats/1.png,cat\ndogs/3.png,dog\nmissing.png,dog\n")
    mirror(Source(source / "labels.csv"), tmp_path / "raw")
    assert set(tree(tmp_path / "raw")) == {"listing.csv", "cats/1.png", "dogs/3.png"}


def test_a_listing_that_points_outside_its_folder_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_text("secret")
    (source / "labels.csv").write_text("path,label\n../secret.png,cat\n")
    with pytest.raises(DataError, match=r"'\.\./secret\.png' points outside"):
        mirror(Source(source / "labels.csv"), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
