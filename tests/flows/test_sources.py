"""The mirror of the images' source."""

import ast
import errno
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows import overview, sources
from flows.sources import Source, mirror, read_source, write_source
from steps.errors import DataError, RequestError
from steps.images import decoding
from steps.images.shards import Packed
from steps.ingest import IngestParams, SplitLimits, ingest
from tests.conftest import tree, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write(tmp_path / "source", {"cats/1.png": b"one", "cats/deep/2.png": b"two", "dogs/3.png": b"three"})
    return tmp_path / "source"


def test_a_mirror_holds_what_the_source_holds_and_a_second_pass_copies_nothing(source: Path, tmp_path: Path) -> None:
    assert mirror(Source(source), tmp_path / "raw", tmp_path / "memory") == (3, 0)
    assert tree(tmp_path / "raw") == tree(source)
    assert mirror(Source(source), tmp_path / "raw", tmp_path / "memory") == (0, 0)


def test_changed_added_and_removed_files_follow(source: Path, tmp_path: Path) -> None:
    mirror(Source(source), tmp_path / "raw", tmp_path / "memory")
    (source / "cats/1.png").write_text("ONE!")
    (source / "birds").mkdir()
    (source / "birds/4.png").write_text("four")
    (source / "dogs/3.png").unlink()
    (source / "dogs").rmdir()
    assert mirror(Source(source), tmp_path / "raw", tmp_path / "memory") == (2, 1)
    assert tree(tmp_path / "raw") == tree(source)
    assert not (tmp_path / "raw/dogs").exists(), "an empty folder would be a class without images"


def test_a_folder_that_becomes_a_file_and_a_file_that_becomes_a_folder(source: Path, tmp_path: Path) -> None:
    mirror(Source(source), tmp_path / "raw", tmp_path / "memory")
    (source / "dogs/3.png").unlink()
    (source / "dogs").rmdir()
    (source / "dogs").write_text("now a file")
    mirror(Source(source), tmp_path / "raw", tmp_path / "memory")
    assert tree(tmp_path / "raw") == tree(source)
    (source / "dogs").unlink()
    photograph(source / "dogs/again/3.png", 0)
    assert mirror(Source(source), tmp_path / "raw", tmp_path / "memory") == (1, 1)
    assert tree(tmp_path / "raw") == tree(source)


