"""Numbers, not only shapes: networks run forward, and what is saved is read back to the bit, one at a time.

All that torchvision lists (5.6 billion parameters), where REGRAFT_ALL_MODELS is set; a sample elsewhere. The
structure of all is walked everywhere, in tests/backbones/test_backbone.py.
"""

from pathlib import Path

import pytest
import torch
from torchvision import models as tv

from steps.backbones import models
from steps.backbones.backbone import architectures, build, without_top
from steps.images.preprocessing import Preprocessing
from steps.runtime import files
from tests.made import spec

SAMPLE = {"glyphnet", "densenet121", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"}


def preprocessing(architecture: str) -> Preprocessing:
    # Inception is five times halved without padding; MaxViT's windows fit the size that it was made for; patches of 14.
    side = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 70}.get(architecture, 64)
    return spec(side, side)


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.all_models) for name in architectures()],
)
def test_a_saved_backbone_computes_the_same_bits_when_it_is_read(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    side = preprocessing(architecture).crop
    whole = build(architecture, 7, side)
    state = whole.state_dict()
    files.write_tensors(tmp_path / models.WEIGHTS, state)
    card = models.Card(
        name=architecture,
        architecture=architecture,
        num_classes=7,
        sha256=files.sha256_of(tmp_path / models.WEIGHTS),
        source="",
        licence="",
        preprocessing=preprocessing(architecture),
        input_statistics=None,
        notes={},
    )
    models.write_card(tmp_path, card)
    read = files.read_tensors(tmp_path / models.WEIGHTS)
    assert {name: (t.dtype, t.shape) for name, t in read.items()} == {n: (t.dtype, t.shape) for n, t in state.items()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in read.items())
    del read  # the largest has 2.5 GB

    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    found, loaded, width = models.load_backbone(tmp_path)
    with torch.inference_mode():
        features = loaded(images).flatten(1)
        assert torch.equal(features, without_top(whole)[0].eval()(images).flatten(1))
    assert found == card
    assert features.shape == (2, width)
    assert features.isfinite().all()
    assert len(features.unique(dim=0)) == 2, "two pictures, one answer"


def test_no_name_is_left_out() -> None:
    (walk,) = [mark for mark in test_a_saved_backbone_computes_the_same_bits_when_it_is_read.pytestmark if mark.args]
    assert {case.values[0] for case in walk.args[1]} == {"glyphnet", *tv.list_models(module=tv)}
