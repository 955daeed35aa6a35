"""`regraft use` killed at its writes: the project is as before or as after, and the next `use` leaves no trace."""

import os
import shutil
import signal
import sys
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import arrival, use
from flows.project import enter, running
from flows.sources import BACKBONE, RAW, SOURCE
from steps.backbones.backbone import build
from steps.runtime import files
from tests.conftest import make_project, tree, write_images

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
POINTS = 6
NOT_OURS = (".dvc", ".git")


def at_writes(root: Path, act: Callable[[int], None]) -> None:
    """Call `act` with 0, 1, 2 ... before each change below `root` that this process makes from now on."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (event == "open" and arguments[2] & WRITING)
        if changes and isinstance(arguments[0], str | os.PathLike) and str(arguments[0]).startswith(str(root)):
            count[0] += 1
            act(count[0] - 1)

    sys.addaudithook(hook)


def used(
    root: Path, images: Path, environment: dict[str, str], kill_at: int | None = None, weights: str | None = None
) -> int:
    """Run `use` in a process, killed before write `kill_at`; return how many writes there were, -1 if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(environment)
            torch.set_num_threads(1)  # threads do not survive a fork
            last = [0]

            def act(number: int) -> None:
                last[0] = number + 1
                if number == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            at_writes(root, act)
            with running(enter(root)):
                use.use(root, str(images), "squeezenet1_1" if weights else "glyphnet", weights, False)
            os.write(writing, str(last[0]).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reading) as answer:
        assert status in (0, -signal.SIGKILL)
        return int(answer.read()) if status == 0 else -1


def state(root: Path) -> dict[str, bytes]:
    held = {f"{folder}/{name}": data for folder in (RAW, BACKBONE) for name, data in tree(root / folder).items()}
    return held | {name: (root / name).read_bytes() for name in ("params.yaml", SOURCE)}


def names(root: Path) -> set[str]:
    return {name for name in tree(root) if not name.startswith(NOT_OURS)}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, isolated: dict[str, str]) -> Path:
    """Make a project that uses a folder and squeezenet1_1; beside it lies an archive of other images."""
    home = tmp_path_factory.mktemp("kills")
    images, other = write_images(home / "images", 2), write_images(home / "other", 3, classes=2)
    with zipfile.ZipFile(home / "other.zip", "w") as archive:
        for path in sorted(other.rglob("*.png")):
            archive.write(path, path.relative_to(home))
    files.write_tensors(home / "base.safetensors", build("squeezenet1_1", 3).state_dict())
    root = make_project(home / "project", isolated).root
    assert used(root, images, isolated, weights=str(home / "base.safetensors")) > 0
    return root


def points(count: int) -> list[float]:
    """Return shares of all writes, evenly spread over them."""
    return [(number + 0.5) / count for number in range(count)]


@pytest.mark.parametrize("count", [POINTS, pytest.param(60, marks=pytest.mark.exhaustive)])
def test_a_kill_leaves_the_project_before_or_after_and_the_next_use_no_trace(
    before: Path, isolated: dict[str, str], tmp_path: Path, count: int
) -> None:
    whole = Path(shutil.copytree(before, tmp_path / "whole", symlinks=True))
    old, archive = state(whole), before.parent / "other.zip"
    writes = used(whole, archive, isolated)
    new, clean = state(whole), names(whole)
    assert writes > 20 and new != old

    for share in points(count):
        root = Path(shutil.copytree(before, tmp_path / "killed", symlinks=True))
        assert used(root, archive, isolated, kill_at=int(share * writes)) == -1
        arrival.put_in_place(root)  # as the next command does
        assert state(root) in (old, new), share
        assert used(root, archive, isolated) > 0
        assert state(root) == new, share
        assert names(root) == clean, share
        shutil.rmtree(root)


def test_temporary_files_of_killed_processes_are_swept_and_others_are_left(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    left = [f".{os.getppid()}-abcdefgh", ".hidden-file", ".1-a"]
    for name in (f".{child}-abcdefgh", f".{os.getpid()}-abcdefgh", *left):
        (tmp_path / name).write_text("")
    files.sweep(tmp_path)
    assert sorted(tree(tmp_path)) == sorted(left)
