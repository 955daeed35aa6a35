"""Peak memory of an extraction as the images grow: `python -m tests.bench.memory 10000 100000`."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from steps.backbones import models
from steps.commands import origins
from steps.runtime import files

SIDE = 16
console = Console()


def write(root: Path, count: int) -> None:
    """Write `count` generated pictures (PPM: nothing to encode), their table, and the embedded backbone."""
    generator, rows = np.random.default_rng(0), []
    for number in range(count):
        path = root / "raw" / f"{number // 1000:03}" / f"{number:06}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"P6 %d %d 255\n" % (SIDE, SIDE) + generator.bytes(3 * SIDE * SIDE))
        rows.append({"path": str(path.relative_to(root / "raw")), "id": files.sha256_of(path)})
    files.write_table(root / "accepted", pd.DataFrame(rows))
    card, state = origins.embedded()
    files.write_tensors(root / "backbone" / models.WEIGHTS, state)
    models.write_card(root / "backbone", card)
    files.write_json(root / "preprocessing", card.preprocessing.to_dict())


def extract(root: Path) -> None:
    """Run the stage in this process and print its peak memory in MB."""
    from steps.extract_features import ExtractFeaturesParams, extract_features
    from steps.runtime.compute import ComputeParams

    params = ExtractFeaturesParams(
        cuts=1, precision="float32", channels_last=True, fold_norms=True, compiled=False, device="cpu"
    )
    paths = [root / name for name in ("raw", "accepted", "preprocessing", "backbone", "features")]
    extract_features(params, ComputeParams(threads=2, batch_size=32), *paths)
    console.print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def measure(count: int) -> tuple[int, int, float, float]:
    """Return peak memory in MB of a cold extraction and of one from the store, and the seconds of both."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), count)
        command = [sys.executable, "-m", "tests.bench.memory", "--extract", folder]
        found: list[float] = []
        for _ in range(2):
            start = time.perf_counter()
            done = subprocess.run(command, env={**os.environ, "DVC_ROOT": folder}, capture_output=True, check=True)
            found += [int(done.stdout), time.perf_counter() - start]
        return int(found[0]), int(found[2]), found[1], found[3]


def main() -> None:
    table = Table("images", "peak MB, cold", "peak MB, from the store", "s, cold", "s, from the store")
    for count in map(int, sys.argv[1:]):
        cold, warm, cold_seconds, warm_seconds = measure(count)
        table.add_row(str(count), str(cold), str(warm), f"{cold_seconds:.0f}", f"{warm_seconds:.0f}")
    console.print(table)


if __name__ == "__main__":
    if sys.argv[1] == "--extract":
        extract(Path(sys.argv[2]))
    else:
        main()
