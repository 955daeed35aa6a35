"""Sets for object detection, as their tools write them: named as such, unless folders or a listing say the class."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from flows.sources import Source
from tests.conftest import write
from tests.corpus import PNG
from tests.flows.test_layouts import TWO, assert_reads, expanded

BOX = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}
COCO = json.dumps({"info": {}, "images": [{"file_name": "1.png"}], "annotations": [BOX], "categories": []}).encode()
LONG_COCO = COCO.replace(b'"info": {}', b'"info": {"description": "' + b"x" * 200_000 + b'"}')
NO_BOX = json.dumps({"images": [], "annotations": [{"image_id": 1, "category_id": 3}], "categories": []}).encode()
VOC = b"<annotation><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"
YOLO = b"0 0.5 0.5 0.2 0.3\n12 0.1 0.25 1.0 .5\n"
POLYGON = b"0 0.1 0.1 0.2 0.1 0.2 0.3\n"
KINDS = {".json": COCO, ".xml": VOC, ".txt": YOLO}
SETS = {
    "annotations/instances_{train,val}2017.json {train,val}2017/{1,2}.png": "COCO",
    "{train,valid,test}/{1,2}.png {train,valid,test}/_annotations.coco.json": "COCO",
    "images/{1,2}.png coco.json": "COCO",
    "VOCdevkit/VOC2007/Annotations/{1,2}.xml VOCdevkit/VOC2007/JPEGImages/{1,2}.png": "Pascal VOC",
    "{1,2}.png {1,2}.xml": "Pascal VOC",
    "{train,test}/{1,2}.png {train,test}/{1,2}.xml": "Pascal VOC",
    "images/{1,2}.png labels/{1,2}.txt": "YOLO",
    "{images,labels}/{train,val}/{1,2}.txt images/{train,val}/{1,2}.png data.yaml": "YOLO",
    "{train,valid}/{images,labels}/{1,2}.txt {train,valid}/images/{1,2}.png data.yaml README.txt": "YOLO",
    "obj_train_data/{1,2}.png obj_train_data/{1,2}.txt": "YOLO",
}


def annotated(pattern: str, notes: Mapping[str, bytes] = KINDS) -> dict[str, bytes]:
    return {
        name: notes.get(Path(name).suffix, PNG if name.endswith(".png") else b"a note") for name in expanded(pattern)
    }


@pytest.mark.parametrize("pattern", SETS)
def test_a_detection_set_is_named_with_what_regraft_needs(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "set", annotated(pattern))
    parts = (f"is an object detection set ({SETS[pattern]}", "path,label", "FOLDER/CLASS/NUMBER.png", "one label per")
    assert_reads(Source(tmp_path / "set", store=tmp_path / "store"), f"refused: {'; '.join(parts)}")


OTHERS = {
    "class folders with a box beside each picture": (f"{TWO} {{cat,dog}}/{{1,2,3}}.xml", VOC, "cat 3 dog 3"),
    "class folders with boxes in a folder of their own": (
        f"Images/{TWO} Annotation/{{cat,dog}}/1.xml",
        VOC,
        "cat 3 dog 3 | hash 6 | 0 | 2",
    ),
    "one class, and texts": ("photos/{1,2}.png photos/{1,2}.txt", b"two cats and 1 dog", "photos 2"),
    "one class, and numbers": ("photos/{1,2}.png photos/{1,2}.txt", b"3\n", "photos 2"),
    "one class, and COCO without boxes": ("photos/{1,2}.png photos/all.json", NO_BOX, "photos 2"),
    "a polygon": ("images/{1,2}.png labels/{1,2}.txt", POLYGON, "object detection set (YOLO: labels/1.txt"),
    "a long head": ("images/{1,2}.png coco.json", LONG_COCO, "object detection set (COCO: coco.json"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_documents_beside_pictures_count_only_where_nothing_names_a_class(tmp_path: Path, name: str) -> None:
    from tests.flows.test_layouts import verdict

    pattern, note, expected = OTHERS[name]
    write(tmp_path / "set", annotated(pattern, dict.fromkeys(KINDS, note)))
    assert expected in verdict(Source(tmp_path / "set", store=tmp_path / "store"))


def test_a_listing_says_the_classes_of_a_detection_set(tmp_path: Path) -> None:
    write(tmp_path / "set", annotated("images/{1,2}.png labels/{1,2}.txt"))
    (tmp_path / "set/classes.csv").write_text("path,label\nimages/1.png,cat\nimages/2.png,dog\n")
    assert_reads(Source(tmp_path / "set/classes.csv", store=tmp_path / "store"), "cat 1 dog 1 | hash 2 | 0 | 0")
