"""The images' source and its mirror in data/raw: new pictures in the source are found by the next nightly run."""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from flows import unpacking
from flows.arrival import put_in_place
from flows.folder_walk import Walk
from flows.graph import Graph
from flows.lost_classes import record_lost
from steps.errors import DataError, RequestError
from steps.images import layouts
from steps.images.manifest import LISTINGS, SHARDS
from steps.runtime import files
from steps.runtime.progress import track

if TYPE_CHECKING:  # pandas: most runs find a folder, and load no table
    from flows.label_tables import Table

log = logging.getLogger("regraft")
TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of Hugging Face's image folders
SOURCE = "data/source.json"
RAW, BACKBONE = "data/raw", "data/backbone"
MEMORY, STORE = ".regraft/packed.parquet", ".regraft/sources"  # deleting them costs time, never bytes
FICLONE = 0x40049409  # Linux: share the blocks of another file


def refresh(root: Path) -> Graph:
    """Mirror the source into data/raw, update DVC, and return the graph; RequestError if there are no images."""
    put_in_place(root)  # what a killed `use` had prepared
    source = read_source(root)
    if source is not None:
        mirror(source, root / RAW, root / MEMORY)
    return tracked(root, source)


def tracked(root: Path, source: "Source | None") -> Graph:
    """Return the graph once DVC reflects images and backbone; RequestError if there are no images."""
    _forget_others(root / STORE, source)
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


def _forget_others(store: Path, source: "Source | None") -> None:
    if store.is_dir():
        for path in store.iterdir():
            if source is None or path != source.home:
                shutil.rmtree(path)
            else:
                files.sweep(path)


@dataclass(frozen=True)
class Source:
    """Where the images come from: a folder, or a listing whose folder holds them.

    `packed`: whether the mirror holds shards; None: if the files are so many and so small that it pays. `labels`: the
    folder that names the class, as in `layouts.read`. `follow_links`: links may lead out of the folder. `store`, in
    the project: what has to be made of a source before it can be mirrored; deleting it costs time, never bytes.
    """

    path: Path
    packed: bool | None = False
    labels: str | None = None
    follow_links: bool = False
    store: Path = field(default=Path(STORE), compare=False)

    @property
    def folder(self) -> Path:
        """Return the folder that is mirrored."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def home(self) -> Path:
        """Return the folder of the store that belongs to this source."""
        return self.store / hashlib.sha256(str(self.path).encode()).hexdigest()[:16]

    def shown(self, text: str) -> str:
        """Return a text that names the source itself instead of the folders into which it was unpacked."""
        return re.sub(rf"{re.escape(str(self.home))}(/[0-9a-f]{{16}})*", lambda _: str(self.path), text)


def write_source(root: Path, source: Source | None, state: Mapping[str, object] = MappingProxyType({})) -> None:
    """Record the images' source, and the `state` of its classes; None: `data/raw`, which is not a mirror."""
    recorded: dict[str, object] = {"images": None, "packed": None, "follow_links": False}
    if source:
        recorded = {"images": str(source.path.resolve()), "packed": source.packed, "follow_links": source.follow_links}
        recorded |= {"labels": source.labels} if source.labels else {}
    files.write_json(root / SOURCE, {**recorded, **state})


def read_source(root: Path) -> Source | None:
    """Return the images' source, None if there is none to mirror. RequestError if it no longer exists."""
    recorded = root / SOURCE
    if not recorded.exists():
        return None
    try:
        document = files.read_json(recorded)
        path, packed, labels = document["images"], document.get("packed"), document.get("labels")
        follow = document.get("follow_links", True)  # older releases followed links to files
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{SOURCE} is damaged; `regraft use IMAGES` writes it anew") from None
    if path is None:
        return None
    if not Path(path).exists():
        raise RequestError(f"the images' source {path} does not exist (any more); `regraft use IMAGES` sets another")
    return Source(Path(path), packed, labels, follow, root / STORE)


def mirror(source: Source, raw: Path, memory: Path, seen: "Survey | None" = None) -> tuple[int, int]:
    """Make `raw` match the source; return how many files (or shards) were written and how many removed.

    `seen` is the source's survey, if there is one already. The source is never changed. Files of the same size and
    time count as equal, as in rsync; packing keeps both in `memory`. Stale files are removed last: if a file cannot be
    read or written, the old images are still there.
    Raises RequestError then, DataError for a wrong listing.
    """
    wanted = seen.files if seen else contents(source)
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


@dataclass(frozen=True)
class Survey:
    """The files of a source, by their POSIX path in the mirror, and how its labels were understood."""

    files: dict[str, Path]
    notes: tuple[str, ...] = ()
    folder: Path = Path()  # that a listing's paths are relative to
    missing: tuple[str, ...] = ()  # paths of a listing that name no file


def contents(source: Source) -> dict[str, Path]:
    """Return the files to mirror, as `survey` does."""
    return survey(source).files


