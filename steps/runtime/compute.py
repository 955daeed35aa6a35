"""Threads and determinism of the machine, set here, inside the stage, from `params.yaml`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from steps.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class ComputeParams:
    """How a stage uses the machine: one and two threads train different weights, so these are params like any other."""

    threads: Annotated[int, Interval(ge=1, le=256)]
    batch_size: Annotated[int, Interval(ge=1, le=4096)]


def configure(compute: ComputeParams) -> None:
    """Set the threads of torch, BLAS and OpenMP, and torch's deterministic algorithms, for the stage that follows."""
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(compute.threads)
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(True)


def refuse_absent(device: str) -> None:
    """Raise RequestError if the machine lacks the device; nothing falls back silently."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        available = ", ".join(name for name, present in there.items() if present)
        raise RequestError(f"extract_features.device is {device}; this machine has {available}")
