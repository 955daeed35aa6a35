"""Annotations of objects in pictures (COCO, Pascal VOC, YOLO): named as what they are. regraft learns no boxes."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from steps.errors import RequestError
from steps.images.layouts import is_note

LOOKED_AT = 20  # documents of a kind: a data set has one form of annotations
PART = 2**16  # bytes at the start and at the end of a document: COCO's may hold gigabytes
LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
BOX = re.compile(rb'"(bbox|segmentation|keypoints)"\s*:')
YOLO = re.compile(r"\d+( -?\d*\.?\d+([eE][-+]?\d+)?){4,}")  # class, then a box or a polygon
REMEDY = (
    "regraft learns one label per picture. Write a CSV file with the columns path,label if each picture shows one "
    "object; otherwise crop the objects, each into FOLDER/CLASS/NUMBER.png "
    "(`PIL.Image.open(PICTURE).crop((left, top, right, bottom)).save(...)`). Then `regraft use` the result"
)


def refuse(path: Path, files: Mapping[str, Path]) -> None:
    """Raise RequestError if the files of a source, POSIX path -> file, are annotated pictures."""
    first = next(_annotations(files), None)
    if first:
        kind, example = first
        raise RequestError(f"{path} is an object detection set ({kind}: {example} ...); {REMEDY}")


def _annotations(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Yield the kind and the path of documents that hold annotations."""
    pictures = {PurePosixPath(name).stem for name in files if not is_note(name)}
    checks = {".json": ("COCO", _is_coco), ".xml": ("Pascal VOC", _is_voc), ".txt": ("YOLO", _is_yolo)}
    for suffix, (kind, fits) in checks.items():
        documents = (name for name in files if name.lower().endswith(suffix))
        beside = (name for name in documents if suffix == ".json" or PurePosixPath(name).stem in pictures)
        yield from ((kind, name) for name in islice(beside, LOOKED_AT) if fits(_ends(files[name])))


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(PART)
        file.seek(max(len(start), path.stat().st_size - PART))
        return start + file.read(PART)


def _is_coco(data: bytes) -> bool:
    return bool(LISTS.search(data) and BOX.search(data))


def _is_voc(data: bytes) -> bool:
    return b"<annotation" in data and b"<bndbox>" in data


def _is_yolo(data: bytes) -> bool:
    lines = data.decode(errors="replace").split("\n")[:LOOKED_AT]
    rows = [line.strip() for line in lines if line.strip()]
    return bool(rows) and all(YOLO.fullmatch(row) for row in rows)
