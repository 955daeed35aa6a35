"""Backbones come from where they are said to come from, and what does not fit is refused in words."""

import pickle
import tempfile
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models as tv

from steps.backbones import models
from steps.backbones.backbone import Grafted, blocks, build, cut_at, digest, top_of, without_top
from steps.commands import origins, published
from steps.errors import RegistryError, RequestError
from steps.images.preprocessing import Preprocessing
from steps.registry import package_loading, package_writing, signing, tracking
from steps.registry.model_registry import Registry
from steps.runtime import files
from steps.runtime.params import faults_of
from tests import packaged

NAME = "squeezenet1_1"
ENTRY = tv.SqueezeNet1_1_Weights.IMAGENET1K_V1


@cache
def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(build(NAME, 10).state_dict())


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in _state().items()}


@pytest.fixture(autouse=True)
def nothing_of_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # urllib keeps the proxies of its first request for the whole process: here a fresh start, and none left behind
    monkeypatch.setattr(urllib.request, "_opener", None)


def refusal(name: str, weights: str | None) -> str:
    with pytest.raises(RequestError) as caught:
        origins.torchvision(name, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet_18", "no backbone 'resnet_18'; did you mean 'resnet18'?"),
        ("ResNet50", "no backbone 'ResNet50'; did you mean 'resnet50'?"),
        ("bert", "no backbone 'bert'"),
    ],
)
def test_an_unknown_name_is_told_with_its_nearest_spelling(name: str, sentence: str) -> None:
    assert refusal(name, None) == f"{sentence} (torchvision.models.list_models() has them all)"


def test_the_networks_of_our_own_take_no_weights_from_elsewhere(tmp_path: Path) -> None:
    assert "glyphnet" in refusal("glyphnet", str(tmp_path / "x.safetensors"))


def test_the_embedded_backbone_is_whole_and_as_its_card_says() -> None:
    card, state = origins.embedded()
    assert files.sha256_of(origins.EMBEDDED / "glyphnet.safetensors") == card.sha256
    assert list(faults_of(Preprocessing, card.preprocessing.to_dict(), "card")) == []
    build(card.architecture, card.num_classes).load_state_dict(state)
    assert all(tensor.isfinite().all() for tensor in state.values() if tensor.is_floating_point())
    assert (origins.EMBEDDED / "glyphnet.safetensors").stat().st_size <= 2 * 2**20


def test_a_state_dict_and_a_safetensors_file_of_the_same_weights_are_the_same_backbone(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    torch.save(state, tmp_path / "w.pth")
    files.write_tensors(tmp_path / "w.safetensors", state)
    (one, first), (two, second) = (
        origins.torchvision(NAME, str(tmp_path / f"w.{kind}")) for kind in ("pth", "safetensors")
    )
    assert digest(first) == digest(second) == digest(state)
    assert (one.source, two.source) == ("local file w.pth", "local file w.safetensors")
    assert (one.architecture, one.num_classes) == (NAME, 10)
    assert one.preprocessing == two.preprocessing == published.preprocessing_of(ENTRY)
    assert one.notes["preprocessing_of"] == "SqueezeNet1_1_Weights.IMAGENET1K_V1"


def test_an_ordered_state_dict_with_metadata_as_torch_saves_it_is_read(tmp_path: Path) -> None:
    network = build(NAME, 10)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert digest(origins.torchvision(NAME, str(tmp_path / "w.pth"))[1]) == digest(network.state_dict())


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "mobilenet_v2", "vgg11", "vit_b_32", "convnext_tiny"])
def test_a_file_without_its_top_is_the_same_backbone(tmp_path: Path, name: str) -> None:
    whole = build(name, 10)
    top = top_of(whole)
    state = {key: tensor for key, tensor in whole.state_dict().items() if not key.startswith(f"{top}.")}
    files.write_tensors(tmp_path / "w.safetensors", state)
    card, found = origins.torchvision(name, str(tmp_path / "w.safetensors"))
    assert card.cut == "" and digest(found) == digest(state)
    images = torch.randn(2, 3, 224, 224)
    network, width = models.assemble(card, found)
    expected, expected_width = without_top(whole.eval())
    with torch.inference_mode():
        assert width == expected_width and torch.equal(network(images), expected(images))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, state: dict[str, torch.Tensor], value: float) -> None:
    state["features.0.weight"].view(-1)[5] = value
    files.write_tensors(tmp_path / "w.safetensors", state)
    found = refusal(NAME, str(tmp_path / "w.safetensors"))
    assert found == "the weights hold NaN or infinity in 1 tensors (first: features.0.weight)"


