"""A package: what it takes, what it answers, that it needs neither the repository nor pickle, and its signature."""

import ast
import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image
from torch import nn

from steps.backbones import models, timm_networks
from steps.backbones.backbone import Grafted, build, without_top
from steps.backbones.familiarity import FILE, fitted, outputs
from steps.errors import UndecodableError
from steps.images import decoding, request_images
from steps.images.preprocessing import preprocess
from steps.registry import bill, package_writing, signing
from steps.runtime import files
from tests import packaged
from tests.conftest import write_images
from tests.made import spec

TEMPERATURE, LIMIT = 2.0, 0.425  # the limit divides the pictures


class Saved:
    """A saved package and pictures to ask it about."""

    def __init__(self, root: Path) -> None:
        self.root, self.network = root, packaged.grafted()
        self.folder, self.digest = packaged.save(root, self.network, temperature=TEMPERATURE, abstain_below=LIMIT)
        self.model = mlflow.pyfunc.load_model(str(self.folder))
        self.spec = packaged.facts().preprocessing
        self.pictures = sorted(write_images(root / "images", per_class=4).rglob("*.png"))

    def ask(self, rows: list[Any]) -> pd.DataFrame:
        return self.model.predict(pd.DataFrame({"image": pd.Series(rows, dtype=object)}))

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DVC_ROOT", str(root))
        patched.delenv("REGRAFT_KEY", raising=False)
        yield root


@pytest.fixture(scope="module")
def saved(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("package"))


def test_an_answer_is_calibrated_and_says_when_it_abstains_and_who_gave_it(saved: Saved) -> None:
    spec = packaged.facts().preprocessing
    pixels = torch.stack([preprocess(Image.open(path).convert("RGB"), spec) for path in saved.pictures])
    with torch.no_grad():
        odds = np.exp(saved.network(pixels).double().numpy() / TEMPERATURE)
    wanted = odds / odds.sum(axis=1, keepdims=True)
    told = saved.ask([path.read_bytes() for path in saved.pictures])
    assert list(told.columns) == ["label", "probability", "probabilities", "abstain", "version"]
    assert np.abs(np.array(told["probabilities"].tolist()) - wanted).max() < 1e-6
    assert told["label"].tolist() == [packaged.CLASSES[i] for i in wanted.argmax(axis=1)]
    assert told["abstain"].tolist() == (wanted.max(axis=1) < LIMIT).tolist()
    assert 0 < told["abstain"].sum() < len(told)
    assert set(told["version"]) == {saved.digest[:16]}


def test_a_package_with_a_measure_names_what_is_unfamiliar_and_its_bill_lists_it(key: Path, saved: Saved) -> None:
    pixels = torch.stack([preprocess(decoding.decode(p.read_bytes()), saved.spec) for p in saved.pictures])
    features, _ = outputs(saved.network, pixels)
    measure = fitted(features[:6], features[:6], rate=0)
    folder, digest = packaged.save(key / "measured", saved.network, measure=measure, temperature=TEMPERATURE)
    frame = pd.DataFrame({"image": [path.read_bytes() for path in saved.pictures]})
    told = mlflow.pyfunc.load_model(str(folder)).predict(frame)
    assert told["unfamiliar"].tolist() == [False] * 6 + measure.unfamiliar(features[6:]).tolist()
    assert told["unfamiliar"].any() and digest != saved.digest
    plain = saved.ask(frame["image"].tolist())
    assert told["probabilities"].tolist() == plain["probabilities"].tolist(), "no probability changes"
    kept = folder / "artifacts/model" / FILE
    bill_of = json.loads((folder / "artifacts/model" / bill.FILE).read_text())
    hashes = {part["name"]: part["hashes"][0]["content"] for part in bill_of["components"] if "hashes" in part}
    assert hashes["features of training images"] == files.sha256_of(kept)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert signing.fault(folder)


def test_a_row_is_bytes_or_base64_or_a_path_or_pixels(saved: Saved) -> None:
    path = saved.pictures[0]
    data = path.read_bytes()
    pixels = np.array(Image.open(path).convert("RGB"))
    rows = [
        data,
        bytearray(data),
        base64.b64encode(data).decode(),
        base64.encodebytes(data).decode(),
        base64.b64encode(data),
        str(path),
        path,
        pixels,
    ]
    told = saved.ask(rows)["probabilities"].tolist()
    assert len(told) == len(rows) and all(one == told[0] for one in told)
    assert saved.ask([]).empty


