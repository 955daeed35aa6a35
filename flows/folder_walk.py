"""The files below a folder: links that stay inside are followed, the litter of systems is counted and left out."""

import logging
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from steps.checks.rule import some
from steps.errors import RequestError
from steps.images.file_kinds import suffix_of
from steps.runtime import files

NESTED = 1  # links inside linked folders; folders that link to one another would have paths without end
log = logging.getLogger("regraft")


@dataclass
class Walk:
    """One pass over a folder; `follow`: links may lead out of it."""

    folder: Path
    follow: bool
    outward: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield each file with its POSIX path below the folder; OSError if a folder cannot be read."""
        yield from self._below(self.folder, (os.path.realpath(self.folder),), 0)

    def _below(self, directory: Path, real: tuple[str, ...], links: int) -> Iterator[tuple[str, Path]]:
        with os.scandir(directory) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        for entry in entries:
            path = directory / entry.name
            if files.passed_over(entry.name):
                self.passed_over[entry.name] += not entry.name.startswith(".")
            elif entry.is_symlink() and not self._followed(path, real, links):
                continue
            elif entry.is_dir():
                chain = (*real, os.path.realpath(path))
                yield from self._below(path, chain, links + entry.is_symlink())
            elif entry.is_file():
                yield path.relative_to(self.folder).as_posix(), path
            else:
                log.warning("passed over: %r is no regular file", str(path))

    def _followed(self, path: Path, real: tuple[str, ...], links: int) -> bool:
        """Return whether a link is followed; if not, note it or log it."""
        target, link = os.path.realpath(path), f"{path.relative_to(self.folder).as_posix()} -> {path.readlink()}"
        if not path.exists():
            self.broken.append(link)
        elif not self.follow and target != real[0] and not Path(target).is_relative_to(real[0]):
            self.outward.append(link)
        elif path.is_dir() and (target in real or links == NESTED):
            log.warning("passed over: %s leads round in a circle", link)
        else:
            return True
        return False

    def judge(self) -> None:
        """Log what was left out; RequestError if it may be a class, or a part of one."""
        if litter := +self.passed_over:
            counts = ", ".join(f"{count} x {name}" for name, count in sorted(litter.items()))
            log.info("passed over, left by the system: %s", counts)
        lost = [link for link in self.broken if not suffix_of(link.split(" -> ")[0])]
        for link in self.broken:
            log.warning("passed over: the link %s leads nowhere", link)
        if lost:
            raise RequestError(
                f"links in {self.folder} lead nowhere, so their classes would be lost: {some(lost)}; bring back what "
                "they lead to (a disk that is not mounted?), or remove the links"
            )
        if self.outward:
            raise RequestError(
                f"links lead out of {self.folder}, so their images and classes would be lost: {some(self.outward)}; "
                f"add --follow-links to the command (or `regraft use {shlex.quote(str(self.folder))} --follow-links`) "
                "to follow them"
            )
