"""Files of weights as people have them: each row is a file, and what is said when it is read, or why it is refused."""

import argparse
import collections
import io
import json
import pathlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from steps.backbones import models
from steps.backbones.backbone import build, digest, without_top
from steps.commands import origins, weight_files
from steps.commands.origin_words import sentences
from steps.errors import RequestError
from steps.runtime import files

State = dict[str, torch.Tensor]
SHUFFLE, SQUEEZE, MOBILE, RESNET = "shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small", "resnet18"
NO_TOP = "the file's top is missing or not torchvision's: the backbone is used without one"
COUNTERS = "56 batch counters of BatchNorm are missing or no whole numbers and were set to 0"


@cache
def _original(name: str, classes: int) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(name, classes)
        for statistics in (tensor for key, tensor in network.named_buffers() if key.endswith("running_mean")):
            statistics.normal_()
        return dict(network.state_dict())


def state_of(name: str, classes: int = 1000) -> State:
    """Return the whole network's tensors; the caller may change the mapping, not the tensors."""
    return dict(_original(name, classes))


@cache
def body_of(name: str) -> frozenset[str]:
    return frozenset(without_top(build(name, 10))[0].state_dict())


def headless(name: str) -> State:
    return {key: tensor for key, tensor in state_of(name).items() if key in body_of(name)}


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def without(state: State, *ends: str) -> State:
    return {key: tensor for key, tensor in state.items() if not key.endswith(ends)}


