"""The bench reads times off the pipeline's own lines and adds pictures that were not there."""

import shutil
from pathlib import Path

import pytest

from steps.backbones import models
from steps.backbones.speed import BFLOAT16, FOLDED, Speed
from steps.commands import origins
from steps.runtime import files, params
from tests.bench import __main__ as bench
from tests.bench.pipeline import _stages, add_images
from tests.conftest import REPOSITORY, Project, write_images


def test_a_stage_lasts_until_the_next_ones_line_and_the_last_until_the_end() -> None:
    lines = [(0.5, "mirroring\n"), (2.0, "ingest ...\n"), (3.0, "3 of 9 images\n"), (5.5, "validate ... (attempt 2)\n")]
    assert _stages(lines, 9.0) == pytest.approx({"start": 2.0, "ingest": 3.5, "validate": 3.5})
    assert _stages([(1.0, "nothing\n")], 2.0) == {}


def test_added_pictures_are_new_and_as_many_as_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path / "train", per_class=5)
    seen = {files.sha256_of(path) for path in tmp_path.rglob("*.png")}
    for total, count in ((17, 2), (21, 4)):
        add_images(tmp_path, count)
        found = {files.sha256_of(path) for path in tmp_path.rglob("*.png")}
        assert seen < found
        assert len(found) == total
        seen = found


def test_the_measured_mode_is_what_the_cold_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, state = origins.embedded()
    files.write_tensors(tmp_path / "data/backbone" / models.WEIGHTS, state)
    models.write_card(tmp_path / "data/backbone", card)
    write_images(tmp_path / "pictures/train", per_class=2)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    for slow, fast in ((BFLOAT16, FOLDED), (FOLDED, BFLOAT16)):
        found = [Speed(slow, 2, 10.0, 0.1, 0.0), Speed(fast, 2, 20.0, 0.1, 0.01)]
        monkeypatch.setattr(bench, "speeds", lambda *_, found=found: iter(found))
        assert bench.choose_mode(Project(tmp_path, {}), tmp_path / "pictures") == fast
        written = params.read(tmp_path)
        assert vars(fast).items() <= written["extract_features"].items()
        assert written["fine_tune"]["precision"] == fast.precision
