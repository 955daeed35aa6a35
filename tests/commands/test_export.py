"""Exports of a registered version: they answer as the version does, on real pictures, or are not written."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression

from steps.backbones import models
from steps.backbones.backbone import Grafted
from steps.commands.export import Export, export
from steps.errors import IntegrityError, RegistryError, RequestError
from steps.images import decoding
from steps.images.preprocessing import Preprocessing, preprocess
from steps.promotion.terms import RAW, SCREENED
from steps.registry import look_ledger, signing
from steps.registry.model_registry import CHAMPION, Registry
from steps.runtime import files
from steps.serving import formats
from tests import packaged
from tests.conftest import REPOSITORY, write_images

NAME = "regraft"


class Project:
    """A project's folder with real digits, and a version that has learnt them."""

    def __init__(self, root: Path) -> None:
        self.root, self.table = root, table_of(write_images(root / RAW, per_class=40))
        files.write_table(root / SCREENED, self.table)
        self.spec = models.read_preprocessing_dict(packaged.facts()["preprocessing"])
        network = taught(root / RAW, self.table, self.spec)
        saved, digest = packaged.save(root / "package", network, temperature=1.5)
        registry = Registry(root, NAME)
        for _ in range(2):
            packaged.register(registry, digest, saved)
        packaged.promote(registry, "1")
        registry.point(CHAMPION, "2")  # moved by hand

    def export(self, kind: str, which: str = "1", gate: dict[str, Any] | None = None, **rules: float) -> Export:
        document = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
        document["export"] |= {"max_loss": 0.1, **rules}  # 60 images show no less
        document["promote"] |= gate or {}
        document["evaluate"]["bootstrap_draws"] = 200
        (self.root / "params.yaml").write_text(yaml.safe_dump(document))
        return export(self.root, which, kind, self.root / "out")


def table_of(raw: Path) -> pd.DataFrame:
    rows = [
        {
            "id": hashlib.sha256(path.read_bytes()).hexdigest(),
            "path": path.relative_to(raw).as_posix(),
            "label": path.parent.name,
            "split": "train" if int(path.stem) < 20 else "test",
            "group": "",
            "source": "",
            "width": 8,
            "height": 8,
            "brightness": float(path.stem),
            "format": "PNG",
        }
        for path in sorted(raw.rglob("*.png"))
    ]
    return pd.DataFrame(rows)


def taught(raw: Path, table: pd.DataFrame, spec: Preprocessing) -> Grafted:
    """Return the embedded backbone with a head fitted to the training images."""
    network, train = packaged.grafted(), table[table["split"] == "train"]
    pixels = torch.stack([preprocess(decoding.decode((raw / path).read_bytes()), spec) for path in train["path"]])
    with torch.no_grad():
        head = LogisticRegression(max_iter=1000).fit(network.backbone(pixels).numpy(), train["label"])
    network.head.weight.data = torch.tensor(head.coef_, dtype=torch.float32)
    network.head.bias.data = torch.tensor(head.intercept_, dtype=torch.float32)
    return network


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        patched.delenv("REGRAFT_KEY", raising=False)
        patched.setenv("DVC_ROOT", str(root))
        yield Project(root)


@pytest.mark.parametrize("kind", [formats.ONNX, formats.TORCH, formats.INT8])
def test_an_export_answers_as_the_version_does_whatever_the_size_of_the_batch(project: Project, kind: str) -> None:
    made = project.export(kind, "champion")
    folder, findings = Path(made.folder), made.findings
    assert (folder.name, made.file, findings.images) == (f"regraft-1-{kind}", formats.FILES[kind], 60)
    assert sorted(path.name for path in folder.iterdir()) == sorted([made.file, "model.json", "model.sig"])
    assert signing.fault(folder) is None
    assert made.bytes == (folder / made.file).stat().st_size
    if kind == formats.INT8:
        assert findings.comparison and findings.comparison["n"] == 60 and findings.comparison["low"] > -0.1
        assert str(findings.verdict) in "\n".join(made.lines()) and "version 1" in str(findings.verdict)
        assert made.bytes < 0.4 * made.bytes_before
    else:
        assert findings.difference < 1e-5
    words = "\n".join(made.lines())
    assert made.file in words and "60 test images" in words and "MB; the version's weights 1." in words
    assert json.loads((folder / "model.json").read_text())["temperature"] == 1.5
    answer = formats.runner(kind, folder / made.file, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, project.spec.crop, project.spec.crop), dtype=np.uint8)
    whole = answer(pixels)
    assert np.allclose(whole.sum(axis=1), 1, atol=1e-5)
    for start, end in ((0, 1), (1, 3), (3, 9)):
        assert np.abs(answer(pixels[start:end]) - whole[start:end]).max() < 1e-5


