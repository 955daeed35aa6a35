"""What `regraft tune` measures is on the user's images; what it writes is the fastest that is near enough."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from flows.tune import BATCHES, TOLERANCE, _values, fastest, tune
from steps.backbones import models
from steps.backbones import speed as measuring
from steps.backbones.speed import BFLOAT16, EAGER, FOLDED, PLAIN, Speed
from steps.commands import origins
from steps.errors import RequestError
from steps.extract_features import extract_features
from steps.runtime import files, params, stage
from tests.conftest import REPOSITORY, write_images

SLOW, FAST = Speed(PLAIN, 1, 10.0, 0.1, 0.0), Speed(FOLDED, 2, 30.0, 0.1, 1e-6)
WILD = Speed(BFLOAT16, 2, 90.0, 0.1, 2 * TOLERANCE)
NEAR = replace(WILD, deviation=TOLERANCE / 2)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_images(tmp_path / "data/raw", per_class=3)
    card, state = origins.embedded()
    files.write_tensors(tmp_path / "data/backbone" / models.WEIGHTS, state)
    models.write_card(tmp_path / "data/backbone", card)
    files.write_json(tmp_path / "data/preprocessing.json", card.preprocessing.to_dict())
    paths = sorted((tmp_path / "data/raw").rglob("*.png"))
    rows = [{"path": str(p.relative_to(tmp_path / "data/raw")), "id": files.sha256_of(p)} for p in paths]
    files.write_table(tmp_path / "data/accepted.parquet", pd.DataFrame(rows))
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    return tmp_path


def test_the_fastest_wins_unless_its_features_are_too_far_off() -> None:
    assert fastest([SLOW, WILD, FAST], 100) is FAST
    assert fastest([SLOW, NEAR, FAST], 100).mode is BFLOAT16


def test_the_compiler_has_to_pay_back_on_the_images_that_there_are() -> None:
    """30 s of compiling against 1/30 - 1/60 s saved an image: 1,800 images."""
    compiled = Speed(replace(FOLDED, compiled=True), 2, 60.0, 30.0, 0.0)
    assert [fastest([FAST, compiled], images) for images in (1790, 1810)] == [FAST, compiled]


def test_every_way_is_measured_and_nothing_is_written_unasked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    monkeypatch.setattr("flows.tune.processors", lambda: 2)
    before = (project / "params.yaml").read_bytes()
    said = [*tune(project, compiled=False, write=False)]
    assert sum(line.startswith("decode") for line in said) == 2
    assert sum(line.startswith("forward") for line in said) == 2 * len(EAGER)
    assert all(float(line.split()[3]) > 0 for line in said[:10])
    batches = [line for line in said if line.startswith("batches of")]
    assert [int(line.split()[2]) for line in batches] == list(BATCHES)
    assert all(float(line.split()[3]) > 0 for line in batches)
    assert [line.endswith("(compute.batch_size)") for line in batches] == [size == 32 for size in BATCHES]
    assert (project / "params.yaml").read_bytes() == before


def test_writing_changes_the_values_and_keeps_comments_and_all_the_rest(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    monkeypatch.setattr(
        "flows.tune.speeds", lambda *_: iter([SLOW, replace(FAST, threads=1), replace(NEAR, threads=1)])
    )
    before = (project / "params.yaml").read_text()
    list(tune(project, compiled=False, write=True))
    after = (project / "params.yaml").read_text()
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [a.split(":")[0].strip() for a, _ in changed] == ["threads", "precision", "precision"]
    assert changed[0][1].split("#")[1] == changed[0][0].split("#")[1]
    stage.values(extract_features, params.read(project))
    assert params.read(project)["fine_tune"]["precision"] == "bfloat16"


def test_a_gpu_stays_the_device_and_fine_tuning_is_written_what_the_processor_is_good_at() -> None:
    on_gpu = Speed(replace(BFLOAT16, device="cuda"), 1, 9000.0, 0.1, 0.01)
    assert _values(on_gpu, FAST) == {
        "compute": {"threads": 2},
        "extract_features": vars(on_gpu.mode),
        "fine_tune": {"precision": "float32"},
    }


def test_a_device_that_is_not_there_is_refused_before_anything_is_measured(project: Path) -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: mps"))
    with pytest.raises(RequestError, match=r"extract_features\.device is mps"):
        next(tune(project, compiled=False, write=True))


def test_without_accepted_images_it_says_what_to_do(project: Path) -> None:
    (project / "data/accepted.parquet").unlink()
    with pytest.raises(RequestError, match="run validate"):
        next(tune(project, compiled=False, write=False))
