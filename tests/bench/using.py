"""What `regraft use` costs: `python -m tests.bench.using 5000`, for split folders, a zip of them, and a listing.

Seconds of the processor, because the clock counts the neighbours, and of the clock, of the whole command.
"""

import os
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from tests.conftest import make_project
from tests.public_sets import drawn, save

CLASSES, SHARES = 10, {"Train": 0.7, "Valid": 0.1, "Test": 0.2}


def write_set(folder: Path, count: int) -> list[Path]:
    """Write JPEGs in split folders, a zip and a listing of them; return what to `use`."""
    names = []
    for split, share in SHARES.items():
        for number in range(round(count * share)):
            names.append(f"photos/{split}/class{number % CLASSES}/{number:06}.jpg")
            save(drawn(number % 4, len(names)), folder / names[-1])
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
    rows = [f"{name},{name.split('/')[2]},{name.split('/')[1]}" for name in names]
    (folder / "labels.csv").write_text("\n".join(["file,class,subset", *rows]) + "\n")
    return [folder / "photos", folder / "photos.zip", folder / "labels.csv"]


def main(count: int) -> None:
    """Print a line for each form of the set."""
    with tempfile.TemporaryDirectory() as place:
        project = make_project(Path(place) / "project", os.environ)
        for images in write_set(Path(place), count):
            start, spent = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            project.must("regraft", "use", str(images), "--backbone", "glyphnet")
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = used.ru_utime + used.ru_stime - spent.ru_utime - spent.ru_stime
            sys.stdout.write(f"| {images.name} | {count:,} | {processor:.1f} | {time.monotonic() - start:.1f} |\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
