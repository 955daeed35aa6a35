"""`regraft tune`: measure the ways to compute features, on the user's images and backbone; write the best if asked."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.project import editing_params
from steps.adapters import models, params
from steps.tune import COMPILED, EAGER, Speed, decode_rate, sample, speeds

TOLERANCE = 0.05  # how far features may be from the plain float32 ones; bfloat16 is off by 1 to 2 %


def tune(root: Path, compiled: bool, write: bool, say: Callable[[str], None]) -> None:
    """Measure, say each figure as it comes, then the best; `write` puts it into params.yaml."""
    now = params.read(root)
    data, pixels, network = sample(root, now["compute"]["batch_size"])
    threads = sorted({1, max(1, (os.cpu_count() or 1) // 2), os.cpu_count() or 1})
    spec = models.read_preprocessing(root / "data" / "preprocessing.json")
    for count in threads:
        say(f"decode   {count:>3} threads  {decode_rate(data, spec, count):>8.1f} images/s")
    found = []
    for speed in speeds(network, pixels, EAGER + (COMPILED if compiled else ()), threads):
        found.append(speed)
        say(f"forward  {speed.threads:>3} threads  {speed.per_second:>8.1f} images/s  {described(speed)}")
    best = fastest(found)
    say(f"fastest within {TOLERANCE:.0%} of plain float32: {described(best)}, {best.threads} threads")
    if write:
        _write(root, best)
        say("params.yaml now says so; the features will be computed anew, and other threads train other weights")
    else:
        say("`regraft tune --write` puts it into params.yaml")


def fastest(found: list[Speed]) -> Speed:
    """Return the fastest way whose features are near enough to the plain ones."""
    return max((speed for speed in found if speed.deviation <= TOLERANCE), key=lambda speed: speed.per_second)


def described(speed: Speed) -> str:
    """Say in words which way it is."""
    mode = speed.mode
    parts = [mode.precision, "channels last" if mode.channels_last else "channels first"]
    parts += ["norms folded"] * mode.fold_norms + [f"compiled in {speed.first_seconds:.0f} s"] * mode.compiled
    return f"{', '.join(parts)} (off by {speed.deviation:.1e})"


def _values(best: Speed) -> dict[str, dict[str, Any]]:
    return {"compute": {"threads": best.threads}, "extract_features": dict(vars(best.mode))}


def _write(root: Path, best: Speed) -> None:
    with editing_params(root) as document:
        for section, values in _values(best).items():
            document[section].update(values)
