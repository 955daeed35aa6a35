"""Threads and determinism of the machine, set here, inside the stage, from `params.yaml`."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from steps.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class ComputeParams:
    """How a stage uses the machine: one and two threads train different weights, so these are params like any other."""

    threads: Annotated[int, Interval(ge=1, le=256)]
    batch_size: Annotated[int, Interval(ge=1, le=4096)]


def processors(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many processors this process may use: by affinity, and by the quota of its container or service.

    Source: cgroup-v2.rst (cpu.max) and sched-bwc.rst (cpu.cfs_quota_us) of the Linux kernel's documentation.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups(cgroup, membership) for quota in _quota(group)]
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def _groups(cgroup: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups and of those above: each may have a quota (cgroup v2, or v1's cpu)."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = cgroup / "cpu" if controllers else cgroup
        own = base / path.lstrip("/")
        yield from (group for group in (own, *own.parents) if group == base or base in group.parents)


def _quota(group: Path) -> Iterator[float]:
    """Yield a group's quota of processor time, in processors; nothing if it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text(encoding="ascii") for name in names).split()
            if quota != "max" and int(quota) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file: the other version
            continue


def configure(compute: ComputeParams) -> None:
    """Set the threads of torch, BLAS and OpenMP, and torch's deterministic algorithms, for the stage that follows."""
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(compute.threads)
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.allow_tf32 = False  # torch's default is True: convolutions of float32 would keep 10 bits
    torch.backends.cuda.matmul.allow_tf32 = False


def refuse_absent(device: str) -> None:
    """Raise RequestError if the machine lacks the device; nothing falls back silently."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        available = ", ".join(name for name, present in there.items() if present)
        raise RequestError(f"extract_features.device is {device}; this machine has {available}")
