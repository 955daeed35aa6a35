"""The bench reads times off the pipeline's own lines and adds pictures that were not there."""

from pathlib import Path

import pytest

from steps.adapters import files
from tests.bench.pipeline import _stages, add_images
from tests.conftest import write_images


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
