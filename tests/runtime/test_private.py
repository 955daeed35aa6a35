"""Private folders: nobody else gets into one, and none outlives its process for long."""

import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steps.errors import RegistryError
from steps.runtime import private

HOLDER = "from steps.runtime import private; held = private.make(); print(held[0], flush=True); input()"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a project's packages lie; its `.regraft` is there, and the system's temporary folder is a test's."""
    (tmp_path / "project/.regraft").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "project/.regraft/packages"


@contextmanager
def holding() -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Run a process that holds a folder; yield both."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER], text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_a_folder_lies_in_the_project_and_is_its_owners_alone(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)  # as another's umask, or another program, left it
    folder, _ = private.make()
    assert folder.parent == place
    assert (mode(folder), mode(place)) == (0o700, 0o700)


def test_without_a_project_it_lies_where_nobody_can_put_another_in_its_place(place: Path, tmp_path: Path) -> None:
    place.parent.rmdir()
    folder, _ = private.make()
    assert (folder.parent, mode(folder)) == (tmp_path / "tmp", 0o700)
    assert not place.parent.exists(), "a project was made where there was none"


def test_a_project_that_others_may_change_holds_no_code_that_is_run(place: Path, tmp_path: Path) -> None:
    for what in ("a link", "a folder that everybody may rename"):
        if what == "a link":
            place.symlink_to(tmp_path)
        else:
            place.unlink()
            place.parent.chmod(0o777)
        assert private.make()[0].parent == tmp_path / "tmp", what


def test_a_temporary_folder_in_which_others_can_exchange_it_is_refused(place: Path, tmp_path: Path) -> None:
    place.parent.rmdir()
    (tmp_path / "tmp").chmod(0o777)
    with pytest.raises(RegistryError, match=r"lets other users rename what lies there.*set TMPDIR"):
        private.make()
    assert not [*(tmp_path / "tmp").iterdir()]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(place: Path) -> None:
    with holding() as (killed, left), holding() as (_, held):
        (left / "regraft-1").mkdir()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.is_dir()
        private.make()
        assert (left.exists(), held.is_dir()) == (False, True)


def test_a_folder_that_is_just_being_made_is_not_swept(place: Path) -> None:
    place.mkdir()
    young = Path(tempfile.mkdtemp(prefix=private.PREFIX, dir=place))
    private.make()
    assert young.is_dir()