def test_litter_loops_and_dangling_links_are_passed_over_and_links_are_told(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = tree(source)
    write(
        source, dict.fromkeys(("cats/Thumbs.db", "__MACOSX/cats/1.png", "cats/@eaDir/1.png/T.jpg", ".DS_Store"), b"x")
    )
    os.mkfifo(source / "cats/pipe.png")
    (source / "cats/loop").symlink_to(source, target_is_directory=True)
    (source / "cats/nowhere.png").symlink_to(source / "missing.png")
    (source / "cats/self.png").symlink_to(source / "cats/self.png")
    with caplog.at_level("INFO"):
        mirror(Source(source), tmp_path / "raw", tmp_path / "memory")
    assert tree(tmp_path / "raw") == wanted
    told = "\n".join(record.getMessage() for record in caplog.records)
    for sentence in (
        f"passed over: {str(source / 'cats/pipe.png')!r} is no regular file",
        f"passed over: cats/loop -> {source} leads round in a circle",
        f"passed over: the link cats/nowhere.png -> {source / 'missing.png'} leads nowhere",
        f"passed over: the link cats/self.png -> {source / 'cats/self.png'} leads nowhere",
        "passed over, left by the system: 1 x @eaDir, 1 x Thumbs.db, 1 x __MACOSX",
    ):
        assert sentence in told


LINKS = (  # link, what it leads to, what is mirrored of it (with --follow-links), the refusal
    ("dogs/again", "{source}/cats", ["dogs/again/1.png", "dogs/again/deep/2.png"], None),
    ("birds", "../source/cats", ["birds/1.png", "birds/deep/2.png"], None),
    ("dogs/1.png", "../cats/1.png", ["dogs/1.png"], None),
    ("cows", "{elsewhere}/cows", ["cows/4.png"], "lead out of"),
    ("cows", "../elsewhere/cows", ["cows/4.png"], "lead out of"),
    ("dogs/4.png", "{elsewhere}/cows/4.png", ["dogs/4.png"], "lead out of"),
    ("gone", "{elsewhere}/gone", [], "lead nowhere, so their classes would be lost: gone -> "),
)


@pytest.mark.parametrize(("link", "target", "wanted", "refused"), LINKS, ids=[f"{row[0]}-{row[1]}" for row in LINKS])
def test_a_link_that_stays_inside_is_followed_and_one_that_leads_out_is_refused_by_name(
    link: str, target: str, wanted: list[str], refused: str | None, source: Path, tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere", {"cows/4.png": b"four"})
    before = set(tree(source))
    (source / link).symlink_to(target.format(source=source, elsewhere=tmp_path / "elsewhere"))
    for follow in (False, True):
        if refused and not (follow and wanted):
            with pytest.raises(RequestError, match=refused) as caught:
                sources.contents(Source(source, follow_links=follow))
            assert link in str(caught.value) and ("--follow-links" in str(caught.value)) == bool(wanted)
        else:
            assert set(sources.contents(Source(source, follow_links=follow))) == before | set(wanted)


def test_folders_that_link_to_one_another_have_an_end(source: Path) -> None:
    for name in "abcdef":
        write(source, {f"{name}/x.png": b"x"})
        for other in "abcdef":
            (source / name / other).symlink_to(source / other)
    assert 6 < len(sources.contents(Source(source))) < 1500


def test_a_write_to_the_mirror_never_reaches_the_source(source: Path, tmp_path: Path) -> None:
    mirror(Source(source), tmp_path / "raw", tmp_path / "memory")
    assert (source / "cats/1.png").stat().st_ino != (tmp_path / "raw/cats/1.png").stat().st_ino
    (tmp_path / "raw/cats/1.png").write_text("changed here")
    assert (source / "cats/1.png").read_text() == "one"


def test_a_listing_brings_the_files_that_it_names_and_itself(source: Path, tmp_path: Path) -> None:
    (source / "labels.csv").write_text("path,label\ncats/1.png,cat\ndogs/3.png,dog\nmissing.png,dog\n")
    mirror(Source(source / "labels.csv"), tmp_path / "raw", tmp_path / "memory")
    assert set(tree(tmp_path / "raw")) == {"listing.csv", "cats/1.png", "dogs/3.png"}


def test_a_listing_that_points_outside_its_folder_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_text("secret")
    (source / "labels.csv").write_text("path,label\n../secret.png,cat\n")
    with pytest.raises(DataError, match=r"'\.\./secret\.png' points outside"):
        mirror(Source(source / "labels.csv"), tmp_path / "raw", tmp_path / "memory")
    assert not (tmp_path / "raw").exists()


# Packed


def photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def odd_set(folder: Path, layout: str) -> Path:
    """Write images and what goes wrong with them, in one of the layouts; return the source."""
    names = ["ant/1.png", 'ant/it\'s "2" é.png', "bee/deep/1.png", "bee/2.png", "unlabelled/1.png"]
    below = {"class folders": [""], "split folders": ["train/", "val/"], "listing": [""]}[layout]
    for seed, name in enumerate(place + name for place in below for name in names):
        photograph(folder / name, seed)
    (folder / below[0] / "bee/copy.png").write_bytes((folder / below[0] / "ant/1.png").read_bytes())
    (folder / below[0] / "bee/cut.png").write_bytes((folder / below[0] / "ant/1.png").read_bytes()[:60])
    (folder / below[0] / "ant/empty.png").touch()
    (folder / "beside.png").write_bytes(b"of no class")
    if layout != "listing":
        return folder
    rows = [f"{name.replace(chr(34), chr(34) * 2)},{name[:3]}" for name in ("ant/1.png", "bee/2.png", "bee/cut.png")]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows, "gone.png,ant"]) + "\n")
    return folder / "labels.csv"


@pytest.mark.parametrize("layout", ["class folders", "split folders", "listing"])
def test_a_packed_mirror_gives_the_manifest_and_the_quarantine_of_a_loose_one(tmp_path: Path, layout: str) -> None:
    source, made = odd_set(tmp_path / "source", layout), {}
    for packed in (False, True):
        raw = tmp_path / f"raw {packed}"
        mirror(Source(source, packed), raw, tmp_path / "memory")
        assert any(raw.rglob("*.tar")) == packed
        out = tmp_path / f"out {packed}"
        params = IngestParams(validation_share=0.3, test_share=0.2)
        limits = SplitLimits(
            min_train_per_class=1, min_val_per_class=1, min_test_per_class=1, copy_bits=6, copy_correlation=0.99
        )
        ingest(params, limits, raw, out / "manifest.parquet", out / "quarantine.csv")
        made[packed] = tree(out)
    assert made[True] == made[False]
    assert b"cut.png" in made[True]["quarantine.csv"]


