"""Private folders for code that will be run: no other user can write into one or replace it."""

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from steps.errors import RegistryError
from steps.runtime.files import project_root

PREFIX = "regraft-"
OWNER = "owner"  # a file in each folder, locked while its process lives: the kernel unlocks it at a kill


def make() -> tuple[Path, IO[bytes]]:
    """Make a folder of mode 0700; return it and the open file that locks it. Folders of killed processes are removed.

    Raises RegistryError if no folder to make it in is safe from replacement by other users.
    """
    try:
        parent = _in_project() or _elsewhere()
        _sweep(parent)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        return folder, _kept(folder)
    except OSError as error:
        raise RegistryError(f"no private folder can be made for a version's files: {error}; make room there") from None


def _in_project() -> Path | None:
    """Return `.regraft/packages`; None if it cannot be written, or if others own it or a folder above it.

    There is none on a read-only disk or in a container without a project. If other users can access our folder, their
    access is removed.
    """
    folder = project_root() / ".regraft" / "packages"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_mine(folder):
            return None
        folder.chmod(0o700)
        resolved = folder.resolve()
        owners = {above.stat().st_uid for above in resolved.parents}
    except OSError:
        return None
    ours = owners <= {0, os.geteuid()} and os.access(resolved, os.W_OK)
    return resolved if ours and not _exchangeable(resolved) else None


def _elsewhere() -> Path:
    """Return the system's temporary folder: its sticky bit lets only the owner of a folder rename it.

    A folder made in it is private from the start (mode 0700, a random name). After its removal somebody may make one
    of the same name, but no path of this process leads there any more.
    """
    temporary = Path(tempfile.gettempdir()).resolve()
    owners = {folder.stat().st_uid for folder in (temporary, *temporary.parents)}
    if _exchangeable(temporary) or not owners <= {0, os.geteuid()}:
        raise RegistryError(
            f"{temporary} lets other users rename what lies there, so no version's code can be run from there; set "
            "TMPDIR to a folder of your own, or the sticky bit: chmod +t"
        )
    return temporary


def _exchangeable(folder: Path) -> bool:
    """Return True if all users may rename the contents of this folder or of one above it."""
    modes = [above.stat().st_mode for above in (folder, *folder.parents)]
    return any(mode & stat.S_IWOTH and not mode & stat.S_ISVTX for mode in modes)


def _is_mine(folder: Path) -> bool:
    facts = folder.lstat()
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()


def _kept(folder: Path) -> IO[bytes]:
    """Return the open, locked file OWNER; it gets this name after locking, so that no sweep finds it unlocked."""
    file = (folder / f".{OWNER}").open("xb")
    with suppress(OSError):  # on a disk without locks, where a sweep gets none either and removes nothing
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / f".{OWNER}").rename(folder / OWNER)
    return file


def _sweep(parent: Path) -> None:
    """Remove our folders whose process has ended."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another process is sweeping, or the folder's own is alive
            if _is_mine(folder):
                with (folder / OWNER).open("rb+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
