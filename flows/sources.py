"""The images' source and its mirror in data/raw: new pictures in the source are found by the next nightly run."""

import logging
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from flows.arrival import put_in_place
from flows.folder_walk import Walk
from flows.graph import Graph
from flows.lost_classes import record_lost
from steps.errors import RequestError
from steps.images.manifest import LISTINGS, SHARDS
from steps.runtime import files
from steps.runtime.progress import track

log = logging.getLogger("regraft")
SOURCE = "data/source.json"
RAW, BACKBONE = "data/raw", "data/backbone"
MEMORY = ".regraft/packed.parquet"  # deleting it costs time, never bytes
FICLONE = 0x40049409  # Linux: share the blocks of another file


def refresh(root: Path) -> Graph:
    """Mirror the source into data/raw, update DVC, and return the graph; RequestError if there are no images."""
    put_in_place(root)  # what a killed `use` had prepared
    source = read_source(root)
    if source is not None:
        mirror(source, root / RAW, root / MEMORY)
    if not (root / RAW).is_dir():
        remedy = "`dvc pull` fetches them" if (root / f"{RAW}.dvc").exists() else "`regraft use IMAGES` sets them"
        raise RequestError(f"there are no images in {RAW}; {remedy} (`regraft use digits`: the embedded example)")
    graph = Graph(root)
    for path in (RAW, BACKBONE):  # DVC and the lineage must reflect manual changes
        if (root / path).exists():
            graph.add(path)
    if "validate" in graph.stages:
        record_lost(graph, root / RAW, root / SOURCE)
    return graph


@dataclass(frozen=True)
class Source:
    """Where the images come from: a folder, or a listing whose folder holds them.

    `packed`: whether the mirror holds shards; None: if the files are so many and so small that it pays.
    `follow_links`: links may lead out of the folder.
    """

    path: Path
    packed: bool | None = False
    follow_links: bool = False

    @property
    def folder(self) -> Path:
        """Return the folder that is mirrored."""
        return self.path if self.path.is_dir() else self.path.parent


def write_source(root: Path, source: Source | None, state: Mapping[str, object] = {}) -> None:
    """Record the images' source, and the `state` of its classes; None: `data/raw`, which is not a mirror."""
    path, packed, follow = (str(source.path.resolve()), *astuple(source)[1:]) if source else (None, None, False)
    files.write_json(root / SOURCE, {"images": path, "packed": packed, "follow_links": follow, **state})


def read_source(root: Path) -> Source | None:
    """Return the images' source, None if there is none to mirror. RequestError if it no longer exists."""
    recorded = root / SOURCE
    if not recorded.exists():
        return None
    try:
        document = files.read_json(recorded)
        path, packed, follow = document["images"], document.get("packed"), document.get("follow_links", False)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{SOURCE} is damaged; `regraft use IMAGES` writes it anew") from None
    if path is None:
        return None
    if not Path(path).exists():
        raise RequestError(f"the images' source {path} does not exist (any more); `regraft use IMAGES` sets another")
    return Source(Path(path), packed, follow)


def mirror(source: Source, raw: Path, memory: Path) -> tuple[int, int]:
    """Make `raw` match the source; return how many files (or shards) were written and how many removed.

    The source is never changed. Files of the same size and time count as equal, as in rsync; packing keeps both in
    `memory`. Stale files are removed last: if a file cannot be read or written, the old images are still there.
    Raises RequestError then, DataError for a wrong listing.
    """
    wanted = contents(source)
    try:
        packed = _worthwhile(wanted.values()) if source.packed is None else source.packed
        loose = {name: origin for name, origin in wanted.items() if not packed or name in LISTINGS}
        raw.mkdir(parents=True, exist_ok=True)
        stale = [path for path in raw.rglob("*") if path.is_file() and not _belongs(path, raw, loose, packed)]
        first = _in_the_way(stale, {*(raw / name for name in loose), *([raw / SHARDS] if packed else [])})
        _clear(first, raw)
        in_order = track(sorted(loose.items()), len(loose), "mirroring images")
        copied = sum(_copy(origin, raw / name) for name, origin in in_order)
        if packed:
            from steps.images.packing import pack

            copied += pack({name: origin for name, origin in wanted.items() if name not in loose}, raw, memory)
        _clear(set(stale) - first, raw)
        return copied, len(stale)
    except OSError as error:
        raise RequestError(f"{error.filename or raw} cannot be mirrored: {error.strerror or error}") from None


def _worthwhile(origins: Iterable[Path]) -> bool:
    from steps.images.shard_layout import pays

    sizes = [origin.stat().st_size for origin in origins]
    return pays(len(sizes), sum(sizes))


def _belongs(path: Path, raw: Path, loose: Container[str], packed: bool) -> bool:
    return path.relative_to(raw).as_posix() in loose or (packed and path.parent == raw / SHARDS)


def _in_the_way(stale: list[Path], written: set[Path]) -> set[Path]:
    """Return the stale files that block a folder, or lie in a folder that blocks a file (or the shards)."""
    folders = {folder for path in written for folder in path.parents} if stale else set()
    return {p for p in stale if p in written or p in folders or not written.isdisjoint(p.parents)}


def contents(source: Source) -> dict[str, Path]:
    """Return the files to mirror, by their POSIX path in the mirror.

    Hidden files and the system's files are skipped; so are, with a warning, links that go round in circles, links of
    files that lead nowhere, and names that are not UTF-8 (DVC cannot hold them). Raises RequestError if nothing is
    left, as on a disk that is not mounted or has its names in another character set, if a folder cannot be read (its
    images would count as removed), or if a link leads out of the folder or may have been a folder.
    """
    try:
        origins = dict(_listed(source) if source.path.is_file() else _walk(source))
    except OSError as error:
        raise RequestError(f"{error.filename or source.path} cannot be read: {error.strerror or error}") from None
    unspeakable = [name for name in origins if not files.speakable(name)]
    for name in unspeakable:
        log.warning("passed over: the name %r is not UTF-8; rename it", name)
        del origins[name]
    if set(origins.values()) <= {source.path}:
        raise RequestError(f"{source.path} {'names no file that is there' if origins else 'holds no files of images'}")
    return origins


def _walk(source: Source) -> Iterator[tuple[str, Path]]:
    walk = Walk(source.folder, source.follow_links)
    yield from walk.files()
    walk.judge()


def _listed(source: Source) -> Iterator[tuple[str, Path]]:
    """Yield the listing, under the name that `ingest` looks for, and the files that it names."""
    from steps.images import listing

    yield f"listing{source.path.suffix.lower()}", source.path
    for name in listing.read(source.path)["path"]:
        if (source.folder / name).is_file():
            yield name, source.folder / name


def _copy(origin: Path, target: Path) -> bool:
    facts = origin.stat()
    if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns):
        return False
    with files.replacing(target) as temporary:
        _clone(origin, temporary)
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return True


def _clone(origin: Path, target: Path) -> None:
    """Share the file's blocks if the file system can (btrfs, XFS); else copy them."""
    import fcntl

    with origin.open("rb") as read, target.open("wb") as write:
        try:
            fcntl.ioctl(write.fileno(), FICLONE, read.fileno())
        except OSError:
            shutil.copyfileobj(read, write, 2**20)


def _clear(stale: Iterable[Path], folder: Path) -> None:
    """Remove files, then empty folders, the deepest first: the folder of a removed class is removed, too."""
    for path in stale:
        path.unlink()
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