def survey(source: Source) -> Survey:
    """Return the files to mirror, from an archive as well.

    A listing that needs translation, and labels that no folder states, become a `listing.csv` in the project's store.
    Raises RequestError if nothing is left, as on a disk that is not mounted or has its names in another character set,
    or if a folder cannot be read: its images would count as removed. Raises DataError for a wrong listing.
    """
    try:
        seen = _surveyed(source)
    except OSError as error:
        wrong = f"{error.filename or source.path} cannot be read: {error.strerror or error}"
        raise RequestError(source.shown(wrong)) from None
    except (RequestError, DataError) as error:
        raise type(error)(source.shown(str(error))) from None
    return replace(seen, notes=tuple(map(source.shown, seen.notes)))


def _surveyed(source: Source) -> Survey:
    if source.path.is_dir():
        return _in_folder(source, unpacking.LEVELS)
    if unpacking.holds_pictures(source.path):
        return _unpacked(source, source.path.parent, [source.path], unpacking.LEVELS)
    return _in_table(source)


def _in_table(source: Source) -> Survey:
    from flows import label_tables

    _refuse_labels(source)
    return _listed(source, label_tables.read(source.path))


def _refuse_labels(source: Source) -> None:
    if source.labels:
        raise RequestError(f"--labels {source.labels} is about folders, and {source.path} brings a listing of its own")


def files_below(folder: Path, follow_links: bool = False) -> dict[str, Path]:
    """Return the files of a folder by POSIX path, whatever they are.

    Hidden files and the system's files are skipped; so are, with a warning, links that go round in circles, links of
    files that lead nowhere, and names that are not UTF-8 (DVC cannot hold them). Raises RequestError as `survey` does,
    and if a link leads out of the folder (unless `follow_links`) or may have been a folder.
    """
    walk = Walk(folder, follow_links)
    try:
        origins = dict(walk.files())
    except OSError as error:
        raise RequestError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from None
    walk.judge()
    for name in [name for name in origins if not files.speakable(name)]:
        log.warning("passed over: the name %r is not UTF-8; rename it", name)
        del origins[name]
    if not origins:
        raise RequestError(f"{folder} holds no files of images")
    return origins


def _in_folder(source: Source, levels: int) -> Survey:
    """Survey a folder; one that holds only archives is unpacked, up to `levels` deep."""
    origins = files_below(source.folder, source.follow_links)
    archives = [path for path in origins.values() if path.name.lower().endswith(unpacking.ARCHIVES)]
    others = [path for path in origins.values() if not layouts.is_note(path.name)]
    if levels and archives and all(map(unpacking.holds_pictures, others)):
        return _unpacked(source, source.path, archives, levels)
    own = next((name for name in LISTINGS if name in origins), None)
    if not own and not source.labels:
        return _with_metadata(source, origins)
    table = _table(source, origins, own)
    if not own or table.folder != source.folder:
        return _listed(source, table)
    if table.notes:  # what is not listed is mirrored, too
        del origins[own]
        origins["listing.csv"] = _translated(source, table)
    return Survey(origins, table.notes, table.folder, table.missing)


def _unpacked(source: Source, folder: Path, archives: list[Path], levels: int) -> Survey:
    inside = unpacking.unpacked(folder, archives, source.home)
    seen = _in_folder(replace(source, path=inside, store=source.home), levels - 1)
    return replace(seen, notes=(f"unpacked: {', '.join(path.name for path in archives[:3])}", *seen.notes))


def _with_metadata(source: Source, origins: dict[str, Path]) -> Survey:
    """Survey a folder by its metadata files if there are any and they name every picture, else by its folders."""
    metadata = [name for name in origins if PurePosixPath(name).name in METADATA]
    if not metadata:
        return Survey(origins)
    from flows import label_tables

    pictures = [name for name in origins if name not in metadata and not layouts.is_note(name)]
    try:
        return _listed(source, label_tables.metadata(source.folder, metadata, pictures))
    except DataError as error:
        return Survey(origins, (f"the metadata files ({metadata[0]} ...) are not used: {error}",))


def _table(source: Source, origins: Mapping[str, Path], own: str | None) -> "Table":
    """Return the labels that a listing or `source.labels` gives."""
    from flows import label_tables

    if own:
        _refuse_labels(source)
        return label_tables.read(origins[own])
    return label_tables.of_reading(layouts.read(layouts.grown(origins), source.labels), source.folder)


def _listed(source: Source, table: "Table") -> Survey:
    """Return the files that a table names, and the listing under the name that `ingest` looks for."""
    from flows import label_tables

    named = {name: table.folder / name for name in table.rows["path"] if (table.folder / name).is_file()}
    if not named:
        raise RequestError(
            f"{source.path} names no file that is there; {label_tables.lost(table.folder, table.missing)}"
        )
    own = f"listing{source.path.suffix.lower()}"
    if source.path.is_file() and own in LISTINGS and not table.notes:
        named[own] = source.path
    else:
        named["listing.csv"] = _translated(source, table)
    return Survey(named, table.notes, table.folder, table.missing)


def _translated(source: Source, table: "Table") -> Path:
    from flows import label_tables

    return label_tables.write(table, source.home / "listing.csv")


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
