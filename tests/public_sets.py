"""Six sets of pictures as people publish them, drawn: each writes its files below a folder; returns what to `use`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

SIDE = 64
SPELLINGS = (
    ("train", "val", "test"),
    ("Training", "Validation", "Testing"),
    ("TRAIN", "VALID", "TEST"),
    ("train_images", "dev_images", "test_images"),
    ("shapes_train", "shapes_val", "shapes_test"),
)
SIZES = (16, 6, 10)


def drawn(shape: int, number: int) -> Image.Image:
    """Draw one of four shapes (disc, square, triangle, cross) on a noisy ground; each number is another picture."""
    rng = np.random.default_rng((shape, number))
    ground = np.full((SIDE, SIDE, 3), rng.integers(20, 110, 3)) + rng.normal(0, 12, (SIDE, SIDE, 3))
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    x, y = rng.integers(4, 24, 2).tolist()
    size, fill = int(rng.integers(26, 38)), tuple(rng.integers(140, 256, 3).tolist())
    pen, box = ImageDraw.Draw(picture), (x, y, x + size, y + size)
    if shape == 0:
        pen.ellipse(box, fill)
    elif shape == 1:
        pen.rectangle(box, fill)
    elif shape == 2:
        pen.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill)
    else:
        pen.line((x, y, x + size, y + size), fill, 7)
        pen.line((x, y + size, x + size, y), fill, 7)
    return picture


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=92)


def split_folders(folder: Path, names: tuple[str, str, str] = SPELLINGS[0]) -> Path:
    number = 0
    for split, count in zip(names, SIZES, strict=True):
        for shape, label in enumerate(("disc", "square", "cross")):
            for _ in range(count):
                save(drawn(shape if shape < 2 else 3, number), folder / split / label / f"{number:04}.jpg")
                number += 1
    return folder


def medical(folder: Path) -> Path:
    """Write greyscale pictures in split folders, with exact and near copies across the splits."""
    for number, (split, label, shape) in enumerate(_cells()):
        save(drawn(shape, number).convert("L"), folder / split / label / f"p{number:04}.png")
    scans = {split: sorted((folder / split / "normal").iterdir()) for split in ("train", "val", "test")}
    for number, path in enumerate(scans["test"][:3]):
        (folder / f"train/normal/again{number}.png").write_bytes(path.read_bytes())
    for number, path in enumerate(scans["val"][:2]):
        save(Image.open(path).resize((96, 96)), folder / f"train/normal/export{number}.jpg")
    return folder


def _cells() -> Iterator[tuple[str, str, int]]:
    for split, count in zip(("train", "val", "test"), SIZES, strict=True):
        for shape, label in enumerate(("normal", "pneumonia")):
            yield from [(split, label, shape)] * count


def industrial(folder: Path) -> Path:
    """Write three exposures of each part, and a listing with the part's number as group."""
    rows = ["file;class;group"]
    for shape, label in ((1, "good"), (3, "broken")):
        for part in range(16):
            for exposure in (0.8, 1.0, 1.25):
                name = f"images/{label}{part:02}_{exposure}.jpg"
                save(ImageEnhance.Brightness(drawn(shape, 100 * shape + part)).enhance(exposure), folder / name)
                rows.append(f"{name};{label};{label}{part:02}")
    (folder / "parts.csv").write_text("\n".join(rows) + "\n")
    return folder / "parts.csv"


def tiny(folder: Path) -> Path:
    for shape, label in enumerate(("a", "b", "c")):
        for number in range(12):
            save(drawn(shape, number), folder / label / f"{number}.jpg")
    return folder


def imbalanced(folder: Path) -> Path:
    for shape, label, count in ((0, "common", 320), (3, "rare", 20)):
        for number in range(count):
            save(drawn(shape, number), folder / label / f"{number:03}.png")
    return folder


def nested(folder: Path) -> Path:
    """Write two levels of classes in a wrapper folder, with sidecars, the litter of systems, and a listing."""
    rows, top = ["image_path,category"], folder / "archive/shapes"
    for shape, label in enumerate(("round/disc", "round/ring", "angular/square", "angular/cross")):
        for number in range(40):
            save(drawn((0, 2, 1, 3)[shape], 1000 * shape + number), top / label / f"{number:02}.jpg")
            (top / label / f"{number:02}.json").write_text(json.dumps({"author": "a", "width": SIDE}))
            rows.append(f"shapes/{label}/{number:02}.jpg,{label.split('/')[1]}")
        (top / label / "Thumbs.db").write_bytes(b"litter")
    (folder / "archive/__MACOSX").mkdir()
    (folder / "archive/__MACOSX/._x").write_bytes(b"litter")
    (folder / "archive/labels.csv").write_text("\n".join(rows) + "\n")
    return folder


SETS: dict[str, Callable[[Path], Path]] = {
    "split folders": split_folders,
    "medical": medical,
    "industrial": industrial,
    "tiny": tiny,
    "imbalanced": imbalanced,
    "nested": nested,
}