class Bomb:
    def __init__(self, fuse: Path) -> None:
        self.fuse = fuse

    def __reduce__(self) -> Any:
        return (Path.touch, (self.fuse,))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_pickle_is_not_executed(tmp_path: Path, save: Any) -> None:
    save({"features.0.weight": Bomb(tmp_path / "fuse")}, tmp_path / "w.pth")
    found = refusal(NAME, str(tmp_path / "w.pth"))
    assert found.startswith(f"--weights {tmp_path / 'w.pth'}: not readable as weights (")
    assert "weights_only" not in found, "never advise to unpickle"
    assert not (tmp_path / "fuse").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "IMAGENET1K_V9"])
def test_a_file_that_does_not_exist_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(NAME, str(tmp_path / name)) == f"--weights {tmp_path / name}: no such file"


class Versions:
    """A registry of its own, with what regraft and what others might have put there."""

    def __init__(self, root: Path) -> None:
        self.root, self.mlflow = root, tracking.client()

    def put(self, name: str, folder: Path) -> str:
        return packaged.register(Registry(self.root, name), f"{folder}", folder)

    def model(self, folder: Path, architecture: str, cut: str, told: dict[str, Any]) -> Grafted:
        """Write a model as `register` does; return the network."""
        torch.manual_seed(0)
        backbone, width = cut_at(without_top(build(architecture, 5))[0].eval(), cut)
        network = Grafted(backbone, torch.nn.Linear(width, 3))
        made = {"architecture": architecture, "num_classes": 5, "cut": cut, "classes": ("a", "b", "c")}
        facts = packaged.facts(**{**made, "backbone": "oak", "backbone_sha256": "0", "lineage": "1", **told})
        package_writing.write_model(folder, network.state_dict(), facts)
        return network

    def version(self, architecture: str, cut: str, told: dict[str, Any] | None = None) -> tuple[Grafted, str]:
        """Register a version with the files that are read, and no code; return network and number."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        network = self.model(folder / "artifacts/model", architecture, cut, told or {})
        return network, self.signed(folder)

    def signed(self, folder: Path) -> str:
        (folder / "MLmodel").write_text(f"flavors: {{}}\nmetadata: {{{package_loading.DIGEST}: {folder}}}\n")
        signing.sign_folder(folder)
        return self.put("digits", folder)

    def files(self, name: str, version: str) -> Path:
        """Return where the registry keeps a version's files."""
        source = str(self.mlflow.get_model_version(name, version).source).removeprefix("models:/")
        return Path(str(self.mlflow.get_logged_model(source).artifact_location).removeprefix("file://"))

    def refusal(self, address: str, weights: str | None = None) -> str:
        with pytest.raises(RequestError) as caught:
            origins.named(address, weights)
        return str(caught.value)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    root = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        patched.setenv("DVC_ROOT", str(root))
        yield Versions(root)


def put_in_place(folder: Path, loaded: origins.Loaded) -> None:
    files.write_tensors(folder / models.WEIGHTS, loaded[1])
    digest = files.sha256_of(folder / models.WEIGHTS)
    models.write_card(folder, models.Card(**{**vars(loaded[0]), "sha256": digest}))


@pytest.mark.parametrize(("architecture", "cut"), [("glyphnet", ""), ("resnet18", "layer2")])
def test_a_registered_version_is_a_backbone_that_ends_where_its_head_began(
    tmp_path: Path, versions: Versions, architecture: str, cut: str
) -> None:
    network, number = versions.version(architecture, cut)
    versions.mlflow.set_registered_model_alias("digits", "champion", number)
    loaded = origins.named("models:/digits@champion", None)
    versions.mlflow.delete_registered_model_alias("digits", "champion")  # no ledger stands behind it
    assert digest(loaded[1]) == digest(network.backbone.state_dict()), "the head stays behind"
    assert (loaded[0].name, loaded[0].source, loaded[0].cut) == ("digits", f"models:/digits/{number}", cut)
    assert loaded[0].notes["backbone"] == "oak"
    assert origins.named(f"models:/digits/{number}", None)[0] == loaded[0]

    put_in_place(tmp_path / "backbone", loaded)
    card, backbone, width = models.load_backbone(tmp_path / "backbone")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = network.backbone(images).flatten(1)
        assert torch.equal(backbone(images).flatten(1), wanted)
        assert width == wanted.shape[1]
        earlier = list(blocks(backbone))[-2]
        deeper = models.load_backbone(tmp_path / "backbone", earlier)[1]
        assert torch.equal(deeper(images), cut_at(network.backbone, earlier)[0](images))
    assert card.preprocessing == origins.embedded()[0].preprocessing


def test_a_network_grafted_on_a_registered_one_is_rebuilt_where_that_was_cut(
    tmp_path: Path, versions: Versions
) -> None:
    _, number = versions.version("resnet18", "layer2")
    put_in_place(tmp_path / "backbone", origins.named(f"models:/digits/{number}", None))
    card, backbone, width = models.load_backbone(tmp_path / "backbone")
    grafted = Grafted(backbone, torch.nn.Linear(width, 2)).eval()
    files.write_tensors(tmp_path / "tuned" / models.WEIGHTS, grafted.state_dict())
    files.write_json(tmp_path / "tuned" / models.FACTS, {"cut": ""})
    again = models.load_fine_tuned(tmp_path / "backbone", tmp_path / "tuned")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(images), grafted(images))
    assert (card.cut_after(""), card.cut_after("layer1")) == ("layer2", "layer1")