@pytest.mark.usefixtures("key")
def test_a_version_that_learnt_from_12_bit_pictures_reads_a_single_one_as_12_bit(tmp_path: Path) -> None:
    plain = packaged.facts().preprocessing
    folder, _ = packaged.save(tmp_path, packaged.grafted(), preprocessing=replace(plain, grey_bits=12))
    levels = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    rows = []
    for name, pixels in {
        "eight": levels,
        "twelve": np.rint(levels / 255 * 4095).astype(np.uint16),
        "sixteen": levels * np.uint16(257),
    }.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        rows.append((tmp_path / f"{name}.png").read_bytes())
    answers = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"image": rows}))["probabilities"]
    assert files.read_json(tmp_path / "model" / "model.json")["preprocessing"]["grey_bits"] == 12
    assert answers[0] == answers[1] != answers[2], "a larger value than the range is clipped to white"


def test_every_row_that_holds_no_image_is_named(saved: Saved) -> None:
    rows = [saved.pictures[0].read_bytes(), b"<html>gone</html>", None, "no/such.png", np.zeros((4, 4, 3)), b""]
    with pytest.raises(MlflowException) as caught:
        saved.ask(rows)
    assert str(caught.value).splitlines() == [
        "5 of 6 rows hold no image (counted from 0):",
        "  row 1: an HTML page, not an image",
        "  row 2: NoneType; expected bytes, base64 text, a path, or uint8 [height, width, 3]",
        "  row 3: 'no/such.png' is neither base64 nor a file: No such file or directory",
        "  row 4: an array float64[4, 4, 3]; expected uint8 [height, width, 3]",
        "  row 5: the file is empty",
    ]
    assert caught.value.get_http_status_code() == 400


def test_what_comes_over_a_network_names_no_files(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    with pytest.raises(MlflowException, match="row 0: text that is no base64; a server reads no paths"):
        saved.ask([str(saved.pictures[0])])


@pytest.mark.parametrize(
    ("shape", "sentence"), [((20_000, 20_000, 3), "400000000|20000x20000"), ((60, 1, 3), "strip"), ((0, 9, 3), "strip")]
)
def test_the_decoders_bounds_hold_for_pixels(shape: tuple[int, ...], sentence: str) -> None:
    pixels = np.broadcast_to(np.uint8(0), shape)  # no memory behind it
    with pytest.raises(UndecodableError, match=sentence):
        request_images.picture(pixels, paths=False, grey_bits=None)


def test_the_decoders_bounds_hold_for_base64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", 100)
    with pytest.raises(UndecodableError, match="101 bytes; at most 100"):
        request_images.picture(base64.b64encode(b"x" * 101).decode(), paths=False, grey_bits=None)


FRESH = """
import json, pickle, socket, sys
import mlflow.pyfunc, pandas as pd, torch

def refuse(*_, **__):
    raise AssertionError("pickle or a network was asked")

class Refused:
    __init__ = refuse

pickle.load = pickle.loads = refuse
pickle.Unpickler = pickle._Unpickler = Refused
socket.socket.connect = refuse
model = mlflow.pyfunc.load_model(sys.argv[1])
told = model.predict(pd.DataFrame({"image": [open(path, "rb").read() for path in sys.argv[2:]]}))
here = [name for name in sys.modules if name.split(".")[0] in ("steps", "flows")]
print(json.dumps([told["probabilities"].tolist(), here]))
"""


def test_a_process_with_what_is_declared_and_no_pickle_or_network_gives_the_same_answers(
    saved: Saved, tmp_path: Path
) -> None:
    programs = packaged.environment(tmp_path / "environment", saved.folder / "requirements.txt")
    names = [str(path) for path in saved.pictures]
    command = [str(programs / "python"), "-c", FRESH, str(saved.folder), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers, here = json.loads(done.stdout.splitlines()[-1])
    assert here == []
    wanted = saved.ask([path.read_bytes() for path in saved.pictures])["probabilities"].tolist()
    assert np.abs(np.array(answers) - np.array(wanted)).max() < 1e-6


def test_a_package_declares_every_library_that_its_code_imports(saved: Saved) -> None:
    scripts = list((saved.folder / "code").rglob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in scripts]
    statements = [node for tree in trees for node in tree.body]
    names = {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in statements if isinstance(node, ast.ImportFrom)}
    imported = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {f"regraft_{saved.digest[:16]}"}
    declared = (saved.folder / "requirements.txt").read_text(encoding="utf-8").split()
    distributions = {"PIL": "pillow", "annotated_types": "annotated-types"}
    assert {distributions.get(name, name) for name in imported} <= {line.split("==")[0] for line in declared}
    assert {"torch", "PIL", "mlflow"} <= imported


def test_a_package_needs_an_optional_library_only_if_its_model_does(saved: Saved, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone, width = without_top(build("timm:resnet18", 3, 32))
    network = Grafted(backbone, nn.Linear(width, 3)).eval()
    preprocessing = spec(32, 32)
    extras = (*timm_networks.requirements("timm:resnet18"), "pillow-heif")
    folder, _ = packaged.save(
        tmp_path, network, architecture="timm:resnet18", extras=extras, preprocessing=preprocessing
    )
    needed, usual = ((path / "requirements.txt").read_text("utf-8").split() for path in (folder, saved.folder))
    assert set(needed) - set(usual) == {f"{name}=={version(name)}" for name in ("timm", "pillow-heif")}
    told = json.loads((folder / "artifacts/model" / bill.FILE).read_text(encoding="utf-8"))
    assert f"pkg:pypi/timm@{version('timm')}" in {component["bom-ref"] for component in told["components"]}
    assert not any(line.startswith("timm") for line in usual)
    pixels = torch.stack([preprocess(Image.open(path).convert("RGB"), preprocessing) for path in saved.pictures])
    with torch.no_grad():
        wanted = torch.softmax(network(pixels).double(), dim=1)
    answers = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"image": saved.pictures}))
    assert np.abs(np.array(answers["probabilities"].tolist()) - wanted.numpy()).max() < 1e-6


