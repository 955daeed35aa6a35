"""Atomic replacement of data, params, backbone and source for `regraft use`: a staging folder, then renames."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steps.errors import RequestError
from steps.runtime import files

# Both are on the file system of what they replace, and laid out like the project. The first is discarded after a
# kill; the second is complete, and the next `use` or run continues to put it in place.
INCOMING, ARRIVED = "data/.incoming", "data/.arrived"
PIECES = ("data/raw", "params.yaml", "data/backbone", "data/source.json", "data/lost_classes.json")


@contextmanager
def incoming(root: Path) -> Iterator[Path]:
    """Yield an empty folder; the `PIECES` that it holds at the end replace those of the project.

    Raises RequestError, with nothing changed, if they cannot be replaced.
    """
    folder = root / INCOMING
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    try:
        yield folder
        folder.rename(root / ARRIVED)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    put_in_place(root)


def put_in_place(root: Path) -> None:
    """Put a complete arrival in place, if there is one; RequestError if that fails, with the old state restored."""
    for folder in _written_to(root):
        files.sweep(folder)
    arrived = root / ARRIVED
    if not arrived.is_dir():
        return
    done: list[str] = []
    try:
        for piece in PIECES:
            if (arrived / piece).exists():
                done.append(piece)
                _put(arrived / piece, root / piece)
    except BaseException as error:
        for piece in reversed(done):
            _put_back(arrived / piece, root / piece)
        if not any(os.path.lexists(_old(arrived / piece)) for piece in PIECES):  # else a killed `use` moved some
            shutil.rmtree(arrived)
        if isinstance(error, OSError):
            message = f"{error.filename or done[-1]} cannot be replaced: {error.strerror or error}"
            raise RequestError(f"{message}; what was there is there still") from None
        raise
    shutil.rmtree(arrived)


def _old(new: Path) -> Path:
    return new.with_name(f"old {new.name}")


def _put(new: Path, target: Path) -> None:
    """Move a piece into place; the old one stays beside `new` until everything has been moved.

    Never writes into an old folder: DVC may have linked its files into the cache. A file is rewritten, because
    params.yaml may be on another file system than the data.
    """
    old = _old(new)
    if new.is_dir():
        if os.path.lexists(target):
            target.rename(old)
        new.rename(target)
        return
    if target.exists() and not old.exists():
        files.write_text(old, target.read_text(encoding="utf-8"))
    files.write_text(target, new.read_text(encoding="utf-8"))
    new.unlink()


def _put_back(new: Path, target: Path) -> None:
    """Undo `_put`, even if it was interrupted."""
    old = _old(new)
    if target.is_dir() and not new.exists():
        target.rename(new)
    if old.is_file():
        before = old.read_text(encoding="utf-8")
        if target.read_text(encoding="utf-8") != before:  # a full disk need not rewrite the same text
            files.write_text(target, before)
        old.unlink()
    elif os.path.lexists(old):
        old.rename(target)
    elif not new.exists():
        target.unlink()


def _written_to(root: Path) -> Iterator[Path]:
    """Yield the folders in which a killed run may have left a temporary file; data/raw is mirrored, not written to."""
    yield from (root, root / "data", root / ".regraft")
    yield from (path for path in (root / "data").glob("*/") if path.name != "raw")
