"""Another source of images: what cannot be taken in whole changes nothing, and a kill leaves what a run mends."""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import arrival, overview, sources, use
from flows.data_gates import checked
from flows.project import STATE
from flows.sources import MEMORY, RAW, Source, contents, mirror, read_source, write_source
from steps.commands.origins import AS_IT_IS
from steps.errors import RequestError
from steps.runtime import files
from tests.conftest import make_project, tree, write

FIRST = {"cats/1.png": b"one", "cats/2.png": b"two", "dogs/3.png": b"three"}
OTHER = {"cats/1.png": b"ONE", "birds/4.png": b"four", "dogs": b"a file where a folder was"}
DIGITS = {"train/0/1.png": b"0", "test/0/2.png": b"00"}


def write_old(folder: Path, content: dict[str, bytes]) -> None:
    for path in write(folder, content).values():
        os.utime(path, (1, 1))


@pytest.fixture
def root(tmp_path: Path, isolated: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project whose images are `FIRST`; the digits are two files, and what follows on a `use` is left out."""
    made = make_project(tmp_path / "project", isolated).root
    monkeypatch.setattr("steps.embedded.digits.write_digits", lambda root, seed: write_old(root, DIGITS))
    monkeypatch.setattr(use, "_refuse_to_lose", lambda _: None)
    monkeypatch.setattr(overview, "_refuse_without_pictures", lambda *_: None)
    monkeypatch.setattr(use, "_inputs", lambda *_: None)
    named = use._backbone
    monkeypatch.setattr(
        use, "_backbone", lambda images, name, weights, _: name and named(images, name, weights, AS_IT_IS)
    )

    class Closed:
        def close(self) -> None: ...

    monkeypatch.setattr(use, "tracked", lambda *_: Closed())
    (made / STATE).mkdir()
    write_old(made / "data/backbone", {"card.json": b"{}"})
    write_old(tmp_path / "first", FIRST)
    write_old(tmp_path / "other", OTHER)
    return made


def set_to(root: Path, images: str, packed: bool | None = False) -> None:
    given = images if images == use.DIGITS else str(root.parent / images)
    use.use(root, given, None, None, False, packed)


def next_run(root: Path) -> dict[str, bytes]:
    """Mirror as the next run does; return what it would ingest, by path."""
    arrival.put_in_place(root)
    source = read_source(root)
    if source:
        mirror(source, root / RAW, root / MEMORY)
    return tree(root / RAW)


def nothing_under_way(root: Path) -> bool:
    return not (root / arrival.INCOMING).exists() and not (root / arrival.ARRIVED).exists()


def test_another_source_takes_the_place_of_the_one_before(root: Path) -> None:
    for images, content in (("first", FIRST), ("other", OTHER), ("digits", DIGITS), ("first", FIRST)):
        set_to(root, images)
        assert tree(root / RAW) == next_run(root) == content
        assert nothing_under_way(root)


def test_a_picture_of_the_same_name_size_and_time_is_not_taken_for_the_one_before(root: Path) -> None:
    set_to(root, "first")
    set_to(root, "other")
    assert (root / RAW / "cats/1.png").read_bytes() == b"ONE"


def test_shards_that_were_packed_elsewhere_are_not_packed_again_where_they_belong(root: Path) -> None:
    set_to(root, "first", packed=True)
    times = {path.name: path.stat().st_ino for path in (root / RAW / "shards").iterdir()}
    assert mirror(Source(root.parent / "first", packed=True), root / RAW, root / MEMORY) == (0, 0)
    assert {path.name: path.stat().st_ino for path in (root / RAW / "shards").iterdir()} == times


def unreadable_file(patch: pytest.MonkeyPatch, root: Path) -> None:
    whole = sources._copy

    def refuse(origin: Path, target: Path) -> bool:
        if origin.read_bytes() == b"four":
            raise PermissionError(13, "Permission denied", str(origin))
        return whole(origin, target)

    patch.setattr(sources, "_copy", refuse)


def unreadable_folder(patch: pytest.MonkeyPatch, root: Path) -> None:
    whole = os.scandir

    def refuse(path: str) -> object:
        if str(path) == str(root.parent / "other/birds"):
            raise PermissionError(13, "Permission denied", path)
        return whole(path)

    patch.setattr(os, "scandir", refuse)


def full_disk(patch: pytest.MonkeyPatch, _: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(sources, "_clone", refuse)


@pytest.mark.parametrize("fault", [unreadable_file, unreadable_folder, full_disk])
def test_a_source_that_cannot_be_taken_in_changes_nothing_the_backbone_neither(
    root: Path, fault: Callable[[pytest.MonkeyPatch, Path], None]
) -> None:
    set_to(root, "first")
    before = tree(root)
    with pytest.MonkeyPatch.context() as patch:
        fault(patch, root)
        with pytest.raises(RequestError, match=r"cannot be (mirrored|read): (Permission denied|No space left)"):
            use.use(root, str(root.parent / "other"), "glyphnet", None, True)
    assert tree(root) == before


def test_weights_that_are_refused_change_neither_images_nor_source(root: Path) -> None:
    set_to(root, "first")
    before = tree(root)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> None:
            raise RequestError("pinned")

        patch.setattr(use, "_check_pin", refuse)
        with pytest.raises(RequestError, match="pinned"):
            use.use(root, str(root.parent / "other"), "glyphnet", None, False)
    assert tree(root) == before


@pytest.mark.parametrize("gone", ["emptied", "litter alone", "names in another character set", "a listing of nothing"])
def test_a_source_that_has_lost_all_its_files_leaves_the_images_alone(root: Path, gone: str) -> None:
    """As a folder does whose disk is not mounted."""
    set_to(root, "first")
    place = root.parent / "first"
    for path in sorted(place.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    if gone == "litter alone":
        write(place, {"cats/.DS_Store": b"litter"})
    if gone == "names in another character set":
        (place / os.fsdecode(b"k\xe4fer.png")).write_bytes(b"one")
    if gone == "a listing of nothing":
        place = place / "labels.csv"
        place.write_text("path,label\ncats/1.png,cat\n")
        write_source(root, Source(place))
    with pytest.raises(RequestError, match=r"holds no files of images|names no file that is there"):
        next_run(root)
    assert tree(root / RAW) == FIRST


def test_a_pipe_is_no_source(root: Path) -> None:
    os.mkfifo(root.parent / "pipe")
    with pytest.raises(RequestError, match="pipe is not a folder; expected a folder of images, or a listing"):
        set_to(root, "pipe")


def test_a_folder_that_cannot_be_read_is_not_taken_for_removed(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        unreadable_folder(patch, root)
        with pytest.raises(RequestError, match="other/birds cannot be read: Permission denied"):
            contents(Source(root.parent / "other"))


WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.chmod", "shutil.move", "shutil.rmtree"}


def dies_before(change: int, work: Callable[[], None]) -> bool:
    """Do `work` in a process that is gone, without any cleaning up, before its n-th change of the file system."""
    child = os.fork()
    if child == 0:
        left = change

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in WRITES or (event == "open" and isinstance(flags := arguments[2], int) and flags & os.O_ACCMODE):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(watch)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize(
    ("old", "new", "step"), [("first", "other", 2), ("digits", "other", 3), ("first", "digits", 3)]
)
def test_a_kill_at_any_moment_leaves_the_old_images_or_the_new_or_what_a_run_mends(
    root: Path, old: str, new: str, step: int
) -> None:
    known = {"first": FIRST, "other": OTHER, "digits": DIGITS}
    seen, change = set(), 0
    set_to(root, old)
    while dies_before(change, lambda: set_to(root, new)):
        found, source = next_run(root), read_source(root)
        name = source.path.name if source else "digits"
        assert name in (old, new) and found == known[name]
        seen.add(name)
        set_to(root, old)
        assert tree(root / RAW) == known[old], "what was left lying about is in nobody's way"
        change += step
    assert change > 10 and seen == {old, new}
    assert next_run(root) == known[new]
    assert nothing_under_way(root)


def held(root: Path) -> dict[str, bytes]:
    """Return all that `use` replaces, byte for byte."""
    data = {f"data/{name}": content for name, content in tree(root / "data").items()}
    return {name: content for name, content in data.items() if name.startswith(arrival.PIECES)} | {
        "params.yaml": (root / "params.yaml").read_bytes()
    }


@pytest.fixture
def graft(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], object]:
    """Return what sets images and a backbone of that name, whose weights are made once."""
    made = {"glyphnet": use._backbone("", "glyphnet", None, AS_IT_IS)}
    assert made["glyphnet"]
    card, state = made["glyphnet"]
    wider = dataclasses.replace(card.preprocessing, mean=tuple(0.25 for _ in card.preprocessing.mean))
    made["another"] = dataclasses.replace(card, name="another", preprocessing=wider), state
    monkeypatch.setattr(use, "_backbone", lambda images, name, weights, _: made[name])
    return lambda images, name: use.use(root, str(root.parent / images), name, None, True)


def test_a_kill_leaves_images_backbone_and_params_of_one_use(root: Path, graft: Callable[[str, str], object]) -> None:
    whole = {}
    for images, name in (("other", "another"), ("first", "glyphnet")):
        graft(images, name)
        whole[images] = held(root)
    assert whole["first"]["params.yaml"] != whole["other"]["params.yaml"]
    seen, change = [], 0
    while dies_before(change, lambda: graft("other", "another")):
        next_run(root)
        seen.append(next(images for images, known in whole.items() if held(root) == known))
        graft("first", "glyphnet")
        assert held(root) == whole["first"] and nothing_under_way(root)
        change += 5
    assert seen == sorted(seen) and set(seen) == {"first", "other"}, "the old ones, then the new ones"
    assert held(root) == whole["other"]


@pytest.mark.parametrize("failing", ["preparing params.yaml", "data/raw", "params.yaml", "backbone", "source.json"])
def test_what_cannot_be_replaced_leaves_images_backbone_and_params_as_they_were(
    root: Path, graft: Callable[[str, str], object], failing: str
) -> None:
    """As on a full disk, or where data/raw is a mounted disk."""
    graft("first", "glyphnet")
    before = tree(root)
    whole = arrival._put

    def refuse(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy", failing)

    def put(new: Path, place: Path) -> None:
        if place.as_posix().endswith(failing):
            refuse()
        whole(new, place)

    with pytest.MonkeyPatch.context() as patch:
        if failing.startswith("preparing"):
            patch.setattr(use, "_write_params", refuse)
        else:
            patch.setattr(arrival, "_put", put)
        with pytest.raises((RequestError, OSError), match=r"busy"):
            graft("other", "another")
    assert tree(root) == before and nothing_under_way(root)


@pytest.mark.parametrize("packed", [True, False])
def test_a_kill_while_the_form_changes_leaves_what_a_run_mends(root: Path, packed: bool) -> None:
    change = 0
    set_to(root, "first", packed=not packed)
    before = tree(root / RAW)
    while dies_before(change, lambda: set_to(root, "first", packed=packed)):
        assert next_run(root) == before or read_source(root) == Source(root.parent / "first", packed)
        set_to(root, "first", packed=not packed)
        assert tree(root / RAW) == before
        change += 3
    assert change > 10
    after = next_run(root)
    assert (after == FIRST) == (not packed) and after != before
    assert files.read_json(root / sources.SOURCE)["packed"] is packed


@pytest.mark.parametrize(
    ("name", "told"),
    [("nowhere", "--against nowhere: no such folder"), ("file.png", "no such folder"), ("empty", "holds no files")],
)
def test_a_reference_that_is_none_is_refused_before_the_gates_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"one")
    with pytest.raises(RequestError, match=told):
        checked(Path(name))
