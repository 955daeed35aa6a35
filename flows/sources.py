"""The images' source and its mirror in data/raw: new pictures in the source are found by the next nightly run."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.graph import Graph
from steps.adapters import files
from steps.adapters.progress import track
from steps.errors import RequestError

SOURCE = "data/source.json"
RAW = "data/raw"
FICLONE = 0x40049409  # Linux: share the blocks of another file


def refresh(root: Path) -> None:
    """Mirror the source into data/raw and tell DVC; RequestError where there are no images to run on."""
    source = read_source(root)
    if source is not None:
        mirror(source, root / RAW)
    if not (root / RAW).is_dir():
        told = "`dvc pull` fetches them" if (root / f"{RAW}.dvc").exists() else "`regraft use IMAGES` sets them"
        raise RequestError(f"there are no images in {RAW}; {told} (`regraft use digits`: the embedded example)")
    graph = Graph(root)
    graph.add(RAW)
    graph.close()


@dataclass(frozen=True)
class Source:
    """Where the images come from: a folder, or a listing whose folder holds them."""

    path: Path

    @property
    def folder(self) -> Path:
        """Return the folder that is mirrored."""
        return self.path if self.path.is_dir() else self.path.parent


def write_source(root: Path, path: Path | None) -> None:
    """Remember the images' source; None: the project's own `data/raw`, mirrored from nowhere."""
    files.write_json(root / SOURCE, {"images": str(path.resolve()) if path else None})


def read_source(root: Path) -> Source | None:
    """Return the images' source, None where there is none to mirror. RequestError where it has gone."""
    recorded = root / SOURCE
    if not recorded.exists():
        return None
    path = files.read_json(recorded)["images"]
    if path is None:
        return None
    if not Path(path).exists():
        raise RequestError(f"the images' source {path} does not exist (any more); `regraft use IMAGES` sets another")
    return Source(Path(path))


def mirror(source: Source, raw: Path) -> tuple[int, int]:
    """Make `raw` hold what the source holds; return how many files were copied and how many removed.

    The source is never touched. Files alike in size and time are taken for equal, as rsync does. Linked folders are
    not entered (they may loop) and links that lead nowhere are passed over.
    """
    wanted = dict(_listing(source) if source.path.is_file() else _walk(source.folder))
    raw.mkdir(parents=True, exist_ok=True)
    stale = [path for path in raw.rglob("*") if path.is_file() and path.relative_to(raw).as_posix() not in wanted]
    for path in stale:
        path.unlink()
    _prune(raw)
    files_in_order = track(sorted(wanted.items()), len(wanted), "mirroring images")
    return sum(_copy(origin, raw / name) for name, origin in files_in_order), len(stale)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place) / name
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _listing(source: Source) -> Iterator[tuple[str, Path]]:
    """Yield the listing, under the name that `ingest` looks for, and the files that it names."""
    import pandas as pd

    kind = source.path.suffix.lower()
    table = pd.read_parquet(source.path) if kind == ".parquet" else pd.read_csv(source.path, dtype=str)
    if "path" not in table.columns:
        raise RequestError(f"{source.path.name} has no column 'path'; it has {', '.join(map(str, table.columns))}")
    yield f"listing{kind}", source.path
    root = source.folder.resolve()
    for name in table["path"].dropna().astype(str):
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise RequestError(f"{source.path.name}: {name!r} points outside the listing's folder")
        if path.is_file():
            yield name, path


def _copy(origin: Path, target: Path) -> bool:
    facts = origin.stat()
    if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (
        facts.st_size,
        facts.st_mtime_ns,
    ):
        return False
    with files.replacing(target) as temporary:
        _clone(origin, temporary)
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return True


def _clone(origin: Path, target: Path) -> None:
    """Share the file's blocks where the file system can (btrfs, XFS); copy them elsewhere."""
    import fcntl

    with origin.open("rb") as read, target.open("wb") as write:
        try:
            fcntl.ioctl(write.fileno(), FICLONE, read.fileno())
        except OSError:
            shutil.copyfileobj(read, write, 2**20)


def _prune(folder: Path) -> None:
    """Remove folders that hold nothing, the deepest first; the class folder of a class that is gone goes too."""
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