def cast(state: State, dtype: torch.dtype) -> State:
    return {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def numbered(name: str) -> State:
    """Return the state of `nn.Sequential(*list(network.children())[:-1])`, which names layers by their number."""
    children = [child for child, _ in build(name, 10).named_children()]
    return {
        f"{children.index(key.partition('.')[0])}.{key.partition('.')[2]}": tensor
        for key, tensor in headless(name).items()
    }


def flat_buffer(state: State) -> State:
    """Return tensors that are views into one buffer, as sharded training saves them."""
    floats = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    buffer = torch.cat([tensor.reshape(-1) for tensor in floats.values()])
    pieces = buffer.split([tensor.numel() for tensor in floats.values()])
    return {**state, **{key: piece.view(floats[key].shape) for key, piece in zip(floats, pieces, strict=True)}}


def moco(state: State) -> State:
    projected = {"fc.0.weight": torch.zeros(8, 1024), "fc.2.weight": torch.zeros(8, 8)}
    query, key = ({**without(state, "fc.weight", "fc.bias"), **projected} for _ in range(2))
    queue = {"module.queue": torch.zeros(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {**under("module.encoder_q.", query), **under("module.encoder_k.", key), **queue}


def whole() -> State:
    return state_of(SHUFFLE)


def body() -> State:
    return headless(SHUFFLE)


def part(name: str) -> str:
    return f"read from the part {name!r} of the file"


def also(name: str) -> str:
    return f"{name} would fit, too: --weights-part {name} uses that"


def renamed(count: int) -> str:
    return f"{count} tensors were renamed to torchvision's names"


class Legacy(NamedTuple):
    """A state that is saved in the format of torch before 1.6."""

    state: State


Row = tuple[str, str, Callable[[], Any], tuple[str, ...]]
# file, architecture, what is saved, what `use` says besides its sentence about the preprocessing
READ: list[Row] = [
    ("plain.pth", SHUFFLE, whole, ()),
    ("before_zip.pth", SHUFFLE, lambda: Legacy(whole()), ()),
    ("plain.safetensors", SHUFFLE, whole, ()),
    ("ordered.pth", SHUFFLE, lambda: collections.OrderedDict(whole()), ()),
    ("views.pth", SHUFFLE, lambda: flat_buffer(whole()), ()),
    # prefixes
    ("ddp.pth", SHUFFLE, lambda: under("module.", whole()), (part("module"),)),
    ("compiled.pt", SHUFFLE, lambda: under("_orig_mod.", whole()), (part("_orig_mod"),)),
    ("both.pth", SHUFFLE, lambda: under("_orig_mod.module.", whole()), (part("_orig_mod.module"),)),
    ("encoder.safetensors", SHUFFLE, lambda: under("encoder.", body()), (part("encoder"), NO_TOP)),
    ("any_word.pth", SHUFFLE, lambda: under("my.own.trunk.", whole()), (part("my.own.trunk"),)),
    ("resnet_ddp.pth", RESNET, lambda: under("module.", state_of(RESNET)), (part("module"),)),
    # nestings
    ("nested.pth", SHUFFLE, lambda: {"state_dict": whole(), "epoch": 7}, (part("state_dict"),)),
    (
        "lightning.ckpt",
        SHUFFLE,
        lambda: {
            "state_dict": {**under("model.", whole()), "loss.weight": torch.ones(3)},
            "epoch": 7,
            "optimizer_states": [{}],
        },
        (part("state_dict.model"), "not used: state_dict"),
    ),
    (
        "training.tar",
        SHUFFLE,
        lambda: {"net": whole(), "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}},
        (part("net"),),
    ),
    (
        "ema.pth",
        SHUFFLE,
        lambda: {"model_ema": under("module.", whole()), "model": whole()},
        (part("model"), also("model_ema.module")),
    ),
    (
        "student_teacher.pth",
        SHUFFLE,
        lambda: {"student": under("backbone.", body()), "teacher": under("backbone.", body())},
        (part("student.backbone"), also("teacher.backbone"), NO_TOP),
    ),
    (
        "moco.pth",
        SHUFFLE,
        lambda: {"state_dict": moco(whole()), "arch": SHUFFLE},
        (part("state_dict.module.encoder_q"), also("state_dict.module.encoder_k"), "not used: fc, state_dict", NO_TOP),
    ),
    (
        "swa.pth",
        SHUFFLE,
        lambda: {"n_averaged": torch.tensor(3), **under("module.", whole())},
        (part("module"), "not used: n_averaged"),
    ),
    (
        "namespace.pth",
        SHUFFLE,
        lambda: {"model": whole(), "args": argparse.Namespace(lr=1, out=pathlib.Path("x"))},
        (part("model"),),
    ),
    ("numpy.pth", SHUFFLE, lambda: {"model": whole(), "best": np.float64(0.9), "curve": np.zeros(3)}, (part("model"),)),
    # tops and other layers that are not used
    ("headless.pth", SHUFFLE, body, (NO_TOP,)),
    (
        "projector.pth",
        SHUFFLE,
        lambda: {**body(), "projector.0.weight": torch.zeros(8, 1024)},
        ("not used: projector", NO_TOP),
    ),
    (
        "another_top.pth",
        SHUFFLE,
        lambda: {**body(), "fc.1.weight": torch.zeros(5, 1024), "fc.1.bias": torch.zeros(5)},
        ("not used: fc", NO_TOP),
    ),
    ("ten_classes.pth", SHUFFLE, lambda: state_of(SHUFFLE, 10), ("its own top, for 10 classes, is cut off",)),
    (
        "half_a_top.pth",
        SQUEEZE,
        lambda: without(state_of(SQUEEZE), "classifier.1.bias"),
        ("not used: classifier", NO_TOP),
    ),
    ("extra.safetensors", SQUEEZE, lambda: {**state_of(SQUEEZE), "extra": torch.zeros(1)}, ("not used: extra",)),
    (
        "profiled.pth",
        SHUFFLE,
        lambda: {**whole(), "total_ops": torch.zeros(1), "stage2.total_params": torch.zeros(1)},
        ("not used: stage2, total_ops",),
    ),
    ("mobile_headless.pth", MOBILE, lambda: headless(MOBILE), (NO_TOP,)),
    (
        "mobile_features.pth",
        MOBILE,
        lambda: {k: v for k, v in state_of(MOBILE).items() if k.startswith("features.")},
        (f"{NO_TOP}, ending after features.12",),
    ),
    (
        "mobile_classifier.pth",
        MOBILE,
        lambda: {**state_of(MOBILE), "classifier.0.weight": torch.zeros(3, 576)},
        ("not used: classifier", f"{NO_TOP}, ending after features.12"),
    ),
    # names by number, without the container, of older releases
    ("numbered.pth", SHUFFLE, lambda: numbered(SHUFFLE), (renamed(280), NO_TOP)),
    (
        "numbered_encoder.pth",
        RESNET,
        lambda: {"state_dict": under("encoder.", numbered(RESNET))},
        (part("state_dict.encoder"), renamed(100), NO_TOP),
    ),
    (
        "only_features.pth",
        SQUEEZE,
        lambda: {k.removeprefix("features."): v for k, v in headless(SQUEEZE).items()},
        (renamed(50), NO_TOP),
    ),
    ("no_counters.pth", SHUFFLE, lambda: without(whole(), "num_batches_tracked"), (COUNTERS,)),
    (
        "detector.pth",
        SHUFFLE,
        lambda: {**under("backbone.body.", without(body(), "num_batches_tracked")), "rpn.head.weight": torch.zeros(3)},
        (part("backbone.body"), COUNTERS, "not used: rpn", NO_TOP),
    ),
    # numbers
    ("all_half.pth", SHUFFLE, lambda: {k: v.half() for k, v in whole().items()}, (COUNTERS, "float16 became float32")),
    ("half.pth", SHUFFLE, lambda: cast(whole(), torch.float16), ("float16 became float32",)),
    ("half.safetensors", SHUFFLE, lambda: cast(whole(), torch.float16), ("float16 became float32",)),
    ("bfloat16.pth", SQUEEZE, lambda: cast(state_of(SQUEEZE), torch.bfloat16), ("bfloat16 became float32",)),
    ("double.pth", SQUEEZE, lambda: cast(state_of(SQUEEZE), torch.float64), ("float64 became float32",)),
]


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("fuse"),))


# file, architecture, what is saved (bytes as they are), words of the refusal
REFUSED: list[Row] = [
    (
        "one_missing.pth",
        SHUFFLE,
        lambda: without(whole(), "conv1.0.weight"),
        ("1 of 336 tensors missing (first: conv1.0.weight)",),
    ),
    (
        "one_reshaped.pth",
        SHUFFLE,
        lambda: {**whole(), "conv1.0.weight": torch.zeros(3)},
        ("1 of another shape or type (first: conv1.0.weight)", "give weights of shufflenet_v2_x0_5"),
    ),
    (
        "one_more_layer.pth",
        SHUFFLE,
        lambda: {**whole(), "stage2.4.branch2.0.weight": torch.zeros(1)},
        ("1 of layers that it does not have (first: stage2.4.branch2.0.weight)",),
    ),
    (
        "integers.pth",
        SQUEEZE,
        lambda: {k: v.to(torch.int8) for k, v in state_of(SQUEEZE).items()},
        ("50 of another shape or type",),
    ),
    (
        "deeper.pth",
        RESNET,
        lambda: under("module.", state_of("resnet34")),
        ("96 of layers that it does not have", "names read under 'module'", "they fit resnet34: --backbone resnet34"),
    ),
    (
        "shallower.pth",
        "resnet34",
        lambda: state_of(RESNET),
        ("80 of 216 tensors missing", "they fit resnet18: --backbone resnet18"),
    ),
    (
        "wider.pth",
        "shufflenet_v2_x1_0",
        whole,
        ("of another shape", "they fit shufflenet_v2_x0_5: --backbone shufflenet_v2_x0_5"),
    ),
    (
        "small_for_large.pth",
        "mobilenet_v3_large",
        lambda: headless(MOBILE),
        ("the weights do not fit mobilenet_v3_large",),
    ),
    (
        "foreign_names.pth",
        SHUFFLE,
        lambda: {"embeddings.weight": torch.zeros(3), "layer.bias": torch.zeros(3)},
        ("the file has 0 of its 280 tensors (first in the file: embeddings.weight)",),
    ),
    (
        "top_alone.pth",
        SHUFFLE,
        lambda: {k: v for k, v in whole().items() if k.startswith("fc.")},
        ("the file has 0 of its 280 tensors (first in the file: fc.weight)",),
    ),
    (
        "not_a_number.pth",
        SQUEEZE,
        lambda: {**state_of(SQUEEZE), "features.0.bias": torch.full((64,), torch.nan)},
        ("NaN or infinity in 1 tensors (first: features.0.bias)",),
    ),
    (
        "list.pth",
        SHUFFLE,
        lambda: [torch.zeros(1)],
        ("holds no state dict (name -> tensor)", "torch.save(model.state_dict(), 'weights.pth')"),
    ),
    (
        "whole_module.pth",
        SQUEEZE,
        lambda: build(SQUEEZE, 3),
        (
            "it holds Python objects, which could run code (torch.nn.modules",
            "torch.save(model.state_dict(), 'weights.pth')",
        ),
    ),
    (
        "bomb.pth",
        SHUFFLE,
        lambda: {"state_dict": whole(), "callback": Bomb()},
        ("it holds Python objects, which could run code (",),
    ),
    ("script.pt", SQUEEZE, lambda: torch.jit.script(nn.Linear(2, 2)), ("it is a TorchScript archive",)),
    ("page.pth", SHUFFLE, lambda: b"<!DOCTYPE html><html>404</html>", ("it is a web page or XML",)),
    (
        "pointer.pth",
        SHUFFLE,
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        ("`git lfs pull` fetches the file",),
    ),
    (
        "pointer.safetensors",
        SHUFFLE,
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        ("`git lfs pull` fetches the file",),
    ),
    ("keras.h5", SHUFFLE, lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), ("it is HDF5, as Keras writes it",)),
    (
        "claims.pth",
        SHUFFLE,
        lambda: {"fc.weight": torch.zeros(1).expand(10**9)},
        ("fc.weight claims 1,000,000,000 values",),
    ),
    (
        "deflated.pth",
        SHUFFLE,
        lambda: deflated({"fc.weight": torch.zeros(10**6)}),
        ("its content has 4,0", "bytes; at most"),
    ),
    (
        "a_million.safetensors",
        SHUFFLE,
        lambda: listing({f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(10**5)}),
        ("its header has 6,", "at most 4,194,304 are read"),
    ),
    (
        "long_structure.pth",
        SHUFFLE,
        lambda: {"log": "x" * 17 * 2**20, "fc.weight": torch.zeros(1)},
        ("its structure without tensors has 17,8", "at most 16,777,216 are read"),
    ),
    ("empty.pth", SHUFFLE, lambda: b"", ("not readable as weights",)),
    ("cut_off.pth", SHUFFLE, lambda: b"PK\x03\x04" + bytes(500), ("not readable as weights",)),
    ("junk.safetensors", SHUFFLE, lambda: b"\xff" * 64, ("not readable as weights",)),
]


def deflated(content: Any) -> bytes:
    """Return a checkpoint whose archive is compressed: zeros take a thousandth of what they claim."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save(content, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def listing(tensors: dict[str, Any]) -> bytes:
    """Return a safetensors file that is a header alone."""
    header = json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header


def write(path: Path, content: Any) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, torch.jit.ScriptModule):
        content.save(str(path))
    elif isinstance(content, Legacy):
        torch.save(content.state, path, _use_new_zipfile_serialization=False)
    elif path.suffix == ".safetensors":
        files.write_tensors(path, content)
    else:
        torch.save(content, path)
    return path


def ids(rows: list[Row]) -> list[str]:
    return [row[0] for row in rows]


@pytest.mark.parametrize(("file", "name", "make", "said"), READ, ids=ids(READ))
def test_a_file_is_read_and_what_was_done_to_it_is_said(
    tmp_path: Path, file: str, name: str, make: Callable[[], Any], said: tuple[str, ...]
) -> None:
    card, state = origins.torchvision(name, str(write(tmp_path / file, make())))
    *lines, preprocessing = sentences(card)
    assert tuple(lines) == said
    assert preprocessing.startswith("preprocessing assumed to be that of ")
    original = state_of(name, card.num_classes)
    exact = not {"all_half.pth", "half.pth", "half.safetensors", "bfloat16.pth"} & {file}
    for key, tensor in state.items():
        assert tensor.dtype in (torch.float32, torch.int64)
        wanted = torch.zeros_like(tensor) if key.endswith("num_batches_tracked") else original[key].to(torch.float32)
        torch.testing.assert_close(
            tensor, wanted, **({"rtol": 0, "atol": 0} if exact else {"rtol": 0.02, "atol": 0.02})
        )
    written(tmp_path / "backbone", card, state)
    assert models.load_backbone(tmp_path / "backbone")[0].reading == card.reading


def written(folder: Path, card: models.Card, state: State) -> None:
    """Write a backbone as `use` does."""
    files.write_tensors(folder / models.WEIGHTS, state)
    models.write_card(folder, replace(card, sha256=files.sha256_of(folder / models.WEIGHTS)))


@pytest.mark.parametrize(("file", "name", "make", "said"), REFUSED, ids=ids(REFUSED))
def test_a_file_that_has_no_honest_reading_is_refused_with_what_to_do(
    tmp_path: Path,
    file: str,
    name: str,
    make: Callable[[], Any],
    said: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / file, make())
    with pytest.raises(RequestError) as caught:
        origins.torchvision(name, str(path))
    for words in said:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "fuse").exists()


@pytest.mark.parametrize(
    ("wish", "factor"), [(None, 1.0), ("model_ema", 2.0), ("model_ema.module", 2.0), ("model", 1.0)]
)
def test_the_part_of_a_file_can_be_chosen(tmp_path: Path, wish: str | None, factor: float) -> None:
    averaged = {key: tensor * 2 if tensor.is_floating_point() else tensor for key, tensor in whole().items()}
    path = write(tmp_path / "w.pth", {"model_ema": under("module.", averaged), "model": whole()})
    _, state = origins.torchvision(SHUFFLE, str(path), origins.Wishes(None, wish))
    assert torch.equal(state["conv1.0.weight"], factor * whole()["conv1.0.weight"])


def test_a_part_that_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"model": whole()})
    with pytest.raises(RequestError, match="the file has 0 of its 280 tensors under 'teacher'"):
        origins.torchvision(SHUFFLE, str(path), origins.Wishes(None, "teacher"))


@pytest.mark.parametrize("name", [SHUFFLE, SQUEEZE, MOBILE])
def test_a_checkpoint_gives_the_features_of_the_plain_file(tmp_path: Path, name: str) -> None:
    nested = {"state_dict": under("module.encoder.", headless(name)), "epoch": 3}
    plain, odd = write(tmp_path / "plain.pth", state_of(name)), write(tmp_path / "odd.pth", nested)
    networks = [models.assemble(*origins.torchvision(name, str(path)))[0] for path in (plain, odd)]
    assert digest(networks[0].state_dict()) == digest(networks[1].state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first, second = (network(images) for network in networks)
    assert torch.equal(first, second) and len(first.unique(dim=0)) == 2


def test_a_card_without_a_reading_is_read_as_before() -> None:
    card, _ = origins.embedded()
    assert card.reading is None and list(sentences(card)) == []


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that its owner cannot read")
def test_a_file_that_cannot_be_read_is_refused_in_words() -> None:
    with pytest.raises(RequestError, match=r"--weights /proc/self/mem: cannot be read: Input/output error"):
        weight_files.read(Path("/proc/self/mem"))
