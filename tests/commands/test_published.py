"""torchvision's own weights: from a cache if they are what their name says, with the preprocessing of their entry."""

import http.server
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import ResNet50_Weights, get_model_weights
from torchvision.models._api import Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

from steps.backbones.backbone import build, skeleton
from steps.commands import origins, published
from steps.commands.origin_words import sentences
from steps.errors import RequestError
from steps.runtime import files

NAME = "squeezenet1_1"
CHECKPOINTS = "hub/checkpoints"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return weights in a file that has the beginning of its SHA-256 in its name, as torchvision publishes them."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(build(NAME, 1000).state_dict(), folder / "w.pth")
    return (folder / "w.pth").rename(folder / f"{NAME}-{files.sha256_of(folder / 'w.pth')[:8]}.pth")


def entry(url: str) -> Any:
    """Return weights that torchvision would publish at an address."""
    weights = Weights(url=url, transforms=partial(ImageClassification, crop_size=224), meta={})
    return WeightsEnum("Own_Weights", {"IMAGENET1K_V1": weights})["IMAGENET1K_V1"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder of its own; the project's TORCH_HOME is another."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "project/torch"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # urllib keeps the proxies of its first request for the whole process: here a fresh start, and none left behind
    monkeypatch.setattr(urllib.request, "_opener", None)
    return tmp_path / "home"


@pytest.mark.parametrize("cache", ["TORCH_HOME", "XDG_CACHE_HOME", "HOME"])
def test_a_cached_file_is_used_without_a_network(
    cache: str, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = {"TORCH_HOME": "mine", "XDG_CACHE_HOME": "mine/torch", "HOME": "mine/.cache/torch"}[cache]
    monkeypatch.setenv(cache, str(tmp_path / "mine"))
    (tmp_path / folder / CHECKPOINTS).mkdir(parents=True)
    shutil.copy(original, tmp_path / folder / CHECKPOINTS)
    state = published.state_of(NAME, entry(f"https://127.0.0.1:9/{original.name}"))
    assert state.keys() == skeleton(NAME, 1000).state_dict().keys()


def test_a_cached_file_that_is_not_what_its_name_says_is_passed_over_and_named(original: Path, home: Path) -> None:
    cached = home / ".cache/torch" / CHECKPOINTS / original.name
    cached.parent.mkdir(parents=True)
    torch.save({"features.0.weight": torch.zeros(1)}, cached)
    with pytest.raises(RequestError) as caught:
        published.state_of(NAME, entry(f"https://127.0.0.1:9/{original.name}"))
    assert f"{cached} is not used: its SHA-256 does not begin with the digest in its name" in str(caught.value)


def test_without_a_network_the_refusal_names_the_file_that_would_serve(original: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        published.state_of(NAME, entry(f"https://127.0.0.1:9/{original.name}"))
    found = str(caught.value)
    assert found.startswith(f"the weights of {NAME} could not be downloaded (")
    target = tmp_path / "project/torch" / CHECKPOINTS / original.name
    assert f"put https://127.0.0.1:9/{original.name} at {target}, or give a local file with --weights FILE" in found
    shutil.copy(original, target)  # as it says
    assert published.state_of(NAME, entry(f"https://127.0.0.1:9/{original.name}"))


@pytest.fixture
def served(original: Path) -> Iterator[str]:
    """Serve the weights under their name, and a proxy's page under every other."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            right = self.path == f"/{original.name}"
            self.wfile.write(original.read_bytes() if right else b"<html>sign in</html>")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_is_kept_and_one_that_arrives_damaged_is_refused(
    served: str, original: Path, tmp_path: Path
) -> None:
    assert published.state_of(NAME, entry(f"{served}/{original.name}"))
    assert (tmp_path / "project/torch" / CHECKPOINTS / original.name).read_bytes() == original.read_bytes()
    with pytest.raises(RequestError, match=r"could not be downloaded \(invalid hash value"):
        published.state_of(NAME, entry(f"{served}/{NAME}-b8a52dc0.pth"))
    assert not list((tmp_path / "project/torch" / CHECKPOINTS).glob("*b8a52dc0*"))


# architecture, name of the file, the entry whose preprocessing is taken, how it is known, shorter side, words
FILES = [
    ("resnet50", "resnet50-11ad3fa6.pth", "IMAGENET1K_V2", "recognised", 232, "(recognised)"),
    ("resnet50", "resnet50-0676ba61 (1).pth", "IMAGENET1K_V1", "recognised", 256, "(recognised)"),
    (
        "resnet50",
        "mine.pth",
        "IMAGENET1K_V1",
        "assumed",
        256,
        "others differ (IMAGENET1K_V2: resize 232): --preprocessing IMAGENET1K_V2 chooses",
    ),
    ("efficientnet_b1", "efficientnet_b1-c27df63c.pth", "IMAGENET1K_V2", "recognised", 255, "(recognised)"),
    ("efficientnet_b1", "b1.pth", "IMAGENET1K_V1", "assumed", 256, "IMAGENET1K_V2: resize 255, interpolation bilinear"),
    (
        "mobilenet_v3_large",
        "mobilenet_v3_large-5c1a4163.safetensors",
        "IMAGENET1K_V2",
        "recognised",
        232,
        "(recognised)",
    ),
    ("resnet18", "mine.pth", "IMAGENET1K_V1", "assumed", 256, "IMAGENET1K_V1; --preprocessing FILE states another"),
]


@pytest.mark.parametrize(("name", "file", "expected", "basis", "resize", "words"), FILES)
def test_the_preprocessing_is_that_of_the_recognised_entry_or_said_to_be_assumed(
    tmp_path: Path, name: str, file: str, expected: str, basis: str, resize: int, words: str
) -> None:
    path = tmp_path / file
    state = {
        key: torch.zeros(tensor.shape, dtype=tensor.dtype) for key, tensor in skeleton(name, 1000).state_dict().items()
    }
    files.write_tensors(path, state) if path.suffix == ".safetensors" else torch.save(state, path)
    card, _ = origins.torchvision(name, str(path))
    assert card.reading and card.reading.preprocessing == basis
    assert card.preprocessing == published.preprocessing_of(get_model_weights(name)[expected])
    assert card.preprocessing.resize == resize
    assert words in list(sentences(card))[-1]


def test_a_file_is_recognised_by_its_own_digest_whatever_its_name(original: Path, tmp_path: Path) -> None:
    digest = original.stem.rpartition("-")[2]
    renamed = shutil.copy(original, tmp_path / "base.pth")
    assert (
        published.recognised(
            [entry(f"https://x.org/other-{'0' * 8}.pth"), entry(f"https://x.org/w-{digest}.pth")], Path(renamed)
        )
        is not None
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    files.write_tensors(path, build(NAME, 3).state_dict())
    return path


def test_an_entry_of_the_architecture_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({k: torch.zeros(t.shape, dtype=t.dtype) for k, t in skeleton("resnet50", 5).state_dict().items()}, path)
    card, _ = origins.torchvision("resnet50", str(path), origins.Wishes("IMAGENET1K_V2", None))
    assert card.preprocessing == published.preprocessing_of(ResNet50_Weights.IMAGENET1K_V2)
    assert card.reading and card.reading.preprocessing == "chosen"
    assert list(sentences(card))[-1] == "preprocessing of IMAGENET1K_V2 (chosen)"


HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("own.json", json.dumps(HALF)),
        ("own.yaml", "mean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n"),
        ("own.yml", str(HALF)),
    ],
)
def test_a_normalisation_of_ones_own_is_stated_in_a_file(weights: Path, tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    card, _ = origins.torchvision(NAME, str(weights), origins.Wishes(str(tmp_path / file), None))
    usual = published.preprocessing_of(get_model_weights(NAME).DEFAULT)
    assert card.preprocessing.to_dict() == {**usual.to_dict(), **HALF}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mean: [0.5, 0.5]", "preprocessing.mean is [0.5, 0.5]; three numbers"),
        ("crop: 300", "crop is 300 and resize is 256; crop at most resize"),
        ("sdt: [1, 1, 1]", "no such parameter; did you mean 'std'?"),
        ("std: [0, 1, 1]", "above 0"),
        ("- 1", "expected fields with values"),
        ("a: [", "not readable as JSON or YAML"),
    ],
)
def test_a_preprocessing_that_cannot_be_is_refused_with_every_fault(
    weights: Path, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(RequestError) as caught:
        origins.torchvision(NAME, str(weights), origins.Wishes(str(tmp_path / "own.yaml"), None))
    assert str(caught.value).startswith(f"--preprocessing {tmp_path / 'own.yaml'}") and words in str(caught.value)


def test_a_preprocessing_that_is_neither_entry_nor_file_is_refused_with_what_there_is(weights: Path) -> None:
    with pytest.raises(
        RequestError, match=r"neither weights of squeezenet1_1 \(IMAGENET1K_V1\) nor a file; a \.json or"
    ):
        origins.torchvision(NAME, str(weights), origins.Wishes("IMAGENET1K_V9", None))


def test_weights_of_a_vit_take_the_size_that_they_were_trained_for(tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    state = skeleton("vit_b_16", 3, 384).state_dict()
    torch.save({key: torch.zeros(tensor.shape) for key, tensor in state.items()}, path)
    card, _ = origins.torchvision("vit_b_16", str(path))
    assert card.preprocessing.crop == 384


def test_a_network_with_a_card_of_its_own_takes_no_other_preprocessing() -> None:
    with pytest.raises(RequestError, match="glyphnet has a card of its own"):
        origins.named("glyphnet", None, origins.Wishes("IMAGENET1K_V1", None))
