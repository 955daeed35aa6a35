"""What DVC costs for many small images, loose and packed: `python -m tests.bench.versioning 1000 10000`.

Everything happens in a temporary folder with a remote beside it. Loose: one file an image in two class folders.
Packed: the same bytes in tar shards cut by the first digits of the images' SHA-256, about 500 images a shard.
"""

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np

BYTES, PER_SHARD, NEW = 4_000, 500, 10
BIN = Path(sys.executable).parent
Pictures = dict[str, bytes]


def pictures(first: int, count: int) -> Pictures:
    """Make bytes that do not compress, by their digest: DVC does not look into a picture."""
    rng = np.random.default_rng(first)
    made = (rng.bytes(BYTES) for _ in range(count))
    return {hashlib.sha256(data).hexdigest(): data for data in made}


def write_loose(folder: Path, images: Pictures) -> None:
    for name, data in images.items():
        path = folder / ("ant" if int(name[-1], 16) % 2 else "bee") / f"{name[:16]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_packed(folder: Path, images: Pictures) -> None:
    """Write a shard for each prefix; members sorted, without dates and owners: a pure function of the set."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(f"{max(1, len(images) // PER_SHARD) - 1:x}") if len(images) > PER_SHARD else 0
    shards: dict[str, list[str]] = {}
    for name in sorted(images):
        shards.setdefault(name[:digits], []).append(name)
    for prefix, names in shards.items():
        path = folder / f"images-{prefix}.tar"
        whole = packed(names, images)
        if not path.exists() or path.read_bytes() != whole:
            path.unlink(missing_ok=True)
            path.write_bytes(whole)


def packed(names: Iterable[str], images: Pictures) -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(images[name])
            tar.addfile(member, BytesIO(images[name]))
    return stream.getvalue()


def spent() -> float:
    """Return the processor seconds, user and system, of the commands so far: the clock also counts the neighbours."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(home: Path, count: int, form: str) -> dict[str, float]:
    """Return the processor seconds of each command, in order."""
    write = {"loose": write_loose, "packed": write_packed}[form]
    root, environment = home / form, {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(home / "site")}
    root.mkdir()

    def dvc(*arguments: str) -> float:
        start = spent()
        subprocess.run([BIN / "dvc", *arguments, "-q"], cwd=root, env=environment, check=True, stdout=sys.stderr)
        return spent() - start

    dvc("init", "--no-scm")
    dvc("remote", "add", "-d", "beside", str(home / f"remote-{form}"))
    images = pictures(1, count)
    write(root / "raw", images)
    seconds = {"nothing": dvc("status"), "add": dvc("add", "raw"), "status": dvc("status"), "push": dvc("push")}
    write(root / "raw", images | pictures(2, NEW))
    seconds |= {f"add {NEW} more": dvc("add", "raw"), "push them": dvc("push")}
    shutil.rmtree(root)
    return seconds


def main(counts: list[int]) -> None:
    """Print a table for docs/versioning.md."""
    out = sys.stdout
    for count in counts:
        with tempfile.TemporaryDirectory() as home:
            found = {form: measure(Path(home), count, form) for form in ("loose", "packed")}
        for command, loose in found["loose"].items():
            small = found["packed"][command]
            out.write(f"| {count:,} | {command} | {loose:.1f} | {small:.1f} | {loose / small:.1f} |\n")
            out.flush()


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [1000, 10_000])
