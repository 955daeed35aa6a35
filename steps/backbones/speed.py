"""Measure how fast this machine decodes and computes, for `regraft tune` and `make bench`. Decides nothing.

Figures are images per second, the median of several rounds; figures to compare are measured in one process.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from steps.backbones import models
from steps.backbones.forward import Forward, Mode
from steps.errors import RequestError
from steps.images import decoding
from steps.images.preprocessing import Preprocessing, preprocess
from steps.runtime import files
from steps.runtime.compute import ComputeParams, configure

PLAIN = Mode(precision="float32", channels_last=False, fold_norms=False, compiled=False, device="cpu")
LAST = replace(PLAIN, channels_last=True)
FOLDED = replace(LAST, fold_norms=True)
BFLOAT16 = replace(FOLDED, precision="bfloat16")
EAGER = (PLAIN, LAST, FOLDED, BFLOAT16)
COMPILED = (replace(FOLDED, compiled=True), replace(BFLOAT16, compiled=True))
SECONDS, ROUNDS = 1.0, 3  # the least time and the fewest rounds of a measurement


@dataclass(frozen=True)
class Speed:
    """How fast one way of computing is, and how far its features are from the plain float32 ones (relative, worst)."""

    mode: Mode
    threads: int
    per_second: float
    first_seconds: float
    deviation: float

    def seconds(self, images: int) -> float:
        """Return the seconds for this many images, compilation included."""
        return images / self.per_second + (self.first_seconds if self.mode.compiled else 0.0)


def sample(root: Path, count: int) -> tuple[list[bytes], torch.Tensor, nn.Module]:
    """Return the bytes of some accepted images, the same images preprocessed, and the backbone of the project.

    Raises RequestError if nothing was accepted yet.
    """
    accepted = root / "data" / "accepted.parquet"
    if not accepted.exists():
        raise RequestError("no images were accepted yet; `regraft run validate` first")
    table = files.read_table(accepted).drop_duplicates("id").sort_values("id")[:count]
    spec = models.read_preprocessing(root / "data" / "preprocessing.json")
    data = [decoding.bytes_of(root / "data" / "raw", row.path, row.id) for row in table.itertuples()]
    pixels = torch.stack([preprocess(decoding.decode(image, spec.grey_bits), spec) for image in data])
    return data, pixels, models.load_backbone(root / "data" / "backbone")[1]


def rate(work: Callable[[], object], count: int) -> float:
    """Return `count` over the median seconds of `work`."""
    taken: list[float] = []
    while len(taken) < ROUNDS or sum(taken) < SECONDS:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return count / statistics.median(taken)


def decode_rate(data: list[bytes], spec: Preprocessing, threads: int) -> float:
    """Return images per second from bytes to preprocessed tensor, with this many threads."""
    torch.set_num_threads(1)
    return rate(
        lambda: list(
            decoding.parallel(lambda image: preprocess(decoding.decode(image, spec.grey_bits), spec), data, threads)
        ),
        len(data),
    )


def speeds(network: nn.Module, pixels: torch.Tensor, modes: tuple[Mode, ...], threads: list[int]) -> Iterator[Speed]:
    """Yield the speed of each mode at each number of threads on a batch [n, 3, h, w]."""
    wanted = Forward(network, [""], PLAIN, len(pixels))(pixels)[""]
    for mode in modes:
        for count in threads:
            configure(ComputeParams(threads=count, batch_size=len(pixels)))
            torch.compiler.reset()  # compiled code has the number of threads in it
            forward = Forward(network, [""], mode, len(pixels))
            start = time.perf_counter()
            features = forward(pixels)[""]
            first = time.perf_counter() - start
            yield Speed(mode, count, _rate(forward, pixels), first, _deviation(features, wanted))


def batch_rates(
    network: nn.Module, pixels: torch.Tensor, mode: Mode, threads: int, sizes: tuple[int, ...]
) -> Iterator[tuple[int, float]]:
    """Yield each batch size with the images per second of one mode; few images are repeated."""
    for size in sizes:
        configure(ComputeParams(threads=threads, batch_size=size))
        torch.compiler.reset()
        batch, forward = pixels[torch.arange(size) % len(pixels)], Forward(network, [""], mode, size)
        forward(batch)  # the first call compiles and reserves memory
        yield size, _rate(forward, batch)


def _rate(forward: Forward, pixels: torch.Tensor) -> float:
    return rate(lambda: forward(pixels), len(pixels))


def _deviation(
    features: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
    wanted: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
) -> float:
    """Return the largest distance between an image's features and the wanted ones, as a share of their length."""
    return float((np.linalg.norm(features - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max())
