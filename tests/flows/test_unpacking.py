"""Archives, shards and tables with pictures inside: read like folders, unpacked once, and never beyond their root."""

import bz2
import csv
import io
import itertools
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import sources, unpacking
from flows.sources import Source, mirror
from steps.errors import RequestError
from tests.conftest import tree, write
from tests.corpus import PNG
from tests.flows.test_layouts import TWO, assert_reads, expanded

BLOCK = tarfile.BLOCKSIZE
TWO_CLASSES = "cat 3 dog 3 | hash 6 | 0 | 0"
NO_LABELS = ('{"label": null}', '"label"', "3", '{"label": true}', '{"label": {"name": "x"}}', '{"label": [1]}')
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def pictures(pattern: str) -> dict[str, bytes]:
    return {name: PNG if name.endswith(".png") else b"a note" for name in expanded(pattern)}


def zipped(path: Path, content: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, content: Mapping[str, bytes], hard: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Write a tar; `hard` are hard links, name -> the member that holds the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in hard.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            archive.addfile(member)
    return path


def struck(tar: Path) -> Path:
    """Damage the header of the second member; the first one takes two blocks."""
    data = tar.read_bytes()
    tar.write_bytes(data[: 2 * BLOCK] + b"\xff" * 100 + data[2 * BLOCK + 100 :])
    return tar


def shard(path: Path, labels: str, suffix: str = "cls") -> Path:
    """Write a WebDataset shard with a picture per letter of `labels`; a hyphen is a picture without a label."""
    content = {}
    for number, label in enumerate(labels):
        content[f"{number:06}.png"] = PNG
        if label != "-":
            content[f"{number:06}.{suffix}"] = (
                label.encode() if suffix == "cls" else json.dumps({"label": label}).encode()
            )
    return tarred(path, content)


def parquet(path: Path, labels: list[int | None], *, named: bool = True, column: str = "image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = pa.array([{"bytes": PNG, "path": f"{i}.png"} for i in range(len(labels))])
    notes = {"huggingface": json.dumps({"info": {"features": FEATURES}})} if named else {}
    pq.write_table(pa.table({column: held, "label": labels}).replace_schema_metadata(notes), path)
    return path


def metadata(folder: Path, rows: Mapping[str, str], suffix: str = "csv") -> None:
    """Write pictures and Hugging Face's table beside them."""
    write(folder, dict.fromkeys(rows, PNG))
    if suffix == "jsonl":
        lines = [json.dumps({"file_name": name, "label": label}) for name, label in rows.items()]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        return
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label"), *rows.items()])


def two_splits(folder: Path, suffix: str) -> Path:
    metadata(folder / "train", {"1.png": "cat", "2.png": "dog", "deep/3.png": "dog"}, suffix)
    metadata(folder / "test", {"1.png": "cat", "2.png": ""}, suffix)
    return folder


def several(*made: Path) -> Path:
    return made[0].parent


CONTAINERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip of class folders": (lambda at: zipped(at / "a.zip", pictures(TWO)), TWO_CLASSES),
    "zip of a wrapped folder": (
        lambda at: zipped(at / "a.zip", pictures(f"photos/{{Train,Test}}/{TWO} __MACOSX/photos/._x photos/.DS_Store")),
        "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    ),
    "zip with Windows separators": (
        lambda at: zipped(at / "a.zip", {name.replace("/", "\\"): data for name, data in pictures(TWO).items()}),
        TWO_CLASSES,
    ),
    "zip of a listing": (
        lambda at: zipped(
            at / "a.zip", {**pictures("p/{1,2}.png"), "p/listing.csv": b"file;class\n1.png;x\n2.png;y\n"}
        ),
        "x 1 y 1 | hash 2 | 0 | 0",
    ),
    "tar": (lambda at: tarred(at / "a.tar", pictures(TWO)), TWO_CLASSES),
    "tar.gz": (lambda at: tarred(at / "a.tar.gz", pictures(f"./photos/{TWO}")), TWO_CLASSES),
    "hard links": (
        lambda at: tarred(at / "a.tgz", pictures(TWO), {"fox/1.png": "dog/3.png", "fox/2.png": "cat/1.png"}),
        "cat 3 dog 3 fox 2 | hash 8 | 0 | 0",
    ),
    "a zip for each split": (
        lambda at: several(zipped(at / "d/train.zip", pictures(TWO)), zipped(at / "d/test.zip", pictures(TWO))),
        "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    ),
    "a tar for each class": (
        lambda at: several(
            tarred(at / "d/n01.tar", pictures("{1,2}.png")), tarred(at / "d/n02.tar", pictures("1.png"))
        ),
        "n01 2 n02 1 | hash 3 | 0 | 0",
    ),
    "archives in an archive": (
        lambda at: zipped(
            at / "a.zip",
            {f"{name}.zip": zipped(at / "b.zip", pictures(TWO)).read_bytes() for name in ("train", "test")},
        ),
        "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    ),
    "too deep": (
        lambda at: zipped(
            at / "a.zip",
            {"b.zip": zipped(at / "b.zip", {"c.zip": zipped(at / "c.zip", pictures(TWO)).read_bytes()}).read_bytes()},
        ),
        "refused: holds no picture that can be used",
    ),
    "WebDataset shard": (lambda at: shard(at / "a.tar", "0011"), "0 2 1 2 | hash 4 | 0 | 0"),
    "WebDataset shards": (
        lambda at: several(
            shard(at / "d/x-train-000000.tar", "01"),
            shard(at / "d/x-train-000001.tar", "01-"),
            shard(at / "d/x-val-0.tar", "1"),
        ),
        "0 2 1 3 | test 1 train* 4 | 1 | 0",
    ),
    "WebDataset with JSON": (lambda at: shard(at / "a.tar", "ab", "json"), "a 1 b 1 | hash 2 | 0 | 0"),
    "class folders with a JSON document": (
        lambda at: tarred(at / "a.tar", {**pictures(TWO), "info.json": b'{"label": "pets"}'}),
        "cat 3 dog 3 | hash 6 | 0 | 1",
    ),
    "class folders with JSON that holds no label": (
        lambda at: tarred(
            at / "a.tar",
            {**pictures(TWO), **dict(zip(expanded("{cat,dog}/{1,2,3}.json"), map(str.encode, NO_LABELS), strict=True))},
        ),
        "cat 3 dog 3 | hash 6 | 0 | 6",
    ),
    "WebDataset with numbers in JSON": (
        lambda at: tarred(at / "a.tar", {**pictures("{1,2}.png"), "1.json": b'{"label": 0}', "2.json": b"[]"}),
        "0 1 | hash 1 | 1 | 0",
    ),
    "Parquet with class names": (lambda at: parquet(at / "a.parquet", [0, 1, 1]), "cat 1 dog 2 | hash 3 | 0 | 0"),
    "Parquet with numbers": (
        lambda at: parquet(at / "a.parquet", [0, 1, 1, None], named=False, column="img"),
        "0 1 1 2 | hash 3 | 1 | 0",
    ),
    "Parquet with numbers out of range": (
        lambda at: parquet(at / "a.parquet", [0, 1, -2, 2, -1]),
        "-2 1 2 1 cat 1 dog 1 | hash 4 | 1 | 0",
    ),
    "Parquet files for each split": (
        lambda at: several(
            parquet(at / "d/train-00000-of-00002.parquet", [0, 1]),
            parquet(at / "d/train-00001-of-00002-0f1e2d3c.parquet", [0, 1]),
            parquet(at / "d/test-00000-of-00001.parquet", [1]),
            *write(at / "d", {"README.md": b"a card"}).values(),
        ),
        "cat 2 dog 3 | test 1 train* 4 | 0 | 0",
    ),
    "Parquet folders for each split": (
        lambda at: several(
            parquet(at / "d/default/train/0000.parquet", [0, 1]), parquet(at / "d/default/test/0000.parquet", [1])
        ).parents[1],
        "cat 1 dog 2 | test 1 train* 2 | 0 | 0",
    ),
    "metadata.csv": (lambda at: two_splits(at / "d", "csv"), "cat 2 dog 2 | test 1 train* 3 | 1 | 0"),
    "metadata.jsonl": (lambda at: two_splits(at / "d", "jsonl"), "cat 2 dog 2 | test 1 train* 3 | 1 | 0"),
    "zip with metadata.csv": (
        lambda at: zipped(
            at / "a.zip", {**pictures("d/{1,2}.png"), "d/metadata.csv": b"file_name,label\n1.png,x\n2.png,y\n"}
        ),
        "x 1 y 1 | hash 2 | 0 | 0",
    ),
    # refused
    "leads out": (
        lambda at: zipped(at / "a.zip", {"../x.png": PNG}),
        "refused: a.zip holds '../x.png'; leads out of it",
    ),
    "absolute": (lambda at: tarred(at / "a.tar", {"/tmp/x.png": PNG}), "refused: a.tar holds '/tmp/x.png'"),
    "a drive": (lambda at: zipped(at / "a.zip", {"C:\\x.png": PNG}), "refused: holds 'C:; leads out of it"),
    "no archive": (lambda at: write(at, {"a.zip": b"no"})["a.zip"], "refused: a.zip cannot be unpacked"),
    "damaged": (
        lambda at: write(at, {"b.tgz": tarred(at / "a.tgz", pictures(TWO)).read_bytes()[:90]})["b.tgz"],
        "refused: b.tgz cannot be unpacked",
    ),
    "two archives of one name": (
        lambda at: several(zipped(at / "d/cats.zip", pictures(TWO)), tarred(at / "d/cats.tar", pictures(TWO))),
        "refused: cats.zip; cats.tar; would share one folder; rename one",
    ),
    "cut off": (
        lambda at: write(at, {"b.tar": tarred(at / "a.tar", pictures(TWO)).read_bytes()[: 2 * BLOCK]})["b.tar"],
        "refused: b.tar cannot be unpacked; no end mark",
    ),
    "a damaged header": (lambda at: struck(tarred(at / "a.tar", pictures(TWO))), "refused: a.tar; no end mark"),
    "a damaged header, compressed": (
        lambda at: write(at, {"b.tbz2": bz2.compress(struck(tarred(at / "a.tar", pictures(TWO))).read_bytes())})[
            "b.tbz2"
        ],
        "refused: b.tbz2 cannot be unpacked; no end mark",
    ),
    "no pictures inside": (lambda at: zipped(at / "a.zip", {".hidden": b""}), "refused: a.zip holds no files"),
    "nothing inside": (lambda at: tarred(at / "a.tar", {}), "refused: a.tar holds no files"),
    "a listing of other files": (
        lambda at: zipped(
            at / "a.zip", {**pictures("p/{1,2}.png"), "p/listing.csv": b"path,label\n7.png,x\n8.png,y\n"}
        ),
        "refused: 2 of 2 rows name no file; looked in; a.zip/p for 7.png",
    ),
    "an archive inside that is damaged": (
        lambda at: zipped(at / "a.zip", {"train.zip": b"no", "test.zip": b"no"}),
        "refused: a.zip/; cannot be unpacked",
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_read_as_a_folder_or_refused(tmp_path: Path, name: str) -> None:
    make, expected = CONTAINERS[name]
    assert_reads(Source(make(tmp_path), store=tmp_path / "store"), expected)
    assert not list((tmp_path / "store").rglob("partial/*")) or expected.startswith("refused")


def test_an_archive_is_unpacked_again_only_if_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, raw, memory = zipped(tmp_path / "a.zip", pictures(TWO)), tmp_path / "raw", tmp_path / "memory"
    source = Source(path, store=tmp_path / "store")
    assert mirror(source, raw, memory) == (6, 0)
    assert sources.survey(source).notes == ("unpacked: a.zip",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpacking, "Unpacking", None)
        assert mirror(source, raw, memory) == (0, 0)
    zipped(path, {**pictures("{cat,dog}/{1,2}.png"), "cat/9.png": PNG + b" "})
    mirror(source, raw, memory)
    assert sorted(tree(raw)) == sorted(expanded("{cat,dog}/{1,2}.png cat/9.png"))
    assert len([path for path in source.home.iterdir() if path.is_dir()]) == 1, "the older state is removed"


def test_links_and_devices_of_an_archive_are_passed_over(tmp_path: Path) -> None:
    path = tarred(tmp_path / "a.tar", pictures(TWO))
    with tarfile.open(path, "a") as archive:
        for name, kind in (
            ("cat/link.png", tarfile.SYMTYPE),
            ("cat/hard.png", tarfile.LNKTYPE),
            ("cat/p", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert_reads(Source(path, store=tmp_path / "store"), TWO_CLASSES)


def test_an_archive_in_an_archive_may_be_larger_than_any_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kaggle's cats and dogs: train.zip, 540 MB, in one zip with test1.zip."""
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as inner:
        for label in ("cat", "dog"):
            for number in range(5):
                inner.writestr(f"{label}/{number}.png", bytes(200))
        inner.writestr("cat/huge.png", bytes(1001))
    assert (tmp_path / "train.zip").stat().st_size > 2 * 1000
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as outer:
        outer.write(tmp_path / "train.zip", "train.zip")
    seen = sources.survey(sources.Source(tmp_path / "all.zip", store=tmp_path / "store"))
    assert sorted(seen.files) == sorted(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(5))


def test_an_archive_may_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = unpacking.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage._replace(free=2 * 2 * unpacking.BLOCK))
    for path in (zipped(tmp_path / "a.zip", pictures(TWO)), tarred(tmp_path / "a.tar", pictures(TWO))):
        with pytest.raises(RequestError, match="would take more than half of the free disk"):
            sources.contents(Source(path, store=tmp_path / "store"))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_is_bounded_and_no_memory_is_taken_for_it(tmp_path: Path, kind: bytes) -> None:
    head = tarfile.TarInfo("x")
    head.type, head.size = kind, 2**32
    (tmp_path / "a.tar").write_bytes(head.tobuf() + tarred(tmp_path / "b.tar", pictures(TWO)).read_bytes())
    expected = "refused: a.tar cannot be unpacked: a header of 4,294,967,296 bytes; at most 1,048,576"
    assert_reads(Source(tmp_path / "a.tar", store=tmp_path / "store"), expected)


def sparse(path: Path, blocks: int, *, cut: bool = False) -> Path:
    """Write a tar whose first member is a sparse file in GNU's form, with `blocks` more blocks in its map."""
    head = tarfile.TarInfo("cat/0.png")
    head.type, head.size = tarfile.GNUTYPE_SPARSE, len(PNG)
    first = bytearray(head.tobuf(tarfile.GNU_FORMAT))
    entry = b"%011o\0%011o\0" % (0, len(PNG))
    first[386 : 386 + len(entry)] = entry
    first[482], first[483:495] = bool(blocks), b"%011o\0" % len(PNG)
    first[148:156] = b"        "
    first[148:156] = b"%06o\0 " % sum(first)
    map_blocks = [bytes(504) + bytes([number < blocks - 1]) + bytes(7) for number in range(blocks)]
    body = PNG + bytes(-len(PNG) % BLOCK)
    rest = b"" if cut else body + tarred(path.with_name("rest.tar"), pictures(TWO)).read_bytes()
    path.write_bytes(bytes(first) + b"".join(map_blocks[: 1 if cut else None])[: BLOCK // 2 if cut else None] + rest)
    return path


SPARSE = {
    "a map in the header": (0, False, "cat 4 dog 3 | hash 7 | 0 | 0"),
    "a map of three more blocks": (3, False, "cat 4 dog 3 | hash 7 | 0 | 0"),
    "a map of two mebibytes": (4096, False, "refused: the map of a sparse file is longer than 1,048,576 bytes"),
    "a map that is cut off": (3, True, "refused: it is cut off in the map of a sparse file"),
}


@pytest.mark.parametrize("name", SPARSE)
def test_the_map_of_a_sparse_file_is_read_and_bounded(tmp_path: Path, name: str) -> None:
    blocks, cut, expected = SPARSE[name]
    assert_reads(Source(sparse(tmp_path / "a.tar", blocks, cut=cut), store=tmp_path / "store"), expected)


def test_the_map_of_a_sparse_file_in_the_pax_form_is_bounded(tmp_path: Path) -> None:
    member = tarfile.TarInfo("cat/0.png")
    member.size = 2**22
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    lines = b"4000000\n" + b"0\n" * 2**20
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(lines + bytes(2**22 - len(lines))))
    expected = "refused: the map of a sparse file is longer than 1,048,576 bytes"
    assert_reads(Source(tmp_path / "a.tar", store=tmp_path / "store"), expected)


def test_long_names_and_attributes_of_a_tar_are_read(tmp_path: Path) -> None:
    name = f"{'deep/' * 40}1.png"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form, pax_headers={"comment": "x" * 10_000}) as archive:
            for label in ("cat", "dog"):
                member = tarfile.TarInfo(f"{label}/{name}")
                member.size, member.pax_headers = len(PNG), {"SCHILY.xattr.user.note": "y" * 10_000}
                archive.addfile(member, io.BytesIO(PNG))
        assert_reads(Source(tmp_path / "a.tar", store=tmp_path / "store"), "cat 1 dog 1 | hash 2 | 0 | 0")


def test_a_kill_while_an_archive_is_unpacked_leaves_what_the_next_look_mends(tmp_path: Path) -> None:
    source = Source(zipped(tmp_path / "a.zip", pictures(TWO)), store=tmp_path / "store")
    whole = unpacking.Unpacking._write
    for stop in (0, 3):
        left = itertools.count()

        def dies(self: unpacking.Unpacking, *arguments: object, left: itertools.count = left, stop: int = stop) -> None:
            if next(left) == stop:
                raise KeyboardInterrupt
            whole(self, *arguments)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(unpacking.Unpacking, "_write", dies)
            sources.contents(source)
    assert_reads(source, TWO_CLASSES)
    assert not (source.home / "partial").exists()
