"""What DVC costs for many small images, loose and packed: `python -m tests.bench.versioning 1000 10000 100000`.

Everything happens in a temporary folder with a remote beside it. A source of two class folders is mirrored as the
project does it, loose and packed; then DVC does its work. Processor seconds, because the clock counts the neighbours.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flows.sources import Source, mirror

BYTES, NEW = 2_000, 10
BIN = Path(sys.executable).parent


def write_images(folder: Path, first: int, count: int) -> None:
    """Write files that do not compress into two class folders: DVC does not look into a picture."""
    rng = np.random.default_rng(first)
    for number in range(count):
        path = folder / ("ant" if number % 2 else "bee") / f"{first}-{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(BYTES))


def spent() -> float:
    """Return the processor seconds, user and system, of this process and of the commands that it ran."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(home: Path, source: Path, form: str) -> Iterator[tuple[str, float]]:
    """Yield each step with its processor seconds, in order."""
    root, environment = home / form, {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(home / "site")}
    root.mkdir()

    def dvc(*arguments: str) -> float:
        start = spent()
        subprocess.run([BIN / "dvc", *arguments, "-q"], cwd=root, env=environment, check=True, stdout=sys.stderr)
        return spent() - start

    def mirrored() -> float:
        start = spent()
        mirror(Source(source, packed=form == "packed"), root / "raw", home / "memory.parquet")
        return spent() - start

    dvc("init", "--no-scm")
    dvc("remote", "add", "-d", "beside", str(home / f"remote-{form}"))
    yield "nothing", dvc("status")
    yield "mirror", mirrored()
    yield "add", dvc("add", "raw")
    yield "status", dvc("status")
    yield "push", dvc("push")
    yield "mirror unchanged", mirrored()
    write_images(source, 2, NEW)
    yield f"mirror {NEW} more", mirrored()
    yield f"add {NEW} more", dvc("add", "raw")
    yield "push them", dvc("push")
    for path in source.rglob("2-*.jpg"):
        path.unlink()
    shutil.rmtree(root)
    shutil.rmtree(home / f"remote-{form}")


def main(counts: list[int]) -> None:
    """Print a table for docs/versioning.md."""
    import steps.images.packing  # noqa: F401 - its imports take a second, once

    out = sys.stdout
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            home = Path(place)
            write_images(home / "source", 1, count)
            found = {}
            for form in ("loose", "packed"):
                found[form] = dict(measure(home, home / "source", form))
        for step, loose in found["loose"].items():
            packed = found["packed"][step]
            out.write(f"| {count:,} | {step} | {loose:.1f} | {packed:.1f} | {loose / packed:.1f} |\n")
            out.flush()


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [1000, 10_000])
