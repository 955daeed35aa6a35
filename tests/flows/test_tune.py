"""What `regraft tune` measures is on the user's images; what it writes is the fastest that is near enough."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from flows.tune import TOLERANCE, fastest, tune
from steps import tune as measuring
from steps.adapters import backbones, files, models, params, stage
from steps.errors import RequestError
from steps.extract_features import extract_features
from steps.tune import BFLOAT16, EAGER, FOLDED, PLAIN, Speed
from tests.conftest import REPOSITORY, write_images

SLOW, FAST = Speed(PLAIN, 1, 10.0, 0.1, 0.0), Speed(FOLDED, 2, 30.0, 0.1, 1e-6)
WILD = Speed(BFLOAT16, 2, 90.0, 0.1, 2 * TOLERANCE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_images(tmp_path / "data/raw", per_class=3)
    card, state = backbones.embedded()
    files.write_tensors(tmp_path / "data/backbone" / models.WEIGHTS, state)
    models.write_card(tmp_path / "data/backbone", card)
    files.write_json(tmp_path / "data/preprocessing.json", card.preprocessing.to_dict())
    paths = sorted((tmp_path / "data/raw").rglob("*.png"))
    rows = [{"path": str(p.relative_to(tmp_path / "data/raw")), "id": files.sha256_of(p)} for p in paths]
    files.write_table(tmp_path / "data/accepted.parquet", pd.DataFrame(rows))
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    return tmp_path


def test_the_fastest_wins_unless_its_features_are_too_far_off() -> None:
    assert fastest([SLOW, WILD, FAST]) is FAST
    assert fastest([SLOW, replace(WILD, deviation=TOLERANCE / 2), FAST]).mode is BFLOAT16


def test_every_way_is_measured_and_nothing_is_written_unasked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before, said = (project / "params.yaml").read_bytes(), list[str]()
    tune(project, compiled=False, write=False, say=said.append)
    assert sum(line.startswith("decode") for line in said) == 2
    assert sum(line.startswith("forward") for line in said) == 2 * len(EAGER)
    assert all(float(line.split()[3]) > 0 for line in said[:10])
    assert (project / "params.yaml").read_bytes() == before


def test_writing_changes_the_values_and_keeps_comments_and_all_the_rest(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.tune.speeds", lambda *_: iter([SLOW, replace(FAST, threads=1), WILD]))
    before = (project / "params.yaml").read_text()
    tune(project, compiled=False, write=True, say=lambda _: None)
    after = (project / "params.yaml").read_text()
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [a.split(":")[0].strip() for a, _ in changed] == ["threads"]
    assert changed[0][1].split("#")[1] == changed[0][0].split("#")[1]
    stage.values(extract_features, params.read(project))


def test_without_accepted_images_it_says_what_to_do(project: Path) -> None:
    (project / "data/accepted.parquet").unlink()
    with pytest.raises(RequestError, match="run validate"):
        tune(project, compiled=False, write=False, say=print)
