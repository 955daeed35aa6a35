"""The machine that a stage computes on: threads and determinism are set here, inside the step, from `params.yaml`."""

from collections.abc import Iterator
from dataclasses import dataclass

from steps.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class ComputeParams:
    """How a stage uses the machine. One and two threads train different weights, so this is a value like any other."""

    threads: int
    batch_size: int

    def faults(self) -> Iterator[str]:
        """Yield each value that no machine supports."""
        if not 1 <= self.threads <= 256:
            yield f"threads is {self.threads}; 1 to 256"
        if not 1 <= self.batch_size <= 4096:
            yield f"batch_size is {self.batch_size}; 1 to 4096"


def configure(compute: ComputeParams) -> None:
    """Set the threads of torch, BLAS and OpenMP, and torch's deterministic algorithms, for the stage that follows."""
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(compute.threads)
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(True)


def refuse_absent(device: str) -> None:
    """Raise RequestError where the machine has no such device; nothing falls back in silence."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        found = ", ".join(name for name, present in there.items() if present)
        raise RequestError(f"extract_features.device is {device}; this machine has {found}")
