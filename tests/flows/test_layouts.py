"""Folders, listings and archives as people have them: what `use` understands, and what it refuses in words.

A reading is written `class count ... | split count ... | unlabelled | passed over`; `train*`: validation images are set
aside from it by hash; `hash`: all splits follow from a hash of each image.
"""

import itertools
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from flows import label_tables
from flows.overview import Overview, of_raw, of_source
from flows.sources import Source, mirror
from steps.errors import RegraftError
from tests.conftest import REPOSITORY, write
from tests.corpus import PNG

TWO = "{cat,dog}/{1,2,3}.png"
FLAT = "{1,2,3,4}.png"
FOLDERS = {
    # class folders
    TWO: "cat 3 dog 3 | hash 6 | 0 | 0",
    f"{TWO} README.txt": "cat 3 dog 3 | hash 6 | 0 | 1",
    f"{TWO} loose.png": "cat 3 dog 3 | hash 6 | 0 | 1",
    f"{TWO} unlabelled/{FLAT}": "cat 3 dog 3 | hash 6 | 4 | 0",
    f"{TWO} Unlabeled/{FLAT}": "cat 3 dog 3 | hash 6 | 4 | 0",
    "{cat,dog}/2024/may/{1,2}.png": "cat 2 dog 2 | hash 4 | 0 | 0",
    "{cat,dog}/{2023,2024}/{1,2}.png": "cat 4 dog 4 | hash 8 | 0 | 0",
    "{train,car,plane}/{1,2}.png": "car 2 plane 2 train 2 | hash 6 | 0 | 0",
    "{train_station,car}/{1,2}.png": "car 2 train_station 2 | hash 4 | 0 | 0",
    "{blood_test,control}/{1,2}.png": "blood_test 2 control 2 | hash 4 | 0 | 0",
    "{test,control}/{1,2}.png": "control 2 test 2 | hash 4 | 0 | 0",
    "animals/{cat,dog}/1.png vehicles/{car,bus}/1.png": "animals 2 vehicles 2 | hash 4 | 0 | 0",
    f"{TWO} cat/{{1,2,3}}.json": "cat 3 dog 3 | hash 6 | 0 | 3",
    "{images,labels}/{1,2}.txt images/{1,2}.png": "images 2 | hash 2 | 0 | 4",
    # split folders
    f"{{train,val,test}}/{TWO}": "cat 9 dog 9 | train 6 val 6 test 6 | 0 | 0",
    f"{{Train,Valid,Test}}/{TWO}": "cat 9 dog 9 | train 6 val 6 test 6 | 0 | 0",
    f"{{TRAIN,VALIDATION,TEST}}/{TWO}": "cat 9 dog 9 | train 6 val 6 test 6 | 0 | 0",
    f"{{training_set,dev_set,test_set}}/{TWO}": "cat 9 dog 9 | train 6 val 6 test 6 | 0 | 0",
    f"{{train,eval,test}}/{TWO}": "cat 9 dog 9 | train 6 val 6 test 6 | 0 | 0",
    f"{{Training,Testing}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"{{training-set,test-set}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"{{trainset,testset}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"{{train_images,test_images}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"{{TrainImages,TestImages}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"{{Train Data,Test Data}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"{{flowers_train,flowers_test}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"{{train,val}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"{{train2017,val2017}}/{TWO}": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"train/{TWO}": "cat 3 dog 3 | hash 6 | 0 | 0",
    f"train/{TWO} test/{FLAT}": "cat 3 dog 3 | hash 6 | 4 | 0",
    f"{{Train,Valid}}/{TWO} test1/{FLAT}": "cat 6 dog 6 | test 6 train* 6 | 4 | 0",
    f"{{train,test}}/{TWO} train/loose.png train/notes.txt": "cat 6 dog 6 | test 6 train* 6 | 1 | 1",
    "s_{train/s_train,test/s_test}/{cat,dog}/1.png s_pred/s_pred/{1,2}.png": "cat 2 dog 2 | test 2 train* 2 | 2 | 0",
    "{cat,dog}/{train,test}/{1,2}.png": "cat 4 dog 4 | test 4 train* 4 | 0 | 0",
    # wrappers
    f"archive/{TWO}": "cat 3 dog 3 | hash 6 | 0 | 0",
    f"archive/{{Training,Testing}}/{TWO} LICENSE.txt": "cat 6 dog 6 | test 6 train* 6 | 0 | 1",
    f"brain/brain/{{train,test}}/{TWO} __MACOSX/brain/._x": "cat 6 dog 6 | test 6 train* 6 | 0 | 0",
    f"archive/{TWO} papers/{{de,en}}/{{1,2}}.pdf": "cat 3 dog 3 | hash 6 | 0 | 4",
    f"archive/{TWO} unlabelled/{FLAT}": "cat 3 dog 3 | hash 6 | 4 | 0",
    # no honest reading
    f"train/{FLAT}": "refused: train/ holds no class folders; expected train/CLASS",
    f"train/{FLAT} test/{FLAT}": "refused: train/ holds no class folders; beside it: test/",
    f"train/{FLAT} test1/{FLAT} labels.csv": "refused: train/ holds no class folders; test1/; labels.csv",
    FLAT: "refused: no class folders, 4 loose files",
    f"{FLAT} labels.csv": "refused: no class folders; if labels.csv says the labels",
    f"{{train,extra}}/{TWO}": "refused: extra/ beside it is not a split; train, val, test, unlabelled",
    f"{{train,vaild}}/{TWO}": "refused: vaild/ beside it is not a split (did you mean val/ for vaild/?)",
    f"{{Train,tset,Validaton}}/{TWO}": "refused: Validaton/, tset/ beside it are no splits; test/ for tset/",
    f"{{trian_set,val}}/{TWO}": "refused: hold the same folders; (did you mean train/ for trian_set/?)",
    f"{{train,val,valid}}/{TWO}": "refused: val/ and valid/ both stand for the split val",
    f"{{val,test}}/{TWO}": "refused: test/, val/ are splits; none is train/",
    f"{{siteA,siteB}}/{TWO}": "refused: siteA/ and siteB/ hold the same folders (cat, dog); --labels leaf",
    f"bottle/{{train,test,ground_truth}}/{TWO}": "refused: ground_truth/ beside it is not a split",
}
CHOSEN = {
    ("animals/{cat,dog}/1.png vehicles/{car,bus}/1.png", "top"): "animals 2 vehicles 2 | hash 4 | 0 | 0",
    ("animals/{cat,dog}/1.png vehicles/{car,bus}/1.png", "leaf"): "bus 1 car 1 cat 1 dog 1 | hash 4 | 0 | 0",
    ("{a,b}/{x,y}/1.png", "leaf"): "x 2 y 2 | hash 4 | 0 | 0",
    ("{a,b}/{x,y}/1.png", "top"): "a 2 b 2 | hash 4 | 0 | 0",
    ("{a,b}/{x,y}/1.png", "path"): "a/x 1 a/y 1 b/x 1 b/y 1 | hash 4 | 0 | 0",
    ("{Train,Test}/{a,b}/{x,y}/1.png", "leaf"): "x 4 y 4 | test 4 train* 4 | 0 | 0",
    ("a/{x,y}/1.png b/1.png unlabelled/{1,2}.png", "leaf"): "b 1 x 1 y 1 | hash 3 | 2 | 0",
}


def expanded(pattern: str) -> list[str]:
    """Return the names of a pattern such as `{train,test}/cat/{1,2}.png a.txt`."""
    names = re.findall(r"(?:\{[^}]*\}|\S)+", pattern)
    return [
        "".join(parts)
        for name in names
        for parts in itertools.product(*(part.strip("{}").split(",") for part in re.split(r"(\{[^}]*\})", name)))
    ]


def lay_out(folder: Path, pattern: str) -> Path:
    for name in expanded(pattern):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG if name.endswith(".png") else b"a note")
    return folder


def written(seen: Overview) -> str:
    names = {"": "hash", "carved": "train*"}
    order = ("train", "val", "test", "carved", "")
    splits = [f"{names.get(split, split)} {seen.splits[split]}" for split in order if seen.splits.get(split)]
    classes = [f"{label} {count}" for label, count in seen.classes.items()]
    return f"{' '.join(classes)} | {' '.join(splits)} | {seen.unlabelled} | {sum(seen.passed_over.values())}"


def understood(source: Source) -> Overview:
    """Return what `use` shows; what `ingest` reads in the mirror has to be the same."""
    seen = of_source(REPOSITORY, source)  # the limits of the repository's params.yaml
    assert str(source.store) not in " ".join(seen.notes)
    raw = source.store.parent / "raw"
    mirror(source, raw, source.store.parent / "memory")
    assert written(of_raw(raw)) == written(seen) or "(in the listing, and not there)" in seen.passed_over
    assert mirror(source, raw, source.store.parent / "memory") == (0, 0), "a second look finds nothing new"
    return seen


def verdict(source: Source) -> str:
    try:
        return written(understood(source))
    except RegraftError as error:
        return f"refused: {error}"


def assert_reads(source: Source, expected: str) -> None:
    read = verdict(source)
    assert str(source.store) not in read, "a user never saw the folders of the store"
    if expected.startswith("refused: "):
        assert read.startswith("refused: ")
        for part in expected.removeprefix("refused: ").split("; "):
            assert part in read
    else:
        assert read == expected


@pytest.mark.parametrize("pattern", FOLDERS)
def test_a_folder_is_read_as_its_owner_means_it_or_refused(tmp_path: Path, pattern: str) -> None:
    folder = lay_out(tmp_path / "photos", pattern)
    assert_reads(Source(folder, store=tmp_path / "store"), FOLDERS[pattern])


@pytest.mark.parametrize(("pattern", "labels"), CHOSEN)
def test_the_owner_chooses_the_folder_that_names_the_class(tmp_path: Path, pattern: str, labels: str) -> None:
    folder = lay_out(tmp_path / "photos", pattern)
    assert_reads(Source(folder, labels=labels, store=tmp_path / "store"), CHOSEN[pattern, labels])


def test_a_table_beside_the_only_class_folder_is_named(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "photos", "images/{1,2}.png labels.csv")
    assert "if labels.csv says the labels" in understood(Source(folder, store=tmp_path / "store")).notes[0]


def test_a_listing_has_its_own_labels(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "photos", PHOTOS)
    (folder / "listing.csv").write_text(PLAIN)
    for path in (folder, folder / "listing.csv"):
        assert_reads(Source(path, labels="leaf", store=tmp_path / "store"), "refused: --labels leaf is about folders")


def test_folders_in_folders_are_named_with_the_other_reading(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "photos", "animals/{cat,dog}/1.png vehicles/{car,bus}/1.png")
    (note,) = understood(Source(folder, store=tmp_path / "store")).notes
    assert "animals/, vehicles/ hold folders (bus, car, cat ...)" in note and "--labels leaf" in note


# Listings

PHOTOS = "cats/{1,2}.png dogs/{1,2}.png"
BOTH = "cat 2 dog 2 | hash 4 | 0 | 0"
ROWS = [("cats/1.png", "cat"), ("cats/2.png", "cat"), ("dogs/1.png", "dog"), ("dogs/2.png", "dog")]


def table(head: str = "path,label", change: tuple[str, str] = ("", ""), before: str = "", after: str = "") -> str:
    """Return a listing of the photos in which `change` replaces part of each path, put between two texts."""
    lines = [f"{before}{path.replace(*change) if change[0] else path},{label}" for path, label in ROWS]
    return "\n".join([head, *lines]) + "\n" + after


PLAIN = table()
LISTINGS = {
    "plain": (PLAIN, BOTH),
    "no label at all": (re.sub(",(cat|dog)", ",", PLAIN), "refused: no image has a label"),
    "a header alone": ("path,class\n", "refused: has a header and no rows"),
    "byte-order mark": (PLAIN.encode("utf-8-sig"), BOTH),
    "Windows line ends": (PLAIN.replace("\n", "\r\n"), BOTH),
    "UTF-16": (PLAIN.encode("utf-16"), BOTH),
    "cp1252": (PLAIN.replace(",cat", ",Käfer").encode("cp1252"), "Käfer 2 dog 2 | hash 4 | 0 | 0"),
    "semicolons": (PLAIN.replace(",", ";"), BOTH),
    "Excel's hint": ("sep=;\n" + PLAIN.replace(",", ";"), BOTH),
    "Excel's hint of the usual separator": ("sep=,\n" + PLAIN, BOTH),
    "tabs": (PLAIN.replace(",", "\t"), BOTH),
    "header in another case": (table("Path,Label"), BOTH),
    "filename and class": (table("filename,class"), BOTH),
    "file_name and target": (table("file_name,target"), BOTH),
    "Image Path and Category": (table("Image Path,Category"), BOTH),
    "no header, spaces": ("\n".join(PLAIN.splitlines()[1:]).replace(",", " "), BOTH),
    "no header": ("\n".join(PLAIN.splitlines()[1:]), BOTH),
    "no header, a label as its split": (
        "cats/1.png,train,train\ncats/2.png,train,train\ndogs/1.png,dog,train\ndogs/2.png,dog,test\n",
        "dog 2 train 2 | test 1 train* 3 | 0 | 0",
    ),
    "no header, empty cells": (
        "cats/1.png,,\ncats/2.png,cat,\ndogs/1.png,dog,\ndogs/2.png,dog,\n",
        "cat 1 dog 2 | hash 3 | 1 | 0",
    ),
    "backslashes": (table(change=("/", "\\")), BOTH),
    "a drive": (table(change=("/", "\\"), before="C:\\data\\"), BOTH),
    "dot and backslash": (table(change=("/", "\\"), before=".\\"), BOTH),
    "backslashes in half": (PLAIN.replace("cats/", "cats\\"), BOTH),
    "dot and slash": (table(before="./"), BOTH),
    "absolute": (table(before="{folder}/"), BOTH),
    "absolute, from another machine": (table(before="/home/ada/data/"), BOTH),
    "a leading part of half the paths": (
        PLAIN.replace("dogs/", "old/dogs/"),
        "refused: 2 of 4 rows; old/dogs/1.png; is there",
    ),
    "a leading part above the folder": (table(before="../old/"), "refused: '../old/cats/1.png' points outside"),
    "relative to the folder above": (table(before="photos/"), BOTH),
    "up and down again": (table(before="../photos/"), BOTH),
    "another case": (table(change=("ats", "ATS")), BOTH),
    "a drive and another case": (table(change=("s/", "S\\"), before="D:\\photos\\"), BOTH),
    "no suffixes": (table(change=(".png", "")), BOTH),
    "own splits": (
        "path,label,split\ncats/1.png,cat,Training\ncats/2.png,cat,Testing\ndogs/1.png,dog,train\ndogs/2.png,dog,test\n",
        "cat 2 dog 2 | test 2 train* 2 | 0 | 0",
    ),
    "an empty label": (PLAIN.replace("dogs/2.png,dog", "dogs/2.png,"), "cat 2 dog 1 | hash 3 | 1 | 0"),
    "a row twice": (table(after="cats/1.png,cat\n"), "cat 3 dog 2 | hash 5 | 0 | 0"),
    "two labels": (table(after="cats/1.png,dog\n"), "refused: cats/1.png has two labels, 'cat' and 'dog'"),
    "two labels, two spellings": (table(after="cats\\1.png,dog\n"), "refused: cats/1.png has two labels"),
    "no file at all": (table(change=("s/", "/")), "refused: looked in; cat/1.png; cats/1.png is there"),
    "half the files": (table(change=("dogs", "wolves")), "refused: 2 of 4 rows; wolves/1.png; is there"),
    "two columns for the path": (
        "file,image,label\ncats/1.png,x,cat\n",
        "refused: which column is the path, file or image? rename it to path",
    ),
    "no label": ("path,remark\ncats/1.png,x\n", "refused: lacks the column(s) label; it has ['path', 'remark']"),
    "outside": ("path,label\n../secret.png,cat\n", "refused: '../secret.png' points outside"),
    "a misspelt split": (
        "path,label,split\ncats/1.png,cat,trian\n",
        "refused: unknown split 'trian'; (did you mean train?)",
    ),
    "a row too long": (table(after="cats/1.png,cat,1,2\n"), "refused: line 6 has 4 columns; the lines above it have 2"),
    "an open quotation mark": (
        table(after='"cats/1.png,cat\n'),
        "refused: a quotation mark is opened and never closed",
    ),
    "nothing": ("", "refused: it is empty; expected a line path,label"),
    "no text": (b"\x00\x81\x8d\x00" * 9, "refused: cannot be read"),
}


@pytest.mark.parametrize("name", LISTINGS)
@pytest.mark.parametrize("place", ["photos/labels.csv", "photos/listing.csv"])
def test_a_listing_is_read_as_its_owner_means_it_or_refused(tmp_path: Path, name: str, place: str) -> None:
    folder = lay_out(tmp_path / "photos", PHOTOS)
    (tmp_path / "secret.png").write_bytes(PNG)
    content, expected = LISTINGS[name]
    data = content.replace("{folder}", str(folder)).encode() if isinstance(content, str) else content
    (tmp_path / place).write_bytes(data)
    source = tmp_path / place if place.endswith("labels.csv") else folder  # found by its name in the folder
    assert_reads(Source(source, store=tmp_path / "store"), expected)


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "labels.txt": PLAIN,
        "labels.CSV": PLAIN,
        "labels.tsv": PLAIN.replace(",", "\t"),
        "labels.jsonl": "\n".join(json.dumps({"path": path, "label": label}) for path, label in ROWS),
    }.items(),
)
def test_a_listing_of_every_suffix_is_what_ingest_reads(tmp_path: Path, name: str, content: str) -> None:
    folder = lay_out(tmp_path / "photos", PHOTOS)
    (folder / name).write_text(content)
    assert verdict(Source(folder / name, store=tmp_path / "store")) == BOTH


def test_class_folders_in_another_case_are_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, folded, calls = [f"K{i}" for i in range(60)], label_tables._folded, Counter[str]()
    folder = lay_out(tmp_path / "photos", f"{{{','.join(names)}}}/1.png")
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{name.lower()}/1.png,{name}\n" for name in names))
    monkeypatch.setattr(label_tables, "_folded", lambda name: calls.update([name]) or folded(name))
    assert len(label_tables.read(folder / "labels.csv").rows) == 60
    assert max(calls[name] for name in names) == 1


def test_a_path_is_the_same_in_every_unicode_form(tmp_path: Path) -> None:
    """macOS writes an accent apart from its letter, most editors do not."""
    folder = lay_out(tmp_path / "photos", unicodedata.normalize("NFD", "café/{1,2}.png tea/{1,2}.png"))
    rows = "".join(f"café/{i}.png,café\ntea/{i}.png,tea\n" for i in (1, 2))
    (folder / "labels.csv").write_text("path,label\n" + rows, encoding="utf-8")
    assert verdict(Source(folder / "labels.csv", store=tmp_path / "store")) == "café 2 tea 2 | hash 4 | 0 | 0"


def test_a_class_that_is_written_in_two_unicode_forms_is_said_to_be_one(tmp_path: Path) -> None:
    two = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    folder = lay_out(tmp_path / "photos", f"{{{two[0]},{two[1]},tea}}/{{1,2}}.png")
    seen = understood(Source(folder, store=tmp_path / "store"))
    assert written(seen) == "café 4 tea 2 | hash 6 | 0 | 0"
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{form}/1.png,{form}\n" for form in (*two, "tea")))
    listed = understood(Source(folder / "labels.csv", store=tmp_path / "store"))
    for notes in (seen.notes, listed.notes):
        assert "'café' is written in 2 Unicode forms, which are read as one class" in notes


def test_a_few_missing_files_are_shown_and_left_to_the_quarantine(tmp_path: Path) -> None:
    names = ",".join(map(str, range(40)))
    folder = lay_out(tmp_path / "photos", f"{{cats,dogs}}/{{{names}}}.png")
    rows = "".join(f"{kind}/{i}.png,{kind}\n" for kind in ("cats", "dogs") for i in range(42 if kind == "dogs" else 40))
    (folder / "labels.csv").write_text("path,label\n" + rows)
    assert_reads(Source(folder / "labels.csv", store=tmp_path / "store"), "cats 40 dogs 40 | hash 80 | 0 | 2")


def test_a_table_in_a_folder_of_its_own_names_the_pictures_beside_that_folder(tmp_path: Path) -> None:
    lay_out(tmp_path / "set", "Images/all/{1,2}.PNG annotations/notes.txt")
    for path in (tmp_path / "set/Images/all").iterdir():
        path.write_bytes(PNG)
    labels = tmp_path / "set/annotations/labels.txt"
    labels.write_text("Image Name\tCategory\nimages\\all\\1\tcat\nimages\\all\\2\tdog\n")
    assert verdict(Source(labels, store=tmp_path / "store")) == "cat 1 dog 1 | hash 2 | 0 | 0"


# Metadata beside the pictures

METADATA = {
    "the same labels": ({"metadata.csv": table("file_name,label")}, BOTH, "labels are read from the metadata files"),
    "other labels": (
        {"metadata.csv": table("file_name,label").replace(",cat", ",fox")},
        "dog 2 fox 2 | hash 4 | 0 | 0",
        "4 pictures differ from their class folders (cats/1.png: 'fox', not 'cats')",
    ),
    "in each folder": (
        {f"{kind}s/metadata.csv": f"file_name,label\n1.png,{kind}\n2.png,{kind}\n" for kind in ("cat", "dog")},
        BOTH,
        "labels are read from the metadata files",
    ),
    "in a single folder": (
        {"cats/metadata.csv": "file_name,label\n1.png,cat\n2.png,cat\n"},
        "",
        "(cats/metadata.csv ...) are not used: they do not name 2 of 4 pictures, such as dogs/1.png",
    ),
    "about something else": ({"metadata.csv": "key,value\nlicence,MIT\n"}, "", "none has a column for the path"),
    "without labels": ({"metadata.csv": "file_name,text\ncats/1.png,a cat\n"}, "", "and one for the label"),
    "without paths": ({"metadata.csv": "label,count\ncat,2\n"}, "", "none has a column for the path"),
    "empty": ({"metadata.csv": ""}, "", "none has a column for the path"),
    "JSON about something else": ({"metadata.jsonl": "[1, 2]\n3\n"}, "", "none has a column for the path"),
    "about something else, and labels": (
        {"cats/metadata.csv": "key,value\nlicence,MIT\n", "metadata.csv": table("file_name,label")},
        BOTH,
        "labels are read from the metadata files",
    ),
    "two labels": (
        {"metadata.csv": table("file_name,label", after="cats/1.png,dog\n")},
        "",
        "cats/1.png has two labels",
    ),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_gives_the_labels_only_if_it_names_every_picture(tmp_path: Path, name: str) -> None:
    folder, (tables, expected, note) = lay_out(tmp_path / "photos", PHOTOS), METADATA[name]
    for path, content in tables.items():
        (folder / path).write_text(content)
    seen = understood(Source(folder, store=tmp_path / "store"))
    assert written(seen) == (expected or f"cats 2 dogs 2 | hash 4 | 0 | {len(tables)}")
    assert note in " ".join(seen.notes)


def test_a_refusal_of_the_folders_says_why_the_metadata_is_not_used(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "photos", "train/{1,2}.png test/1.png LICENSE")
    (folder / "train/metadata.csv").write_text("file_name,label\n1.png,x\n2.png,y\n")
    (folder / "test/metadata.csv").write_text("file_name,label\n1.png,x\n")
    expected = "refused: train/ holds no class folders; they do not name 1 of 4 pictures, such as LICENSE"
    assert_reads(Source(folder, store=tmp_path / "store"), expected)


def test_what_was_translated_is_said(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "photos", PHOTOS)
    text = table("filename;class", ("/", "\\"), "C:\\data\\").replace(",", ";")
    (folder / "labels.csv").write_text(text.replace(";cat", ";Käfer"), encoding="cp1252")
    said = " ".join(understood(Source(folder / "labels.csv", store=tmp_path / "store")).notes)
    for part in ("cp1252", "';'", "filename, class", "C:/data/ at the start of the paths is left out"):
        assert part in said


KAGGLE = "id,label\n1f,cat\n2e,dog\n"


def test_the_ids_of_a_table_name_the_pictures_of_the_only_folder_that_has_them(tmp_path: Path) -> None:
    """As Kaggle packs them; the example of answers beside them is not what a refusal of the folder points to."""
    write(tmp_path / "set", {f"train_images/{name}.png": PNG for name in ("1f", "2e")})
    write(tmp_path / "set", {"test_images/3d.png": PNG, "sample_submission.csv": b"id,label\n3d,cat\n"})
    write(tmp_path / "set", {"train.csv": KAGGLE.encode()})
    assert_reads(Source(tmp_path / "set"), "refused: if train.csv says the labels: `regraft use` that file")
    assert_reads(Source(tmp_path / "set/train.csv", store=tmp_path / "store"), "cat 1 dog 1 | hash 2 | 0 | 0")
    write(tmp_path / "set", {"test_images/1f.png": PNG})
    assert_reads(Source(tmp_path / "set/train.csv", store=tmp_path / "store"), "refused: names no file that is there")


def test_what_a_telephone_puts_beside_pictures_is_not_counted_as_one(tmp_path: Path) -> None:
    names = [f"DCIM/{label}/IMG_1.{suffix}" for label in ("full", "empty") for suffix in ("JPG", "AAE", "MOV")]
    write(tmp_path / "set", dict.fromkeys(names, PNG))
    assert_reads(Source(tmp_path / "set"), "empty 1 full 1 | hash 2 | 0 | 4")
