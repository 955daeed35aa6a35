"""Every layout that people keep their images in becomes the same kind of manifest, and nothing is lost on the way."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from steps.errors import DataError
from steps.images import decoding
from steps.images.layouts import Listed
from steps.images.manifest import TEST, TRAIN, VAL, Row, uniform
from steps.ingest import IngestParams, SplitLimits, find, ingest

PARAMS = IngestParams(validation_share=0.3, test_share=0.25)
LIMITS = SplitLimits(
    min_train_per_class=1, min_val_per_class=1, min_test_per_class=1, copy_bits=6, copy_correlation=0.99
)
ORDER = (TEST, VAL, TRAIN)
PROJECT = Path(__file__).parents[2]


def picture(seed: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def put(raw: Path, names: list[str], first: int = 0) -> None:
    for seed, name in enumerate(names, first):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(picture(seed))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    return tmp_path / "data" / "raw"


def run(raw: Path, params: IngestParams = PARAMS) -> pd.DataFrame:
    ingest(params, LIMITS, raw, raw.parent / "manifest.parquet", raw.parent / "quarantine.csv")
    return pd.read_parquet(raw.parent / "manifest.parquet")


def quarantine(raw: Path) -> list[dict[str, str]]:
    return pd.read_csv(raw.parent / "quarantine.csv", keep_default_na=False).to_dict("records")


def quarantine_of(raw: Path) -> list[dict[str, str]]:
    run(raw)
    return quarantine(raw)


def refusal(raw: Path) -> str:
    with pytest.raises(DataError) as caught:
        run(raw)
    assert not (raw.parent / "manifest.parquet").exists()
    return str(caught.value)


def splits(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["path"], table["split"], strict=True))


def by_hash(raw: Path, names: list[str], validation: float, test: float) -> dict[str, str]:
    """Say where the rule puts each file, straight from its bytes."""
    return {n: at(hashlib.sha256((raw / n).read_bytes()).hexdigest(), validation, test) for n in names}


def at(key: str, validation: float, test: float) -> str:
    """Say where the shares put a key."""
    position = uniform(key)
    return TEST if position < test else VAL if position < test + (1 - test) * validation else TRAIN


def assert_moved_towards_training_at_most(before: dict[str, str], after: dict[str, str]) -> None:
    assert before.keys() <= after.keys()
    assert all(ORDER.index(split) <= ORDER.index(after[image]) for image, split in before.items() if split in ORDER)


# The row


def test_a_row_tells_what_the_file_is(raw: Path) -> None:
    put(raw, ["ant/a.png"])
    (raw / "bee").mkdir()
    (raw / "bee" / "b.jpg").write_bytes(picture(1, "JPEG", "L"))
    table = run(raw)
    assert list(table.columns) == list(Row._fields)
    data = (raw / "bee" / "b.jpg").read_bytes()
    bee = table.iloc[1].to_dict()
    assert bee == {
        "id": hashlib.sha256(data).hexdigest(),
        "path": "bee/b.jpg",
        "label": "bee",
        "split": bee["split"],
        "bytes": len(data),
        "group": "",
        "source": "",
        "weight": 1.0,
        **decoding.inspect(data)._asdict(),
    }
    assert quarantine(raw) == []


def test_the_same_folder_gives_the_same_bytes(raw: Path) -> None:
    put(raw, [f"{label}/{i}.png" for label in ("ant", "bee") for i in range(10)])
    (raw / "ant" / "broken.png").write_bytes(b"x")
    run(raw)
    before = [(raw.parent / name).read_bytes() for name in ("manifest.parquet", "quarantine.csv")]
    run(raw)
    assert [(raw.parent / name).read_bytes() for name in ("manifest.parquet", "quarantine.csv")] == before


# Layouts


def test_class_folders_are_split_by_the_images_own_bytes(raw: Path) -> None:
    names = [f"{label}/{i:02}.png" for label in ("ant", "bee", "wasp") for i in range(20)]
    put(raw, names)
    table = run(raw)
    assert splits(table) == by_hash(raw, names, 0.3, 0.25)
    assert set(table["split"]) == {"train", "val", "test"}
    assert table["path"].tolist() == sorted(names)
    assert (table["label"] == table["path"].str.split("/").str[0]).all()


def test_adding_removing_and_renaming_images_moves_no_other(raw: Path) -> None:
    names = [f"{label}/{i:02}.png" for label in ("ant", "bee") for i in range(15)]
    put(raw, names)
    before = splits(run(raw))
    put(raw, [f"wasp/{i}.png" for i in range(15)], first=100)
    (raw / "ant" / "00.png").unlink()
    (raw / "bee" / "00.png").rename(raw / "bee" / "renamed.png")
    after = splits(run(raw))
    assert after["bee/renamed.png"] == before["bee/00.png"]
    assert {n: after[n] for n in names if n in after} == {n: s for n, s in before.items() if n in after}


def test_three_split_folders_are_kept_as_they_are(raw: Path) -> None:
    names = [f"{split}/{label}/{i}.png" for split in ("train", "val", "test") for label in ("ant", "bee") for i in "12"]
    put(raw, names)
    table = run(raw)
    assert splits(table) == {name: name.split("/")[0] for name in names}
    assert set(table["label"]) == {"ant", "bee"}


def test_with_train_and_val_alone_val_is_the_test_set_and_validation_is_carved_from_train(raw: Path) -> None:
    train = [f"train/{label}/{i:02}.png" for label in ("ant", "bee") for i in range(20)]
    val = [f"val/{label}/{i}.png" for label in ("ant", "bee") for i in range(4)]
    put(raw, train + val)
    found = splits(run(raw))
    assert {name: found[name] for name in val} == dict.fromkeys(val, "test")
    carved = {name: found[name] for name in train}
    assert carved == by_hash(raw, train, 0.3, 0.0)
    assert set(carved.values()) == {"train", "val"}


def test_with_train_and_test_alone_validation_is_carved_from_train(raw: Path) -> None:
    train, test = [f"train/ant/{i:02}.png" for i in range(30)], [f"test/ant/{i}.png" for i in range(4)]
    put(raw, train + test)
    found = splits(run(raw))
    assert {name: found[name] for name in test} == dict.fromkeys(test, "test")
    assert {name: found[name] for name in train} == by_hash(raw, train, 0.3, 0.0)


def test_with_train_alone_everything_is_carved_from_it(raw: Path) -> None:
    train = [f"train/ant/{i:02}.png" for i in range(40)]
    put(raw, train)
    assert splits(run(raw)) == by_hash(raw, train, 0.3, 0.25)


def test_images_without_a_label_wait_in_a_split_of_their_own(raw: Path) -> None:
    put(raw, ["ant/1.png", "bee/1.png", "unlabelled/x.png", "unlabelled/deep/er/y.png"])
    table = run(raw).set_index("path")
    assert table.loc[["unlabelled/x.png", "unlabelled/deep/er/y.png"], ["label", "split"]].to_numpy().tolist() == [
        ["", "unlabelled"],
        ["", "unlabelled"],
    ]


@pytest.mark.parametrize("folder", ["unlabelled", "train/unlabelled"])
def test_unlabelled_images_may_stand_beside_the_split_folders_or_in_one(raw: Path, folder: str) -> None:
    names = [f"{split}/ant/1.png" for split in ("train", "val", "test")]
    put(raw, [*names, f"{folder}/x.png"])
    assert splits(run(raw)) == {**{name: name.split("/")[0] for name in names}, f"{folder}/x.png": "unlabelled"}


def test_folders_inside_a_class_belong_to_it(raw: Path) -> None:
    put(raw, ["ant/1.png", "ant/2024/may/2.png", "bee/x/bee.png"])
    table = run(raw)
    assert dict(zip(table["path"], table["label"], strict=True)) == {
        "ant/1.png": "ant",
        "ant/2024/may/2.png": "ant",
        "bee/x/bee.png": "bee",
    }


def test_hidden_files_and_the_litter_of_systems_are_passed_over(raw: Path) -> None:
    put(raw, ["ant/1.png", "bee/1.png", ".git/x.png", "__MACOSX/ant/1.png", "ant/.hidden.png", "ant/.cache/x.png"])
    put(raw, ["ant/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "@eaDir/x.png", "$RECYCLE.BIN/S-1/x.png", "#recycle/x.png"])
    put(raw, ["System Volume Information/x.png", "bee/.ipynb_checkpoints/1-checkpoint.png", "LOST+FOUND/#12.png"])
    for name in ("ant/Thumbs.db", "bee/desktop.ini", ".DS_Store", "ant/.DS_Store", "bee/thumbs.DB", "lost+found/#1"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_bytes(b"litter")
    assert run(raw)["path"].tolist() == ["ant/1.png", "bee/1.png"]
    assert quarantine(raw) == []


def test_two_unicode_forms_of_a_class_are_one_class(raw: Path) -> None:
    put(raw, ["train/caf\u00e9/1.png", "train/tea/1.png", "test/cafe\u0301/2.png", "test/tea/2.png"])
    assert set(run(raw)["label"]) == {"caf\u00e9", "tea"}


def test_a_class_may_bear_the_name_of_a_split_where_there_is_no_train_folder(raw: Path) -> None:
    put(raw, ["test/1.png", "control/1.png"])
    assert sorted(run(raw)["label"]) == ["control", "test"]


@pytest.mark.parametrize("other", ["extra", "holdout", "unseen"])
def test_a_folder_that_is_no_split_beside_train_is_refused_and_not_taken_for_a_class(raw: Path, other: str) -> None:
    """With 'train' and 'extra' as classes everything downstream would run, and predict the folder."""
    put(raw, [f"{split}/{label}/1.png" for split in ("train", other) for label in ("ant", "bee")])
    found = refusal(raw)
    assert (
        found == f"train/ holds class folders, but {other}/ beside it is not a split; rename it to one of "
        "train, val, test, unlabelled, or move it out of the folder of images"
    )


def test_a_class_of_trains_is_a_class(raw: Path) -> None:
    put(raw, ["train/1.png", "bus/1.png", "tram/1.png"])
    assert sorted(run(raw)["label"]) == ["bus", "train", "tram"]


def textured(seed: int, size: int = 64) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def test_copies_of_a_picture_share_a_split_and_blank_pages_go_their_own_ways(raw: Path) -> None:
    for number in range(30):
        (raw / f"{'ant' if number % 2 else 'bee'}").mkdir(exist_ok=True)
        folder = raw / ("ant" if number % 2 else "bee")
        textured(number).save(folder / f"{number}.png")
        textured(number).save(folder / f"{number} exact.bmp")
        textured(number).resize((48, 48)).save(folder / f"{number} smaller.jpg", quality=90)
        Image.new("L", (40 + number, 40), 255).save(folder / f"blank {number}.png")
    found = run(raw).assign(number=lambda table: table["path"].str.extract(r"/(\d+)", expand=False))
    assert found.groupby("number")["split"].nunique().tolist() == [1] * 30
    assert set(found["split"]) == {"train", "val", "test"}
    blank = splits(found[found["number"].isna()])
    assert blank == by_hash(raw, sorted(blank), 0.3, 0.25)


def test_a_new_copy_pulls_a_picture_towards_training_at_most(raw: Path) -> None:
    for number in range(40):
        (raw / "ant").mkdir(exist_ok=True)
        textured(number).save(raw / f"ant/{number}.png")
    before = splits(run(raw))
    for number in range(0, 40, 3):
        textured(number, 96).save(raw / f"ant/{number} larger.png")
    after = splits(run(raw))
    assert_moved_towards_training_at_most(before, after)
    assert all(after[f"ant/{n}.png"] == after[f"ant/{n} larger.png"] for n in range(0, 40, 3))


# An image keeps its split


SEEDS = st.sets(st.integers(0, 400), min_size=1, max_size=8)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0.", exclude_categories=["Cs"]), max_size=6)
LAYOUTS = {  # folders that an image may stand in
    "classes": ["ant", "bee", "ant/deep/er"],
    "train alone": ["train/ant", "train/bee"],
    "train and val": ["train/ant", "val/ant", "val/bee"],
    "train and test": ["train/ant", "test/bee"],
    "all three": ["train/ant", "val/bee", "test/ant", "unlabelled"],
}


def lay_out(raw: Path, folders: list[str], images: dict[int, str]) -> None:
    """Write each image into the folder that its number picks; a first one makes every folder exist."""
    shutil.rmtree(raw, ignore_errors=True)
    put(raw, [f"{folder}/anchor.png" for folder in folders], first=1000)
    for seed, name in images.items():
        put(raw, [f"{folders[seed % len(folders)]}/{name}{seed}.png"], first=seed)


def splits_by_id(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["id"], table["split"], strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SEEDS, SEEDS, NAMES)
def test_new_images_and_new_names_move_an_old_image_only_towards_training(
    raw: Path, layout: str, old: set[int], new: set[int], name: str
) -> None:
    """But one that its class was short of, which returns to the split of its hash: `test_splitting` has the rule."""
    lay_out(raw, LAYOUTS[layout], dict.fromkeys(old, "old"))
    before = splits_by_id(run(raw))
    lay_out(raw, LAYOUTS[layout], {**dict.fromkeys(new, "new"), **dict.fromkeys(old, f"x{name}")})
    after = splits_by_id(run(raw))
    returned = {image for image in before if after[image] == at(image, 0.3, 0.0 if "test" in layout else 0.25)}
    assert_moved_towards_training_at_most({i: of for i, of in before.items() if i not in returned}, after)


def test_a_test_split_that_comes_later_is_a_new_layout_and_the_only_thing_that_moves_images(raw: Path) -> None:
    """Until then `val` was the test set (the field's habit); docs/data.md says so."""
    names = [f"{split}/ant/{i}.png" for split in ("train", "val") for i in range(4)]
    put(raw, names)
    assert {splits(run(raw))[name] for name in names[4:]} == {"test"}
    put(raw, ["test/ant/1.png"], first=50)
    assert {splits(run(raw))[name] for name in names[4:]} == {"val"}


# What cannot be read


def test_every_file_that_is_no_image_is_quarantined_with_its_reason(raw: Path) -> None:
    put(raw, ["ant/good.png", "bee/good.png"])
    bad = {
        "ant/empty.jpg": b"",
        "ant/note, with a comma.txt": b"hello",
        "ant/page.jpg": b"<html>404</html>",
        "bee/cut.png": picture(9)[:80],
    }
    for name, data in bad.items():
        (raw / name).write_bytes(data)
    assert run(raw)["path"].tolist() == ["ant/good.png", "bee/good.png"]
    found = quarantine(raw)
    assert [(row["path"], row["reason"], row["kind"], row["label"]) for row in found] == [
        ("ant/empty.jpg", "the file is empty", "damaged", "ant"),
        ("ant/note, with a comma.txt", "not an image format", "other file", "ant"),
        ("ant/page.jpg", "an HTML page, not an image", "damaged", "ant"),
        ("bee/cut.png", "damaged or truncated image", "damaged", "bee"),
    ]
    assert found[0]["exception"] == ""
    assert found[1]["exception"].startswith("UnidentifiedImageError: ")


def test_a_picture_that_is_not_read_counts_less_if_its_readable_form_lies_beside_it(raw: Path) -> None:
    put(raw, ["ant/1.png", "bee/1.png"])
    for name in ("ant/1.CR2", "ant/2.CR2", "bee/1.heic.bak"):
        (raw / name).write_bytes(b"II*\0\x10\0\0\0CR\2\0")
    assert [(row["path"], row["kind"], row["format"]) for row in quarantine_of(raw)] == [
        ("ant/1.CR2", "second form", "raw camera file"),
        ("ant/2.CR2", "other format", "raw camera file"),
        ("bee/1.heic.bak", "other format", "raw camera file"),
    ]


def test_the_same_picture_twice_is_two_rows_with_one_id(raw: Path) -> None:
    put(raw, ["ant/1.png"])
    (raw / "ant" / "copy.png").write_bytes((raw / "ant" / "1.png").read_bytes())
    table = run(raw)
    assert table["path"].tolist() == ["ant/1.png", "ant/copy.png"]
    assert table["id"].nunique() == table["split"].nunique() == 1


def test_nothing_to_read_is_refused_with_what_was_seen(raw: Path, tmp_path: Path) -> None:
    assert (
        refusal(raw) == "the folder of images is empty; expected one folder of images per class (README: 'Your images')"
    )
    put(raw, ["1.png", "2.png"])
    assert refusal(raw).startswith("no class folders, 2 loose files; expected one folder of images per class")
    (raw / "ant").mkdir()
    assert refusal(raw) == (
        "not one of 2 files can be used (first: 1.png: beside the class folders: no label); "
        "expected one folder of images per class"
    )
    (raw / "1.png").unlink()
    (raw / "2.png").unlink()
    assert refusal(raw) == "the class folders (or the listing) hold no files"
    (raw / "ant" / "x.txt").write_bytes(b"hello")
    (raw / "ant" / "y.jpg").write_bytes(b"")
    assert refusal(raw).startswith("not one of 2 files can be used (first: ant/x.txt: not an image format); expected")
    with pytest.raises(DataError, match=r"there is no folder of images at .*nowhere"):
        list(find(tmp_path / "nowhere"))


def test_a_file_without_permission_is_quarantined(raw: Path) -> None:
    put(raw, ["ant/1.png", "bee/locked.png"])
    (raw / "bee" / "locked.png").chmod(0)
    readable = os.access(raw / "bee" / "locked.png", os.R_OK)  # root reads everything
    assert len(run(raw)) == 1 + readable
    reasons = [row["exception"] for row in quarantine(raw)]
    assert reasons == ([] if readable else ["PermissionError: Permission denied"])


def test_what_is_found_is_found_in_the_same_order_everywhere(raw: Path) -> None:
    put(raw, ["b/2.png", "a/é.png", "a/10.png", "a/2.png", "B/1.png"])
    assert list(find(raw)) == [
        Listed("B/1.png", "B", ""),
        Listed("a/10.png", "a", ""),
        Listed("a/2.png", "a", ""),
        Listed("a/é.png", "a", ""),
        Listed("b/2.png", "b", ""),
    ]


def test_the_command_of_the_graph_does_the_same_in_a_process_of_its_own(raw: Path) -> None:
    put(raw, [f"{label}/{i}.png" for label in ("ant", "bee") for i in range(6)])
    root = raw.parents[1]
    values = {"validation_share": 0.3, "test_share": 0.25}
    (root / "params.yaml").write_text(yaml.safe_dump({"ingest": values, "validate": vars(LIMITS)}), encoding="utf-8")
    flags = ["--raw", "data/raw", "--manifest", "data/out/m.parquet", "--quarantine", "data/out/q.csv"]
    command = [sys.executable, "-m", "steps.ingest", *flags]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    run(raw)
    assert (root / "data/out/m.parquet").read_bytes() == (root / "data/manifest.parquet").read_bytes()

    document = {"ingest": {**values, "test_share": 2.0}, "validate": {**vars(LIMITS), "copy_bits": 9}}
    (root / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == [
        "ingest: 2 faults in params.yaml:",
        "  ingest.test_share is 2.0; 0.01 to 0.8",
    ]
    assert done.stderr.splitlines()[2].startswith("  validate.copy_bits is 9; 0 to 8")


def test_every_listed_file_ends_up_in_the_manifest_or_in_the_quarantine(raw: Path) -> None:
    rng = np.random.default_rng(0)
    put(raw, [f"{rng.choice(['ant', 'bee', 'unlabelled'])}/{i:03}.png" for i in range(60)])
    for path in sorted(raw.rglob("*.png"))[::7]:
        path.write_bytes(path.read_bytes()[: int(rng.integers(0, 60))])
    names = Counter(item.path for item in find(raw))
    table = run(raw)
    assert Counter([*table["path"], *(row["path"] for row in quarantine(raw))]) == names
    assert len(names) == 60
    assert len(quarantine(raw)) == 9
