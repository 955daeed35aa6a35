"""Archives, WebDataset shards and tables with pictures inside, unpacked into a folder of the project's store."""

import hashlib
import io
import json
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, TYPE_CHECKING, NamedTuple

from steps.errors import RequestError
from steps.images.layouts import is_note, split_named, splits_named
from steps.images.manifest import LISTINGS
from steps.runtime import files
from steps.runtime.progress import track

if TYPE_CHECKING:
    import pyarrow as pa

SAVE = "save each picture as FOLDER/CLASS/NUMBER.png (e.g. `PIL.Image.fromarray(x).save(...)`)"
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = (".zip", ".parquet", *TARS)
MAX_BYTES = 256 * 2**20  # of one file: `images.decoding` reads no larger ones
MAX_HEADER = 2**20  # bytes of a tar's extended header: names and attributes of one file
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
LEVELS = 2  # archives in an archive, as Kaggle packs splits; no deeper: an archive may hold itself
BLOCK = 4096  # what a file takes on a disk, however small it is
PART = re.compile(r"-\d+-of-\d+.*")  # what Hugging Face appends to the name of a split
LONGEST = 255  # bytes of a name, as file systems have it
PICTURES = ("image", "img", "picture", "jpg", "png", "bytes")  # columns of pictures
LABELS = ("label", "labels", "class", "target", "category", "cls", "fine_label")
# What is read by other programs: what it is, and the one way to a folder.
OTHERS = {
    ".rar": ("a RAR archive", "unpack it, e.g. `unrar x FILE FOLDER/`"),
    ".7z": ("a 7-Zip archive", "unpack it, e.g. `7z x FILE -oFOLDER`"),
    **dict.fromkeys((".h5", ".hdf5", ".npz", ".npy", ".mat", ".pkl", ".pt"), ("a file of arrays", SAVE)),
    **dict.fromkeys((".tfrecord", ".tfrecords", ".lmdb", ".mdb", ".arrow"), ("a database of records", SAVE)),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), ("a spreadsheet", "save it as CSV with the columns path,label")),
    ".json": ("a JSON document", "write a CSV file with the columns path,label"),
}
FAULTS = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)


class Labelled(NamedTuple):
    """A row of the listing that is written beside unpacked pictures."""

    path: str
    label: str
    split: str


def holds_pictures(path: Path) -> bool:
    """Return True if a file is an archive, or a Parquet table with pictures (or their bytes) in a column."""
    if path.suffix.lower() != ".parquet":
        return path.name.lower().endswith(ARCHIVES)
    import pyarrow.parquet as pq

    try:
        return _picture_column(pq.read_schema(path)) is not None
    except (OSError, ValueError):
        return False


