"""timm's networks as backbones: their weights, cards and preprocessing are timm's, and what does not fit is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from steps.backbones import models, timm_networks
from steps.commands import origins, published
from steps.commands.origin_words import sentences
from steps.commands.origins import Wishes
from steps.errors import RequestError
from steps.images.preprocessing import preprocess
from steps.runtime import files

NAME, TAG = "timm:resnet18", "a1_in1k"
HUB = f"hub/models--timm--resnet18.{TAG}"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(timm.create_model("resnet18").state_dict())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder of its own, from which nothing of Hugging Face's is in reach."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


# how the file is called, what is said about the weights, the tag whose preprocessing is taken, how that is known
FILES = [
    ("mine.safetensors", Wishes(None, None), NAME, TAG, "assumed"),
    ("mine.pth", Wishes("a3_in1k", None), NAME, "a3_in1k", "chosen"),
    ("mine.safetensors", Wishes(None, None), f"{NAME}.a2_in1k", "a2_in1k", "chosen"),
    ("resnet18.a2_in1k.safetensors", Wishes(None, None), NAME, "a2_in1k", "recognised"),
    ("resnet18_a1_0-d63eafa0.pth", Wishes(None, None), NAME, TAG, "recognised"),
    ("models--timm--resnet18.a3_in1k/model.safetensors", Wishes(None, None), NAME, "a3_in1k", "recognised"),
]


@pytest.mark.parametrize(("file", "wishes", "name", "tag", "basis"), FILES)
def test_a_file_gets_the_card_of_timms_weights(
    tmp_path: Path, state: dict[str, torch.Tensor], file: str, wishes: Wishes, name: str, tag: str, basis: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    torch.save(state, path) if file.endswith(".pth") else files.write_tensors(path, state)
    card, read = origins.named(name, str(path), wishes)
    cfg = timm.get_pretrained_cfg(f"resnet18.{tag}")
    assert (card.name, card.architecture, card.num_classes) == (NAME, NAME, 1000)
    assert card.preprocessing.crop == cfg.input_size[1]
    assert card.preprocessing.resize == int(cfg.input_size[1] / cfg.crop_pct)
    assert card.reading is not None and card.reading.preprocessing == basis
    assert card.licence == ("apache-2.0" if basis == "recognised" else card.licence)
    assert card.notes["timm"] == timm.__version__
    assert all(torch.equal(tensor, read[key]) for key, tensor in state.items())


def test_weights_are_taken_from_the_cache_of_hugging_face(home: Path, state: dict[str, torch.Tensor]) -> None:
    cache = home / ".cache/huggingface" / HUB
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("abc")
    files.write_tensors(cache / "snapshots/abc/model.safetensors", state)
    card, read = origins.named(NAME, None)
    assert (card.source, card.licence) == (f"timm resnet18.{TAG}", "apache-2.0")
    assert torch.equal(read["fc.weight"], state["fc.weight"])
    assert list(sentences(card)) == [f"preprocessing of resnet18.{TAG} (published)"]
    assert origins.named(f"{NAME}.{TAG}", None)[0] == card == origins.named(NAME, TAG)[0]


def test_without_a_network_the_refusal_names_the_file_that_would_serve(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(RequestError) as caught:
        origins.named(NAME, None)
    url = f"http://127.0.0.1:9/timm/resnet18.{TAG}/resolve/main/model.safetensors"
    target = tmp_path / f"torch/hub/checkpoints/resnet18.{TAG}.safetensors"
    assert f"put {url} at {target}, or give a local file with --weights FILE" in str(caught.value)
    files.write_tensors(target, state)  # as it says
    assert origins.named(NAME, None)[0].source == f"timm resnet18.{TAG}"


# name, what the refusal says
REFUSED = [
    ("timm:resnt18", "no backbone 'timm:resnt18'; did you mean 'timm:resnet18'?"),
    ("timm:resnet18.a9_in1k", "timm has no weights 'a9_in1k' of timm:resnet18; it has a1_in1k, "),
    ("timm:coat_tiny", "its features cannot be cut into blocks that follow one another"),
    ("timm:naflexvit_base_patch16_gap", "its features cannot be cut into blocks that follow one another"),
    ("timm:crossvit_tiny_240", "its features cannot be cut into blocks that follow one another"),
    ("timm:deit_tiny_distilled_patch16_224", "no single classifier that could be cut off"),
    ("timm:vit_base_patch16_sapiens2", "takes pictures of 1024x768 pixels"),
    ("timm:darknet17", "timm publishes no weights of timm:darknet17; give a local file with --weights FILE"),
]


@pytest.mark.parametrize(("name", "sentence"), REFUSED)
def test_what_is_not_there_or_cannot_be_cut_is_refused_in_words(name: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        origins.named(name, None)
    assert sentence in str(caught.value)


def test_without_timm_the_refusal_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as Python marks a module that cannot be imported
    with pytest.raises(RequestError) as caught:
        origins.named(NAME, None)
    assert str(caught.value).endswith(f"need timm, which is not installed: `{timm_networks.INSTALL}`")


def test_weights_of_another_network_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    files.write_tensors(tmp_path / "w.safetensors", state)
    with pytest.raises(RequestError, match="the weights do not fit timm:convnext_atto"):
        origins.named("timm:convnext_atto", str(tmp_path / "w.safetensors"))


def test_a_checkpoint_without_its_top_under_a_prefix_is_read(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    inside = {f"module.{name}": tensor.half() for name, tensor in state.items() if not name.startswith("fc.")}
    torch.save({"state_dict": inside}, tmp_path / "w.pth")
    card, read = origins.named(NAME, str(tmp_path / "w.pth"))
    assert (card.cut, card.reading and card.reading.part) == ("", "state_dict.module")
    network, width = models.assemble(card, read)
    assert (width, network(torch.zeros(1, 3, 224, 224)).shape) == (512, (1, 512))


# One for each interpolation and size; crop_pct 0.95, 0.875 (bilinear, bicubic), 1.0, and one of 0.9 with other means.
TRANSFORMS = (
    "resnet18",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "darknet53",
    "vit_tiny_patch16_224",
    "regnety_032",
)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(333, 251), (200, 300)])
def test_pictures_are_prepared_as_timm_prepares_them(name: str, size: tuple[int, int]) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()))
    spec = published.preprocessing_of(published.entries(f"timm:{name}").DEFAULT)
    assert torch.equal(preprocess(picture, spec), transform(picture))


def test_another_way_to_make_a_picture_square_is_named(tmp_path: Path) -> None:
    state = timm.create_model("tf_efficientnetv2_b3").state_dict()
    files.write_tensors(tmp_path / "w.safetensors", dict(state))
    said = {}
    for tag in ("in21k_ft_in1k", "in1k"):
        wishes = Wishes(tag, None)
        said[tag] = list(
            sentences(origins.named("timm:tf_efficientnetv2_b3", str(tmp_path / "w.safetensors"), wishes)[0])
        )
    sentence = "timm squashes a picture to a square for these weights; regraft cuts the centred square out of it"
    assert sentence in said["in21k_ft_in1k"] and sentence not in said["in1k"]