def test_no_code_of_a_version_runs(tmp_path: Path, versions: Versions) -> None:
    versions.model(tmp_path / "model", "glyphnet", "", {})
    package_writing.save(tmp_path / "saved", tmp_path / "model", "ab" * 32)
    fuse = tmp_path / "fuse"
    scripts = list((tmp_path / "saved").rglob("*.py"))
    assert len(scripts) > 10
    for script in scripts:
        script.write_text(f"open({str(fuse)!r}, 'w')\n")
    for name in ("python_model.pkl", "artifacts/model/extra.pkl"):
        (tmp_path / "saved" / name).write_bytes(pickle.dumps(Bomb(fuse)))
    number = versions.signed(tmp_path / "saved")  # by somebody who has the key
    assert origins.named(f"models:/digits/{number}", None)[0].architecture == "glyphnet"
    assert not fuse.exists()


def test_a_version_of_regraft_is_verified_before_its_weights_are_used(versions: Versions) -> None:
    _, number = versions.version("glyphnet", "")
    facts = versions.files("digits", number) / "artifacts/model/model.json"
    facts.write_text(facts.read_text().replace("oak", "ash"))
    with pytest.raises(RegistryError, match=r"is not what was signed: Hash mismatch for 'artifacts/model/model\.json'"):
        origins.named(f"models:/digits/{number}", None)
    (versions.files("digits", number) / signing.SIGNATURE).unlink()
    with pytest.raises(RegistryError, match="is not signed"):
        origins.named(f"models:/digits/{number}", None)


def test_a_version_that_was_decided_about_stays_one_of_regraft_s(versions: Versions) -> None:
    _, number = versions.version("glyphnet", "")
    packaged.promote(Registry(versions.root, "digits"), number)
    versions.mlflow.delete_model_version_tag("digits", number, tracking.LINEAGE)
    (versions.files("digits", number) / signing.SIGNATURE).unlink()
    with pytest.raises(RegistryError, match="is not signed"):
        origins.named(f"models:/digits/{number}", None)


def test_a_model_that_regraft_did_not_sign_is_taken_with_a_warning(
    versions: Versions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions.model(tmp_path / "artifacts/model", "glyphnet", "", {})
    (tmp_path / "MLmodel").write_text("flavors: {}")
    number = versions.put("oaks", tmp_path)
    versions.mlflow.delete_model_version_tag("oaks", number, tracking.LINEAGE)
    assert origins.named(f"models:/oaks/{number}", None)[0].name == "oaks"
    assert "is not signed by regraft: from now on the digest of its weights is the guard" in caplog.text


def test_an_address_that_leads_nowhere_is_told_what_there_is(tmp_path: Path, versions: Versions) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/MLmodel").write_text("flavors: {}")
    versions.put("trees", tmp_path / "foreign")
    versions.mlflow.delete_model_version_tag("trees", "1", tracking.LINEAGE)
    versions.mlflow.set_registered_model_alias("trees", "challenger", "1")
    assert versions.refusal("models:/tree/1").startswith("the registry has no model 'tree'; it has: ")
    assert versions.refusal("models:/trees@champion") == "trees has no alias 'champion'; it has: challenger"
    assert versions.refusal("models:/trees/7") == "trees has no version 7, or its files are gone"
    for address in ("models:/trees", "models:/trees/latest", "models:trees/1", "models:/trees/1/artifacts"):
        assert versions.refusal(address).startswith(f"{address!r} names no version; expected models:/NAME@ALIAS or")
    assert versions.refusal("models:/trees/1", "w.pth").endswith("has weights of its own; leave --weights out")
    assert versions.refusal("models:/trees@challenger") == (
        "version 1 of trees has no artifacts/model: regraft did not register it"
    )


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"architecture": "bert"}, "'bert' is not a backbone that regraft knows"),
        ({"cut": "layer9"}, "the backbone has no block 'layer9'"),
        ({"cut": "layer2"}, "the weights do not fit resnet18: 0 tensors missing, 30 unknown"),
        ({"architecture": "squeezenet1_1", "cut": ""}, "the weights do not fit squeezenet1_1"),
        ({"preprocessing": {"resize": 16}}, "none that regraft registered (model.json is no ModelFacts"),
        ({"num_classes": "many"}, "none that regraft registered (model.json is no ModelFacts"),
    ],
)
def test_a_version_whose_facts_and_weights_disagree_is_refused(
    versions: Versions, told: dict[str, Any], sentence: str
) -> None:
    _, number = versions.version("resnet18", "layer3", told=told)
    assert sentence in versions.refusal(f"models:/digits/{number}")
