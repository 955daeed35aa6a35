"""What DVC's cache holds of the data behind a version: what is missing, what is damaged, and how to mend it."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from steps.runtime import files, progress

NAMED = 10  # damaged files with a command each; mending them comes before a second look


def place_of(store: Path, digest: str) -> Path:
    """Return the path of a digest's bytes in DVC's cache."""
    return store / "files" / "md5" / digest[:2] / digest[2:]


def missing(store: Path, root: Path, path: str, digest: str) -> Iterator[str]:
    """Yield what DVC's cache lacks of a tracked file or folder, and whether the workspace has it."""
    listed = place_of(store, digest)
    if not listed.is_file():
        here = f"{path} in the workspace may be another" if (root / path).exists() else "nor in the workspace"
        yield f"{path} is not in DVC's cache ({here}); `dvc fetch` where it was pushed"
    elif digest.endswith(".dir"):
        entries = listing(store, digest)
        gone = [name for name, md5 in entries.items() if not place_of(store, md5).is_file()]
        if gone:
            shown = ", ".join(f"{path}/{name}" for name in gone[:3])
            yield f"{len(gone)} of {len(entries)} files are not in DVC's cache: {shown}{' ...' if gone[3:] else ''}"


def listing(store: Path, digest: str) -> dict[str, str]:
    """Return the files of a tracked folder by their paths in it, each with its MD5; none if the list is unreadable."""
    path = place_of(store, digest)
    try:
        return {entry["relpath"]: entry["md5"] for entry in files.read_json(path)} if path.is_file() else {}
    except (ValueError, TypeError, KeyError):  # `damaged` names it
        return {}


def damaged(store: Path, root: Path, tracked: Mapping[str, str]) -> Iterator[str]:
    """Hash all that DVC's cache holds of `tracked`, path -> DVC's digest; yield what differs, with the remedy.

    Files are read in blocks: the memory is bounded, however large they are.
    """
    wanted = {path: digest for path, digest in tracked.items() if place_of(store, digest).is_file()}
    for path, digest in list(wanted.items()):
        if digest.endswith(".dir"):
            entries = {f"{path}/{name}": md5 for name, md5 in listing(store, digest).items()}
            wanted |= {name: md5 for name, md5 in entries.items() if place_of(store, md5).is_file()}
    tried = progress.track(wanted.items(), len(wanted), "hashing DVC's cache")
    broken = {path: digest for path, digest in tried if not is_whole(place_of(store, digest), digest)}
    for path, digest in list(broken.items())[:NAMED]:
        yield f"{path} in DVC's cache is not what dvc.lock names: {_remedy(store, root, path, digest)}"
    if len(broken) > NAMED:
        yield f"{len(broken) - NAMED} more files in DVC's cache are damaged: mend those named, then look again"


def is_whole(path: Path, digest: str) -> bool:
    """Return whether a file's bytes are those that DVC's digest names."""
    return files.md5_of(path) == digest.removesuffix(".dir")


def _remedy(store: Path, root: Path, path: str, digest: str) -> str:
    """Return the command that restores a damaged file: from the workspace if that is intact, or from DVC's remote."""
    cached, here = shlex.quote(str(place_of(store, digest))), root / path
    if here.is_file() and is_whole(here, digest):
        return f"the workspace has it: `cp -f {shlex.quote(str(here))} {cached}`"
    return f"`rm -f {cached} && dvc fetch` where it was pushed, or bring {path} back from its source"
