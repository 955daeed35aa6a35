"""Files named on the command line by folders, patterns, listings and names; what ingest would skip is skipped."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from steps.errors import RequestError
from steps.images import listing
from steps.runtime import files

LISTINGS = (".csv", ".parquet")


class Named(NamedTuple):
    """A file, its printable (UTF-8) path, and the reason if it is not read."""

    name: str
    path: Path
    fault: str = ""


def find(arguments: Sequence[str], besides: Path | None = None) -> list[Named]:
    """Return the files, each once: in the order of the arguments, sorted by name inside a folder.

    Folders are searched recursively; a listing (.csv, .parquet) names files in its column `path`. `besides` is left
    out: the answers may be written among the pictures. Raises RequestError if an argument leads to no file.
    """
    named: dict[str, Named] = {}
    for argument in arguments:
        for file in _meant(argument):
            if besides is None or file.path.absolute() != besides.absolute():
                named.setdefault(file.name, file)
    if not named:
        raise RequestError(f"there is no file in {', '.join(arguments)}")
    return list(named.values())


def _meant(argument: str) -> Iterator[Named]:
    path = Path(argument).expanduser()
    if not os.path.lexists(path):
        # A pattern in quotes, which no shell has expanded; pathlib's own glob takes no absolute ones.
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        if not matches:
            raise RequestError(f"{argument} does not exist; expected a folder, a picture, a pattern or a listing")
        for match in matches:
            yield from _meant(match)
    elif path.is_dir():
        yield from _walk(path)
    elif path.suffix.lower() in LISTINGS:
        yield from (_named(path.parent / name) for name in listing.paths(path))
    else:
        yield _named(path)


def _walk(folder: Path) -> Iterator[Named]:
    try:
        children = sorted(path for path in folder.iterdir() if not files.passed_over(path.name))
    except OSError as error:
        yield _named(folder)._replace(fault=f"cannot be read: {error.strerror}")
        return
    for child in children:
        if child.is_dir() and not child.is_symlink():
            yield from _walk(child)
        elif child.is_dir():
            yield _named(child)._replace(fault="a linked folder; it may loop, so name the folder itself")
        else:
            yield _named(child)


def _named(path: Path) -> Named:
    if files.speakable(str(path)):
        return Named(str(path), path)
    return Named(str(path).encode(errors="backslashreplace").decode(), path, "the name is not UTF-8; rename it")