def test_an_export_that_differs_is_not_written(project: Project) -> None:
    with pytest.raises(
        IntegrityError, match=r"on 60 test images; nothing is written:\n  a probability differs by .*; at most 1e-15"
    ):
        project.export(formats.TORCH, tolerance=1e-15, most_images=60)
    before = project.root / "out"
    assert not list(before.glob(".*")), "a half-made export was left behind"


def test_a_smaller_model_passes_the_gate_of_production_or_is_not_written(project: Project) -> None:
    shutil.rmtree(project.root / "out", ignore_errors=True)
    rules = {"floor": 0.999, "floor_by": "low", "max_bytes": 1000}
    rules |= {"max_latency_ratio": 1e-9, "blocking_warnings": ["all"]}  # these are not asked
    with pytest.raises(IntegrityError) as refused:
        project.export(formats.INT8, max_loss=0.001, gate=rules)
    told = str(refused.value).splitlines()
    assert told[0] == "the int8 export is refused on 60 test images; nothing is written:"
    for rule, reason in zip(("promote.floor", "promote.comparison", "promote.max_bytes"), told[1:], strict=True):
        assert f"({rule}" in reason
    assert "version 1 (interval" in told[2] and "that it is at most 0.1 points worse is not shown" in told[2]
    assert not list((project.root / "out").iterdir())


def test_a_smaller_model_and_its_version_are_looks_at_the_test_images_counted_once(project: Project) -> None:
    project.export(formats.INT8)
    part = project.table[project.table["split"] == "test"]
    assert look_ledger.count(part["id"]) == 2
    project.export(formats.INT8)
    assert look_ledger.count(part["id"]) == 2, "the same model again is no new one"
    [written] = (project.root / "out").rglob(formats.FILES[formats.INT8])
    assert b"/packages/regraft-" not in written.read_bytes(), "where this machine held the version's code"
    with pytest.raises(IntegrityError, match=r"2 models were judged on these test images.*they decide nothing until"):
        project.export(formats.INT8, gate={"look_budget": 1, "look_limit": 1})


def test_an_image_that_the_version_cannot_read_is_named_and_nothing_is_written(project: Project) -> None:
    shutil.rmtree(project.root / "out", ignore_errors=True)
    table, odd = project.table.copy(), b"of a format that version 1 does not know"
    where = table.index[table["split"] == "test"][7]
    path = project.root / RAW / table.loc[where, "path"]
    before = path.read_bytes()
    table.loc[where, "id"] = hashlib.sha256(odd).hexdigest()
    try:
        path.write_bytes(odd)
        files.write_table(project.root / SCREENED, table)
        with pytest.raises(RegistryError, match=rf"version 1 cannot read 1 of 60 test images \(first: .*{path.name}\)"):
            project.export(formats.TORCH)
    finally:
        path.write_bytes(before)
        files.write_table(project.root / SCREENED, project.table)
    assert not list((project.root / "out").iterdir())


def test_what_there_is_not_is_told(project: Project) -> None:
    with pytest.raises(RequestError, match="no format 'tflite'; one of onnx, torch, int8"):
        project.export("tflite")
    with pytest.raises(RequestError, match="regraft has no version 9"):
        project.export(formats.ONNX, "9")
    with pytest.raises(RequestError, match="regraft has no alias 'challenger'; it has: champion"):
        project.export(formats.ONNX, "challenger")
