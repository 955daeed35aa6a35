"""What the gate costs on a large manifest: `python -m tests.bench.validation 1000000`. Processor seconds, memory."""

import hashlib
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from steps.checks import expectations
from steps.checks.rule import Rule
from steps.checks.rules import totals
from steps.images.manifest import SPLITS, Row, class_counts

CLASSES = 100
RULES = [  # one of each kind that the gate asks of single images
    Rule("columns", table="images", kind="columns", column="id", what="", remedy="", allowed=Row._fields),
    Rule("pattern", table="images", kind="matches", column="id", what="", remedy="", allowed=("[0-9a-f]{64}",)),
    Rule("set", table="images", kind="in_set", column="split", what="", remedy="", allowed=SPLITS),
    Rule("unique", table="images", kind="unique", column="path", what="", remedy=""),
    Rule("range", table="images", kind="between", column="width", what="", remedy="", low=1),
    Rule("one value a key", table="images", kind="one_value", column="split", what="", remedy="", per="id"),
]


def manifest(count: int) -> pd.DataFrame:
    """Make a manifest that breaks no rule."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, count)
    return pd.DataFrame(
        {
            "id": [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)],
            "path": [f"class {la:03}/{i:07}.jpg" for i, la in enumerate(label)],
            "label": [f"class {la:03}" for la in label],
            "split": rng.choice(SPLITS[:3], count, p=[0.6, 0.2, 0.2]),
            "width": rng.integers(100, 4000, count),
            "height": rng.integers(100, 4000, count),
            "mode": "RGB",
            "bytes": rng.integers(1000, 10**6, count),
            "format": "JPEG",
            "group": "",
            "source": "",
            "weight": 1.0,
            "phash": [f"{value:016x}" for value in rng.integers(0, 2**63, count)],
            "brightness": rng.random(count),
            "contrast": rng.random(count) / 2,
            "sharpness": rng.random(count),
            "taken": "",
        }
    )[list(Row._fields)]


def main(count: int) -> None:
    """Print the processor seconds of each kind of rule, of all together, and the peak of memory."""
    import great_expectations  # noqa: F401 - its import takes seconds, once

    out, table = sys.stdout, manifest(count)
    start = time.process_time()
    counts = class_counts(zip(table["split"], table["label"], strict=True))
    totals(len(table), counts, 0)
    out.write(f"| totals and counts | {time.process_time() - start:.1f} |\n")
    with TemporaryDirectory() as docs:
        for chosen in (*([rule] for rule in RULES), RULES):
            start = time.process_time()
            found = expectations.check({"images": table}, chosen, Path(docs) / "docs")
            name = f"kind: {chosen[0].name}" if len(chosen) == 1 else "all kinds at once"
            passed = "" if all(rule.passed for rule in found) else " BROKEN"
            out.write(f"| {name}{passed} | {time.process_time() - start:.1f} |\n")
            out.flush()
    out.write(f"| peak memory, MiB | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} |\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
