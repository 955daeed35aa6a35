"""The stage reads the features of the strategy's cut, and every kind of head it writes is served as it was trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from steps.backbones import models
from steps.backbones.backbone import Grafted, cut_at, digest, without_top
from steps.backbones.glyphnet import glyphnet
from steps.runtime import files
from steps.runtime.compute import ComputeParams
from steps.runtime.feature_file import write_features
from steps.runtime.params import faults_of
from steps.runtime.stage import Lineage
from steps.train_head import TrainHeadParams, train_head
from steps.training.head_training import Kind
from tests import outputs

CUT = "features.0"
LINEAGE = Lineage("train_head", "d" * 64, "c" * 64, {}, {})
COMPUTE = ComputeParams(threads=1, batch_size=8)


@dataclass(frozen=True)
class Made:
    """What the stage read and wrote."""

    root: Path
    images: torch.Tensor
    targets: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]"

    def run(self, kind: str, cut: str) -> Path:
        files.write_json(self.root / "strategy.json", outputs.strategy(cut=cut))
        names = ("screened.parquet", "features.safetensors", "strategy.json", "head", "history.json")
        params = TrainHeadParams(kind=kind, inverse_regularisation=(0.01, 1.0))
        train_head(params, 0, COMPUTE, LINEAGE, *(self.root / name for name in names))
        return self.root / "head"


def backbone(cut: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return cut_at(without_top(glyphnet(5))[0].eval(), cut)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("head")
    targets = np.arange(48) % 3
    images = torch.randn(48, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.3
    images[torch.arange(48), torch.from_numpy(targets)] += 2  # a class is a colour
    ids = [f"{i:064x}" for i in range(48)]
    with torch.inference_mode():
        cuts = {cut: backbone(cut)(images).flatten(1).numpy() for cut in ("", CUT)}
    write_features(root / "features.safetensors", ids, cuts)
    split = np.where(np.arange(48) % 4 == 0, "val", "train")
    table = pd.DataFrame({"id": ids, "label": [f"class {k}" for k in targets], "split": split, "weight": 1.0})
    files.write_table(root / "screened.parquet", table)
    return Made(root, images, targets)


@pytest.mark.parametrize("cut", ["", CUT])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_head_is_served_through_the_cut_backbone_as_it_was_trained(made: Made, kind: str, cut: str) -> None:
    head = made.run(kind, cut)
    assert models.cut_of(head) == cut
    model = Grafted(backbone(cut), models.load_head(head, refitted=True)).eval()
    with torch.inference_mode():
        logits = model(made.images)
    assert (logits.argmax(1).numpy() == made.targets).mean() > 0.9
    served = models.rebuild("glyphnet", 5, 16, model.state_dict(), cut)
    with torch.inference_mode():
        assert torch.equal(served(made.images), logits), "what a registered version answers"


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_same_inputs_give_the_same_bytes(made: Made, kind: str) -> None:
    before = digest(files.read_tensors(made.run(kind, "") / models.WEIGHTS))
    history = (made.root / "history.json").read_bytes()
    assert digest(files.read_tensors(made.run(kind, "") / models.WEIGHTS)) == before
    assert (made.root / "history.json").read_bytes() == history
    assert json.loads(history)["kind"] == kind


def test_what_cannot_be_trained_is_refused_all_at_once() -> None:
    faults = list(faults_of(TrainHeadParams, {"kind": "forest", "inverse_regularisation": []}, "train_head"))
    assert len(faults) == 2
    assert faults[0] == "train_head.kind is 'forest'; one of linear, prototype, knn, mlp"
