"""`regraft tune`: measure the ways to compute features, on the user's images and backbone; write the best if asked."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.project import editing_params
from steps.backbones import models
from steps.backbones.speed import COMPILED, EAGER, Speed, batch_rates, decode_rate, sample, speeds
from steps.runtime import files, params
from steps.runtime.compute import processors, refuse_absent

TOLERANCE = 0.05  # how far features may be from the plain float32 ones; bfloat16 is off by 1 to 2 %
BATCHES = (16, 32, 64)


def tune(root: Path, compiled: bool, write: bool) -> Iterator[str]:
    """Measure; yield one line per figure, then the best mode. `write` puts that into params.yaml.

    The device is the user's. Raises RequestError if the machine lacks it, or if no images were accepted yet.
    """
    now = params.read(root)
    device, size = now["extract_features"]["device"], now["compute"]["batch_size"]
    refuse_absent(device)
    data, pixels, network = sample(root, size)
    images = files.read_table(root / "data" / "accepted.parquet")["id"].nunique()
    threads = sorted({1, max(1, processors() // 2), processors()})
    spec = models.read_preprocessing(root / "data" / "preprocessing.json")
    for count in threads:
        yield f"decode   {count:>3} threads  {decode_rate(data, spec, count):>8.1f} images/s"
    modes = [replace(mode, device=device) for mode in EAGER + (COMPILED if compiled else ())]
    measured = []
    for speed in speeds(network, pixels, tuple(dict.fromkeys((*EAGER, *modes))), threads):
        measured.append(speed)
        yield f"forward  {speed.threads:>3} threads  {speed.per_second:>8.1f} images/s  {described(speed)}"
    best = fastest([speed for speed in measured if speed.mode.device == device], images)
    for count, rate in batch_rates(network, pixels, best.mode, best.threads, BATCHES):
        yield f"batches of {count:>3}        {rate:>8.1f} images/s{'  (compute.batch_size)' if count == size else ''}"
    yield (
        f"fastest for {images:,} images within {TOLERANCE:.0%} of plain float32: {described(best)}, "
        f"{best.threads} threads"
    )
    if write:
        _write(root, _values(best, fastest([speed for speed in measured if speed.mode in EAGER], images)))
        yield "params.yaml now says so; the features will be computed anew, and other threads train other weights"
        yield "compute.batch_size stays: it is the training step's too, and another one trains another model"
    else:
        yield "`regraft tune --write` puts it into params.yaml"


def fastest(found: list[Speed], images: int) -> Speed:
    """Return the fastest mode for these images among those whose features are close enough to the plain ones.

    Compile time counts: it is spent once, for any number of images.
    """
    return min((speed for speed in found if speed.deviation <= TOLERANCE), key=lambda speed: speed.seconds(images))


def described(speed: Speed) -> str:
    """Describe the mode in words."""
    mode = speed.mode
    parts = [mode.precision, "channels last" if mode.channels_last else "channels first"]
    parts += ["norms folded"] * mode.fold_norms + [f"compiled in {speed.first_seconds:.0f} s"] * mode.compiled
    parts += [f"on {mode.device}"] * (mode.device != "cpu")
    return f"{', '.join(parts)} (off by {speed.deviation:.1e})"


def _values(best: Speed, eager: Speed) -> dict[str, dict[str, Any]]:
    """Return the values to write: extraction's best mode, and the processor's best eager mode, for fine-tuning."""
    return {
        "compute": {"threads": best.threads if best.mode.device == "cpu" else eager.threads},
        "extract_features": dict(vars(best.mode)),
        "fine_tune": {"precision": eager.mode.precision},
    }


def _write(root: Path, changed: dict[str, dict[str, Any]]) -> None:
    with editing_params(root) as document:
        for section, values in changed.items():
            document[section].update(values)