def unpacked(folder: Path, paths: Sequence[Path], home: Path) -> Path:
    """Return the folder in `home` that holds what these archives below `folder` hold; unpacks them if they changed.

    Several archives get a folder each, by their names. Raises RequestError for one that is damaged or encrypted, holds
    a path that leads out of it, or needs more than half of the free disk, and for two of one name.
    """
    stems = _stems(folder, paths)
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    target = home / hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    if not target.is_dir():
        shutil.rmtree(home, ignore_errors=True)  # an older state, or what a kill has left
        home.mkdir(parents=True)
        unpacking = Unpacking(home / "partial", shutil.disk_usage(home).free // 2)
        unpacking.fill(stems)
        unpacking.root.rename(target)
    return _within(target)


def _stems(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Return archives by their name without a suffix; RequestError if two share one: they would mix in one folder."""
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(_stem(path.relative_to(folder)), path)
        if other != path:
            raise RequestError(f"{other} and {path} would share one folder; rename one, or move it out of {folder}")
    return stems


def _stem(path: Path) -> str:
    name = path.as_posix()
    suffix = next(suffix for suffix in sorted(ARCHIVES, key=len, reverse=True) if name.lower().endswith(suffix))
    return name[: -len(suffix)]


def _splits(stems: Collection[str]) -> dict[str, str]:
    """Return the splits that stems stand for, "" for none: `train-00000-of-00002-0f1e2d`, `default/train/0000`."""
    names = {stem: PART.sub("", PurePosixPath(stem).name) for stem in stems}
    named = splits_named(set(names.values()))
    above = {stem: next(filter(None, map(split_named, PurePosixPath(stem).parts[-2::-1])), "") for stem in stems}
    return {stem: named.get(names[stem]) or above[stem] for stem in stems}


def _within(folder: Path) -> Path:
    """Enter folders that hold nothing but one folder."""
    children = list(folder.iterdir())
    return _within(children[0]) if len(children) == 1 and children[0].is_dir() else folder


@dataclass
class Unpacking:
    """A folder that is being filled, with the bytes that it may still take."""

    root: Path
    left: int
    rows: list[Labelled] = field(default_factory=list)

    def fill(self, archives: Mapping[str, Path]) -> None:
        """Unpack archives, stem -> path, and write the labels that they hold as a listing."""
        self.root.mkdir()
        splits = _splits(archives)
        for stem, path in archives.items():
            split = splits[stem]
            below = stem if len(archives) > 1 else ""
            try:
                self._unpack(path, below, split)
            except FAULTS as error:
                why = str(error).split("\n")[0].rstrip(":")  # tarfile adds a line for each way that it has tried
                raise RequestError(f"{path} cannot be unpacked: {why}") from None
        if self.rows and not any((self.root / name).exists() for name in LISTINGS):
            import pandas as pd

            pd.DataFrame(self.rows).to_csv(self.root / LISTINGS[0], index=False, lineterminator="\n")

    def _unpack(self, path: Path, below: str, split: str) -> None:
        if path.suffix.lower() == ".parquet":
            self._table(path, below or "images", split)
        elif path.suffix.lower() == ".zip":
            self._zip(path, below)
        else:
            self._tar(path, below)
            self.rows += _labels_beside(self.root, below, split)

    def _zip(self, path: Path, below: str) -> None:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if any(member.flag_bits & 1 for member in members):
                raise RequestError(f"{path} is encrypted; unpack it and `regraft use` the folder")
            if sum(member.file_size for member in members) > self.left:
                raise RequestError(self._too_large(path))
            for member in track(members, len(members), "unpacking"):
                if not stat.S_ISLNK(member.external_attr >> 16):
                    self._add(path, below, member.filename, member.file_size, partial(archive.open, member))

    def _tar(self, path: Path, below: str) -> None:
        with tarfile.open(path, tarinfo=_Member) as archive:
            regular: dict[str, tarfile.TarInfo] = {}
            for member in archive:
                member.pax_headers = {}  # read, and kept for every member otherwise
                if member.isreg():
                    regular[member.name] = member
                    self._add(path, below, member.name, member.size, partial(archive.extractfile, member))
            _refuse_cut_off(archive)
            hard = [
                (regular[link.linkname], link.name) for link in archive if link.islnk() and link.linkname in regular
            ]
            for member, name in sorted(hard, key=lambda pair: pair[0].offset):  # a compressed archive is read in order
                self._add(path, below, name, member.size, partial(archive.extractfile, member))

    def _table(self, path: Path, below: str, split: str) -> None:
        for number, (data, suffix, label) in enumerate(_pictures(path)):
            name = f"{number:08}{suffix}"
            self._write(path, PurePosixPath(below, name), io.BytesIO(data), len(data))
            self.rows.append(Labelled(f"{below}/{name}", label, split))

    def _add(self, path: Path, below: str, name: str, size: int, opened: Callable[[], IO[bytes] | None]) -> None:
        """Unpack a regular file, unless it is the system's or no picture can be as large; an archive in it may be."""
        inner = PurePosixPath(name.replace("\\", "/"))
        if inner.is_absolute() or ".." in inner.parts or "\0" in name or PureWindowsPath(name).drive:
            raise RequestError(f"{path} holds {name!r}, which leads out of it; unpack it yourself and `use` the folder")
        litter = any(files.passed_over(part) or len(part.encode(errors="replace")) > LONGEST for part in inner.parts)
        if litter or not inner.parts or (size > MAX_BYTES and not inner.name.lower().endswith(ARCHIVES)):
            return
        with opened() as stream:  # type: ignore[union-attr]  # None for members that are no regular files
            self._write(path, PurePosixPath(below, inner), stream, size)

    def _write(self, path: Path, name: PurePosixPath, stream: IO[bytes], size: int) -> None:
        """Write a file of this size; RequestError if so much is not left of the disk."""
        self.left -= max(size, BLOCK)
        if self.left < 0:
            raise RequestError(self._too_large(path))
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        with (self.root / name).open("wb") as file:
            shutil.copyfileobj(stream, file)

    @staticmethod
    def _too_large(path: Path) -> str:
        return f"{path} would take more than half of the free disk; unpack it elsewhere and `regraft use` the folder"


class _Member(tarfile.TarInfo):
    """A member whose extended headers are bounded: tarfile reads them whole, whatever size they claim."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:  # tarfile's own point of extension
        known = sum(map(len, archive.pax_headers.values())) if self.type == tarfile.XGLTYPE else 0
        if self.type in EXTENDED and self.size + known > MAX_HEADER:
            raise ValueError(f"a header of {self.size + known:,} bytes; at most {MAX_HEADER:,} are read")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]

    def _proc_sparse(self, archive: tarfile.TarFile) -> tarfile.TarInfo:  # GNU's own form of a sparse file
        with _bounded(archive):
            return super()._proc_sparse(archive)  # type: ignore[misc,no-any-return]

    def _proc_gnusparse_10(self, member: tarfile.TarInfo, headers: object, archive: tarfile.TarFile) -> None:  # pax 1.0
        with _bounded(archive):
            super()._proc_gnusparse_10(member, headers, archive)  # type: ignore[misc]


@dataclass
class _MapReader:
    """The file of an archive while the map of a sparse member is read from it."""

    file: IO[bytes]
    left: int = field(default=MAX_HEADER, init=False)

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes; EOFError if the file ends before, ValueError beyond the bound."""
        self.left -= size
        if self.left < 0:
            raise ValueError(f"the map of a sparse file is longer than {MAX_HEADER:,} bytes; pack it without --sparse")
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError("it is cut off in the map of a sparse file")
        return data

    def tell(self) -> int:
        return self.file.tell()


@contextmanager
def _bounded(archive: tarfile.TarFile) -> Iterator[None]:
    """Bound what is read from an archive: tarfile follows the blocks of a map for as long as they name another."""
    file = archive.fileobj
    archive.fileobj = _MapReader(file)  # type: ignore[assignment,arg-type]
    try:
        yield
    finally:
        archive.fileobj = file


def _refuse_cut_off(archive: tarfile.TarFile) -> None:
    """Raise ReadError if no empty block ends the members: tarfile itself stops without a word at a damaged one."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is damaged or cut off: no end mark where its members stop")


def _labels_beside(root: Path, below: str, split: str) -> list[Labelled]:
    """Return the pictures of a WebDataset shard: `000001.jpg` has its label in `000001.cls` or `000001.json`.

    If no picture has such a label, the tar is no shard, whatever other documents it holds.
    """
    members: dict[str, list[Path]] = {}
    for path in sorted((root / below).rglob("*")):
        if path.is_file():
            members.setdefault((path.parent / path.name.split(".")[0]).as_posix(), []).append(path)
    rows = []
    for group in members.values():
        label = next(filter(None, map(_label_in, group)), "")
        pictures = [path for path in group if path.suffix.lower() != ".cls" and not is_note(path.name)]
        rows += [Labelled(path.relative_to(root).as_posix(), label, split) for path in pictures]
    return rows if any(row.label for row in rows) else []


def _label_in(path: Path) -> str:
    """Return the label that a file beside a picture holds, "" if none."""
    if path.suffix == ".cls":
        return path.read_text(encoding="utf-8", errors="replace").strip()
    if path.suffix == ".json":
        with suppress(ValueError):
            document = json.loads(path.read_text(encoding="utf-8"))
            values = [document.get(name) for name in LABELS] if isinstance(document, dict) else []
            labels = [str(value) for value in values if isinstance(value, str | int) and not isinstance(value, bool)]
            return next(filter(None, labels), "")
    return ""


def _pictures(path: Path) -> Iterator[tuple[bytes, str, str]]:
    """Yield the bytes, suffix and label of each row of a Parquet table, as Hugging Face writes it."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path)
    image, names = _picture_column(table.schema_arrow), _class_names(table.schema_arrow)
    label = next((name for name in LABELS if name in table.schema_arrow.names), None)
    for batch in table.iter_batches(batch_size=64, columns=[image, *([label] if label else [])]):
        for row in batch.to_pylist():
            held = row[image] if isinstance(row[image], dict) else {"bytes": row[image], "path": None}
            if held.get("bytes") is None:
                raise RequestError(f"{path} refers to pictures that it does not hold (column {image})")
            suffix = PurePosixPath(held.get("path") or "").suffix
            yield held["bytes"], suffix if suffix[1:].isalnum() else "", _label(row.get(label), names.get(label, []))


def _label(value: object, names: Sequence[str]) -> str:
    if value is None or value == -1:  # Hugging Face's sign for no label
        return ""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)


def _picture_column(schema: "pa.Schema") -> str | None:
    """Return the column that holds pictures: a struct with `bytes`, or bytes under a usual name."""
    import pyarrow as pa

    for column in schema:
        if pa.types.is_struct(column.type) and "bytes" in [inner.name for inner in column.type]:
            return str(column.name)
    binary = [c.name for c in schema if pa.types.is_binary(c.type) or pa.types.is_large_binary(c.type)]
    return next((name for name in binary if name.lower() in PICTURES), None)


def _class_names(schema: "pa.Schema") -> dict[str | None, list[str]]:
    """Return the names of the classes of each column of whole numbers, from Hugging Face's note in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: list(map(str, feature["names"])) for name, feature in features.items() if "names" in feature}
    except (KeyError, ValueError, TypeError):
        return {}
