"""The rival from scratch learns whatever momentum its BatchNorm has."""

from pathlib import Path

import pytest
import torch

from tests.studies.scratch import rival


@pytest.mark.exhaustive
def test_mobilenet_from_scratch_learns_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        accuracy, _ = rival(tmp_path, "mobilenet_v3_small", 64, rates=[1e-3], draws=1)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
    assert accuracy > 0.8, "momentum 0.01: at chance, 0.1, with running averages"