def test_no_file_of_a_package_is_a_pickle(saved: Saved) -> None:
    held = [path for path in saved.folder.rglob("*") if path.is_file()]
    assert len(held) > 20
    assert not [path for path in held if path.suffix in (".pkl", ".pickle", ".pth", ".pt", ".bin")]


def test_a_package_of_before_runs_its_own_code_after_core_was_edited(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Today's code answers upside down; both versions are loaded in one process."""
    home = tmp_path / "home"
    shutil.copytree(package_writing.HOME / "steps", home / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(package_writing.HOME / "requirements.lock", home)
    edited = home / "steps/backbones/inference.py"
    text = edited.read_text(encoding="utf-8")
    assert text.count("torch.softmax(") == 1
    edited.write_text(text.replace("torch.softmax(", "torch.softmax(-"), encoding="utf-8")
    before = saved.ask(saved.pictures)["probabilities"].tolist()
    monkeypatch.setattr(package_writing, "HOME", home)
    folder, digest = packaged.save(tmp_path, saved.network, temperature=TEMPERATURE, abstain_below=LIMIT)
    today = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"image": saved.pictures}))
    again = mlflow.pyfunc.load_model(str(saved.folder)).predict(pd.DataFrame({"image": saved.pictures}))
    assert digest != saved.digest
    assert np.array(today["probabilities"].tolist()).argmax() != np.array(before).argmax()
    assert again["probabilities"].tolist() == before == saved.ask(saved.pictures)["probabilities"].tolist()


def test_the_bill_of_materials_is_valid_and_names_what_the_model_is_made_of(saved: Saved) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (saved.folder / "artifacts/model" / bill.FILE).read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    told = json.loads(text)
    assert "serialNumber" not in told and "timestamp" not in told["metadata"]
    found = {component["bom-ref"]: component for component in told["components"]}
    facts = packaged.facts()
    assert found["backbone"]["hashes"] == [{"alg": "SHA-256", "content": facts.backbone_sha256}]
    assert found["backbone"]["licenses"] == [{"license": {"name": facts.backbone_licence}}]
    assert found["data"]["hashes"][0]["content"] == facts.data_sha256
    weights = files.sha256_of(saved.folder / "artifacts/model" / models.WEIGHTS)
    assert told["metadata"]["component"]["hashes"][0]["content"] == weights
    assert found[f"pkg:pypi/torch@{torch.__version__.split('+')[0]}"]["version"] == torch.__version__.split("+")[0]
    lock = (package_writing.HOME / "requirements.lock").read_text(encoding="utf-8")
    libraries = [component for component in found.values() if component["type"] == "library"]
    assert len(libraries) == sum("==" in line.split(" ")[0] for line in lock.splitlines()) > 100