@pytest.mark.parametrize("name", ["x" * 242 + ".png", "x" * 251 + ".png", "ж" * 125 + ".png", "図" * 83 + ".png"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_name_as_long_as_the_file_system_allows_is_mirrored(name: str, packed: bool, tmp_path: Path) -> None:
    (tmp_path / "source" / "ant").mkdir(parents=True)
    (tmp_path / "source" / "ant" / name).write_bytes(b"picture")
    mirror(Source(tmp_path / "source", packed), tmp_path / "raw", tmp_path / "memory")
    if packed:
        assert Packed(tmp_path / "raw").paths == [f"ant/{name}"]
    else:
        assert (tmp_path / "raw" / "ant" / name).read_bytes() == b"picture"


def test_a_mirror_changes_its_form_and_keeps_nothing_of_the_other(source: Path, tmp_path: Path) -> None:
    raw, memory = tmp_path / "raw", tmp_path / "memory"
    mirror(Source(source, packed=False), raw, memory)
    mirror(Source(source, packed=True), raw, memory)
    assert {path.parent.name for path in raw.rglob("*") if path.is_file()} == {"shards"}
    assert mirror(Source(source, packed=True), raw, memory) == (0, 0)
    mirror(Source(source, packed=False), raw, memory)
    assert tree(raw) == tree(source)


@pytest.mark.parametrize("name", ["shards", "shards/1.png", "shards/deep/1.png", "shards/index.parquet/1.png"])
def test_a_class_of_the_name_of_the_shards_gives_way_to_them_and_comes_back(
    source: Path, tmp_path: Path, name: str
) -> None:
    raw, memory = tmp_path / "raw", tmp_path / "memory"
    photograph(source / "1.png", 0)
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / "1.png").rename(source / name)
    mirror(Source(source, packed=False), raw, memory)
    mirror(Source(source, packed=True), raw, memory)
    assert {path.suffix for path in raw.rglob("*") if path.is_file()} == {".tar", ".parquet"}
    assert sorted(path.name for path in raw.iterdir()) == ["shards"]
    assert decoding.reader(raw)(name) == (source / name).read_bytes()
    mirror(Source(source, packed=False), raw, memory)
    assert tree(raw) == tree(source)


def vanished(patch: pytest.MonkeyPatch, source: Path) -> None:
    found = sources.contents(Source(source))
    patch.setattr(sources, "contents", lambda _: found | {"dogs/gone.png": source / "dogs/gone.png"})


def full_disk(patch: pytest.MonkeyPatch, _: Path) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(sources.files, "replacing", refuse)


@pytest.mark.parametrize("fault", [vanished, full_disk])
@pytest.mark.parametrize("packed", [True, False])
def test_a_change_of_form_that_fails_leaves_the_old_images(
    source: Path, tmp_path: Path, packed: bool, fault: Callable[[pytest.MonkeyPatch, Path], None]
) -> None:
    raw, memory = tmp_path / "raw", tmp_path / "memory"
    mirror(Source(source, packed=not packed), raw, memory)
    before = tree(raw)
    with pytest.MonkeyPatch.context() as patch:
        fault(patch, source)
        with pytest.raises(RequestError, match="cannot be mirrored: No "):
            mirror(Source(source, packed), raw, memory)
    assert before.items() <= tree(raw).items()
    mirror(Source(source, packed), raw, memory)
    assert not before.keys() & tree(raw).keys()


def test_another_source_that_cannot_be_read_leaves_the_images_of_the_one_before(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(Source(source), tmp_path / "raw", tmp_path / "memory")
    before = tree(tmp_path / "raw")
    photograph(tmp_path / "other/birds/1.png", 0)
    vanished(monkeypatch, tmp_path / "other")
    with pytest.raises(RequestError, match=r"dogs/gone\.png cannot be mirrored: No such file"):
        mirror(Source(tmp_path / "other"), tmp_path / "raw", tmp_path / "memory")
    assert before.items() <= tree(tmp_path / "raw").items()


def test_a_damaged_index_is_packed_anew(source: Path, tmp_path: Path) -> None:
    raw, memory = tmp_path / "raw", tmp_path / "memory"
    mirror(Source(source, packed=True), raw, memory)
    before = tree(raw)
    (raw / "shards/index.parquet").write_bytes(b"PAR1 and nothing else")
    mirror(Source(source, packed=True), raw, memory)
    assert tree(raw) == before


def test_without_a_word_the_form_follows_from_the_number_and_size_of_the_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(Source(source, packed=None), tmp_path / "few", tmp_path / "memory")
    assert tree(tmp_path / "few") == tree(source)
    monkeypatch.setattr("steps.images.shard_layout.PAYS_FROM", 3)
    mirror(Source(source, packed=None), tmp_path / "many", tmp_path / "memory")
    assert (tmp_path / "many/shards/index.parquet").exists()


@pytest.mark.parametrize("packed", [True, False, None])
def test_the_form_that_was_asked_for_is_remembered(source: Path, tmp_path: Path, packed: bool | None) -> None:
    write_source(tmp_path, Source(source, packed, follow_links=True))
    assert read_source(tmp_path) == Source(source, packed, follow_links=True)
    (tmp_path / sources.SOURCE).write_text(f'{{"images": "{source}"}}')  # as an older version wrote it
    assert read_source(tmp_path) == Source(source, None, follow_links=True)


def is_raw(node: ast.expr) -> bool:
    """Say whether an expression is the folder of raw images, by the names that it has in this project."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.lower() == "raw"
        case ast.Constant(value=str(text)):
            return text.rstrip("/").split("/")[-1] == "raw"
        case ast.BinOp(op=ast.Div(), right=last) | ast.Call(args=[*_, last]):
            return is_raw(last)
    return False


def goes_below(node: ast.AST) -> bool:
    """Say whether a path is joined to that folder: with `/`, by a call, or within a text."""
    match node:
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=str(text))) if not is_raw(left):
            return "/raw/" in f"/{text}"
        case ast.BinOp(left=left, op=ast.Div()):
            return is_raw(left)
        case ast.Call(func=ast.Attribute(value=folder, attr="joinpath")) if is_raw(folder):
            return True
        case ast.Call(func=ast.Name(id="Path") | ast.Attribute(attr="Path" | "join" | "joinpath"), args=parts):
            return any(is_raw(part) for part in parts[:-1])
        case ast.JoinedStr(values=[*parts]):
            return any(
                isinstance(one, ast.FormattedValue)
                and is_raw(one.value)
                and isinstance(two, ast.Constant)
                and str(two.value).startswith("/")
                for one, two in pairwise(parts)
            )
    return False


def joins(code: str) -> list[str]:
    """Return the joins in this code; most modules never name the folder, and are not parsed."""
    parsed = ast.parse(code if "raw" in code.lower() else "")
    return [ast.unparse(node) for node in ast.walk(parsed) if goes_below(node)]


JOINED = """
raw / path; root / RAW / path; root / "data/raw" / path; (root / RAW) / path; self.raw / path; Path("raw") / path
raw.joinpath(path); (root / RAW).joinpath(path); root.joinpath(RAW, path); Path(raw, path); os.path.join(raw, path)
root / "data/raw/a.png"; f"{raw}/{path}"; root / sources.RAW / path
"""
NOT_JOINED = """
root / RAW; root / "data/raw"; root / "data" / "raw"; root.joinpath(RAW); f"{RAW}.dvc"; f"{RAW}, {raw}"; raw.rglob(a)
"""


def test_the_guard_below_sees_every_way_to_join_a_path() -> None:
    for statement in JOINED.strip().replace("\n", "; ").split("; "):
        assert joins(statement), statement
    assert joins(NOT_JOINED) == []


def test_no_module_goes_past_the_store_to_the_folder_of_images() -> None:
    """A path joined to `raw` finds nothing where the images are packed."""
    home = Path(__file__).parents[2]
    found = {
        path.relative_to(home).as_posix(): joins(path.read_text(encoding="utf-8"))
        for folder in ("steps", "flows")
        for path in (home / folder).rglob("*.py")
    }
    assert found.pop("steps/images/listing.py") == ["raw / name"] * 2, (
        "the listing, which is never packed, and nothing else"
    )
    store = {"steps/images/decoding.py", "steps/images/shards.py", "steps/images/packing.py", "flows/sources.py"}
    assert {name for name, places in found.items() if places} <= store, "use decoding.bytes_of"


def test_the_same_images_keep_what_was_said_about_them(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    write_source(root, Source(source, labels="leaf", follow_links=True))
    again = overview.source_of(root, str(source), None, None)
    assert (again.labels, again.follow_links) == ("leaf", True)
    other = overview.source_of(root, str(source), None, "top", follow_links=False)
    assert (other.labels, other.follow_links) == ("top", False)
