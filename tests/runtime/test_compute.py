"""How many processors a process may use: the least of affinity and of every quota above it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from steps.runtime.compute import ComputeParams, configure, processors
from tests.conftest import write

V2 = "0::/slice/run\n"
V1 = "4:memory:/run\n3:cpu,cpuacct:/run\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("membership", "held", "expected"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),  # a container
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        (V2, {"slice/run/cpu.max": "300000 100000", "slice/cpu.max": "200000 100000"}, 2),  # a service in a slice
        (V2, {"slice/other/cpu.max": "100000 100000"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu/run/cpu.cfs_quota_us": "-1\n", "cpu/run/cpu.cfs_period_us": "100000\n"}, 8),
        (V1, {"cpu/run/cpu.cfs_quota_us": "300000\n", "cpu/run/cpu.cfs_period_us": "100000\n"}, 3),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
        ("0::/\n", {}, 8),
    ],
)
def test_the_smallest_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, held: Mapping[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    write(tmp_path / "cgroup", {name: text.encode() for name, text in held.items()})
    (tmp_path / "membership").write_text(membership)
    assert processors(tmp_path / "cgroup", tmp_path / "membership") == expected


def test_affinity_counts_where_there_is_no_cgroup(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert processors(tmp_path, tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, before)


def test_float32_keeps_all_of_its_bits_on_a_graphics_card() -> None:
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        configure(ComputeParams(threads=1, batch_size=2))
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