def test_the_digest_knows_the_content_and_not_the_signature(saved: Saved, tmp_path: Path) -> None:
    again = package_writing.write_model(
        tmp_path / "model", saved.network.state_dict(), packaged.facts(temperature=TEMPERATURE, abstain_below=LIMIT)
    )
    other = package_writing.write_model(tmp_path / "other", saved.network.state_dict(), packaged.facts(temperature=1.5))
    assert again == saved.digest != other
    before = (saved.copy(tmp_path / "copy") / signing.SIGNATURE).read_bytes()
    signing.sign_folder(tmp_path / "copy")
    assert (tmp_path / "copy" / signing.SIGNATURE).read_bytes() != before, "ECDSA draws a number for each signature"
    assert signing.fault(tmp_path / "copy") is None


def test_every_flipped_byte_is_refused_and_its_file_named(saved: Saved, tmp_path: Path) -> None:
    folder = saved.copy(tmp_path / "copy")
    assert signing.fault(folder) is None
    held = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    rng = np.random.default_rng(0)
    signature = folder / signing.SIGNATURE
    # Each file at least twice, metadata and signature more often than their few bytes would come up by themselves.
    chosen = [*held, *held, *[signature] * 60, *[folder / "MLmodel"] * 20]
    chosen += [held[i] for i in rng.integers(len(held), size=200 - len(chosen))]
    assert len(chosen) == 200
    for path in chosen:
        data = path.read_bytes()
        place = int(rng.integers(len(data)))
        flipped = data[place] ^ int(rng.integers(1, 256))
        path.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
        fault = signing.fault(folder)
        assert fault and path.relative_to(folder).as_posix() in fault, (path, place, flipped, fault)
        path.write_bytes(data)
    assert signing.fault(folder) is None


def test_a_missing_and_an_unlisted_file_are_refused_by_name(saved: Saved, tmp_path: Path) -> None:
    folder = saved.copy(tmp_path / "copy")
    (folder / "registered_model_meta").write_text("MLflow writes this when it downloads\n")
    assert signing.fault(folder) is None
    (folder / "conda.yaml").unlink()
    (folder / "code/evil.py").write_text("print('here')\n")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("[core]\n")
    fault = signing.fault(folder) or ""
    assert "Extra files" in fault and "code/evil.py" in fault and ".git/config" in fault
    assert "Missing files" in fault and "conda.yaml" in fault


def test_a_link_in_a_package_is_refused(saved: Saved, tmp_path: Path) -> None:
    folder = saved.copy(tmp_path / "copy")
    (folder / "conda.yaml").unlink()
    (folder / "conda.yaml").symlink_to(saved.folder / "conda.yaml")
    assert signing.fault(folder) == "conda.yaml is a link, not a file"


def test_what_lies_in_a_folder_named_as_mlflow_names_its_file_is_refused(saved: Saved, tmp_path: Path) -> None:
    folder = saved.copy(tmp_path / "copy")
    (folder / signing.META).mkdir()
    assert signing.fault(folder) == "registered_model_meta is a folder; MLflow writes a file of that name"
    (folder / signing.META).rmdir()
    (folder / signing.META).symlink_to(saved.folder)
    assert signing.fault(folder) == "registered_model_meta is a link, not a file"
    (folder / signing.META).unlink()
    (folder / "code" / signing.META).write_text("a file of that name elsewhere")
    assert "Extra files" in (signing.fault(folder) or "")


def test_what_is_signed_beside_a_model_is_no_part_of_its_digest(saved: Saved, tmp_path: Path) -> None:
    digest = package_writing.write_model(
        tmp_path / "model", saved.network.state_dict(), packaged.facts(temperature=TEMPERATURE, abstain_below=LIMIT)
    )
    assert digest == saved.digest
    package_writing.save(tmp_path / "saved", tmp_path / "model", digest, {"circumstances/dvc.lock": b"stages: {}"})
    assert signing.fault(tmp_path / "saved") is None
    (tmp_path / "saved/circumstances/dvc.lock").write_bytes(b"stages: []")
    assert signing.fault(tmp_path / "saved") == "Hash mismatch for 'circumstances/dvc.lock'"


def test_a_package_signed_with_another_key_is_refused(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # a project with a key of its own
    signing.sign("any")
    assert "made with another key than" in (signing.fault(saved.folder) or "")
