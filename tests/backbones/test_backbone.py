"""Every network that regraft offers is cut, split, frozen and fingerprinted as promised.

All of them are built on the meta device, which computes shapes and no numbers: 81 networks, up to 645 million
parameters. What needs numbers (a training step) runs on the smallest network of each family.
"""

import copy
from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torchvision import models

from steps.backbones import backbone as subject
from steps.backbones.backbone import (
    Grafted,
    architectures,
    blocks,
    build,
    cut_at,
    digest,
    features_at,
    last_blocks,
    top_of,
    without_top,
)
from steps.errors import RequestError
from steps.training.fine_tuning import _groups
from tests.training.test_fine_tuning import SCHEDULE

ALL = architectures()
WIDTHS = {
    "alexnet": 4096,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 1024,
    "inception_v3": 2048,
    "mobilenet_v3_small": 1024,
    "regnet_y_400mf": 440,
    "resnet18": 512,
    "resnet50": 2048,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "vgg16": 4096,
    "vit_b_16": 768,
}
SMALL = [
    "glyphnet",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    on_meta.cache_clear()


class _OnMeta(TorchFunctionMode):
    """Give weights no storage. `torch.device("meta")` also moves the arithmetic by which RegNet finds its widths.

    What fills a tensor or keeps its shape is passed over: on the meta device that is all of its effect, and most of
    the time.
    """

    ALLOCATE = (torch.empty, torch.zeros, torch.ones, torch.randn)
    FILL = (
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        torch.Tensor.erfinv_,
        torch.Tensor.mul_,
        torch.Tensor.add_,
        torch.Tensor.clamp_,
        torch.Tensor.fill_,
        torch.Tensor.zero_,
    )
    KEEP = (
        functional.batch_norm,
        functional.layer_norm,
        functional.relu,
        functional.silu,
        functional.hardswish,
        functional.hardsigmoid,
        functional.gelu,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (func in self.FILL or func in self.KEEP) and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            return args[0]
        kwargs = dict(kwargs or {})
        if func in self.ALLOCATE:
            kwargs["device"] = kwargs.get("device") or "meta"
        return func(*args, **kwargs)


def whole_on_meta(architecture: str, classes: int) -> nn.Module:
    with _OnMeta():
        return build(architecture, classes).to("meta").eval()


class Cut(NamedTuple):
    """A network without its top, and what was seen while an image went through it."""

    network: nn.Module
    width: int
    classes_of_top: int
    features: tuple[int, ...]
    met: list[str]  # blocks with parameters, in the order in which the image met them


@cache
def on_meta(architecture: str) -> Cut:
    whole = whole_on_meta(architecture, 7)
    top = whole.get_submodule(top_of(whole))
    network, width = without_top(whole)
    met: dict[str, None] = {}  # an ordered set
    block_of = {name: block for block, names in blocks(network).items() for name in names}

    def note(prefix: str, module: nn.Module, _: Any) -> None:
        met.update(dict.fromkeys(block_of[prefix + name] for name, _ in module.named_parameters(recurse=False)))

    hooks = [
        module.register_forward_pre_hook(partial(note, f"{name}." if name else ""))
        for name, module in network.named_modules()
        if module._parameters
    ]
    with torch.inference_mode(), _OnMeta():
        features = network(torch.empty(2, 3, 224, 224, device="meta")).flatten(1)
    for hook in hooks:
        hook.remove()
    classes = top.out_channels if isinstance(top, nn.Conv2d) else top.out_features
    return Cut(network, width, int(classes), tuple(features.shape), list(met))  # type: ignore[arg-type]


@cache
def real(architecture: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    return without_top(build(architecture, 7))


def grafted(architecture: str, count: int) -> Grafted:
    network, width = copy.deepcopy(real(architecture))
    return Grafted(network, nn.Linear(width, 2), last_blocks(network, count))


def some_images(architecture: str, n: int = 2) -> torch.Tensor:
    side = 96 if architecture == "inception_v3" else 64
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def train_a_step(model: nn.Module, images: torch.Tensor) -> None:
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=1e-2)
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    optimiser.step()


def tensors_of(module: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


# What there is


def test_every_classifier_of_torchvision_and_our_own_are_known() -> None:
    assert set(ALL) == {"glyphnet", *models.list_models(module=models)}
    assert len(ALL) >= 81
    assert sorted(ALL) == ALL


@pytest.mark.parametrize("name", ["resnet_18", "", "fasterrcnn_resnet50_fpn", "quantized_resnet18"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name!r} is not a backbone that regraft knows"):
        build(name, 10)


# Cutting


@pytest.mark.parametrize("architecture", ALL)
def test_a_network_without_its_top_maps_images_to_features_of_the_width_it_names(architecture: str) -> None:
    cut = on_meta(architecture)
    assert cut.features == (2, cut.width)
    assert cut.width == WIDTHS.get(architecture, cut.width)
    assert cut.classes_of_top == 7, "what was cut off did not make the classes"


@pytest.mark.parametrize("architecture", SMALL)
def test_the_cut_features_are_those_that_the_top_was_given(architecture: str) -> None:
    torch.manual_seed(0)
    whole = build(architecture, 7).eval()
    images = some_images(architecture)
    logits = whole(images)
    top = whole.get_submodule(top_of(whole))
    network, width = without_top(whole)
    with torch.no_grad():
        if isinstance(network, models.SqueezeNet):
            maps = network.features(images)
            again = top(maps).relu().mean(dim=(2, 3))
            assert torch.allclose(network(images), maps.mean(dim=(2, 3)), atol=1e-5)
        else:
            again = top(network(images))
    assert tuple(network(images).flatten(1).shape) == (2, width)
    assert torch.allclose(again, logits, atol=1e-5)


def test_a_vit_is_built_for_the_side_of_its_weights_own_pictures() -> None:
    """torchvision's default weights of vit_h_14 are for 518 pixels: 37 x 37 patches and the class token."""
    with _OnMeta():
        large, usual = build("vit_h_14", 7, side=518), build("vit_h_14", 7)
    assert large.state_dict()["encoder.pos_embedding"].shape == (1, 37 * 37 + 1, 1280)
    assert usual.state_dict()["encoder.pos_embedding"].shape == (1, 16 * 16 + 1, 1280)


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_load_and_are_then_cut_off(architecture: str) -> None:
    whole = whole_on_meta(architecture, 7)
    auxiliary = [name for name in whole.state_dict() if name.lower().startswith("aux")]
    assert len(auxiliary) > 4, "a file of torchvision's weights would not load"
    network, _ = without_top(whole)
    assert not [name for name in network.state_dict() if name.lower().startswith("aux")]


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_inputs_are_transformed_as_torchvision_does_with_its_own_weights(architecture: str) -> None:
    # torchvision/models/googlenet.py and inception.py set it when, and only when, weights are given.
    assert build(architecture, 7).transform_input is True
    network, _ = real(architecture)
    plain = copy.deepcopy(network)
    plain.transform_input = False
    images = some_images(architecture)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        wanted = plain.eval()((images * std + mean - 0.5) / 0.5)
        assert torch.allclose(network.eval()(images), wanted, atol=1e-4)


# Blocks


@pytest.mark.parametrize("architecture", ALL)
def test_every_tensor_is_in_exactly_one_block(architecture: str) -> None:
    network = on_meta(architecture).network
    found = [name for names in blocks(network).values() for name in names]
    assert sorted(found) == sorted(network.state_dict())
    assert len(blocks(network)) >= 3


@pytest.mark.parametrize("architecture", ALL)
def test_blocks_come_in_the_order_in_which_an_image_meets_them(architecture: str) -> None:
    cut = on_meta(architecture)
    parameters = {name for name, _ in cut.network.named_parameters()}
    assert cut.met == [block for block, names in blocks(cut.network).items() if parameters & set(names)]


def test_a_norm_that_stands_alone_joins_the_block_before_it() -> None:
    network = nn.ModuleDict(
        {
            "norm0": nn.BatchNorm2d(3),
            "conv1": nn.Conv2d(3, 4, 1),
            "bn1": nn.BatchNorm2d(4),
            "features": nn.Sequential(
                nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)
            ),
            "norm": nn.LayerNorm(4),
        }
    )
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert blocks(network) == {
        "norm0": tuple(f"norm0.{name}" for name in ("weight", "bias", *statistics)),  # nothing stands before it
        "conv1": ("conv1.weight", "conv1.bias", *(f"bn1.{name}" for name in ("weight", "bias", *statistics))),
        "features.0": ("features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias"),
        "features.3": ("features.3.weight", "norm.weight", "norm.bias"),
    }


@pytest.mark.parametrize("architecture", ALL)
def test_the_last_blocks_are_the_tail_of_those_that_can_learn(architecture: str) -> None:
    network = on_meta(architecture).network
    everything = last_blocks(network, 10_000)
    parameters = {name for name, _ in network.named_parameters()}
    assert {name for block in everything for name in blocks(network)[block]} >= parameters
    assert last_blocks(network, 0) == ()
    for count in (1, len(everything) - 1, len(everything) + 1):
        assert last_blocks(network, count) == everything[-count:]


# Cutting deeper


@pytest.mark.parametrize("architecture", ALL)
def test_every_network_can_be_cut_after_its_first_middle_and_last_block_but_one(architecture: str) -> None:
    network = on_meta(architecture).network
    split = {name: set(tensors) for name, tensors in blocks(network).items()}
    names = list(split)
    cuts = list(dict.fromkeys([names[0], names[len(names) // 2 - 1], names[-2]]))
    with torch.inference_mode(), _OnMeta():
        together = features_at(network, [*cuts, ""])(torch.empty(2, 3, 224, 224, device="meta"))
    for cut in cuts:
        with torch.inference_mode(), _OnMeta():
            truncated, width = cut_at(network, cut)
        kept = names[: names.index(cut) + 1]
        assert {name: set(tensors) for name, tensors in blocks(truncated).items()} == {n: split[n] for n in kept}
        assert together[cut].shape == (2, width)
    assert list(together) == [*cuts, ""]
    assert together[""].shape == (2, on_meta(architecture).width)
    with torch.inference_mode(), _OnMeta():
        assert cut_at(network, "") == cut_at(network, names[-1]) == (network, on_meta(architecture).width)


@pytest.mark.parametrize("architecture", SMALL)
def test_one_pass_gives_what_each_block_passes_on_averaged(architecture: str) -> None:
    network, _ = copy.deepcopy(real(architecture))
    names = list(blocks(network.eval()))
    given: dict[str, torch.Tensor] = {}

    def note(name: str, _: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        given[name] = inputs[0].clone()

    images = some_images(architecture)
    hooks = [network.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in names]
    with torch.inference_mode():
        whole = network(images).flatten(1)
        for hook in hooks:
            hook.remove()
        together = features_at(network, [*names, ""])(images)
        assert torch.equal(together[""], whole)
        assert torch.equal(together[names[-1]], whole)
        for cut, following in pairwise(names):
            passed_on = given[following]
            space = (1, 2) if architecture == "swin_t" else (2, 3)
            wanted = passed_on.mean(space) if passed_on.dim() == 4 else passed_on
            assert torch.equal(together[cut], wanted)
            assert torch.equal(cut_at(network, cut)[0](images), wanted)


def test_tokens_are_averaged_at_a_cut_and_the_class_token_is_what_the_whole_gives() -> None:
    torch.manual_seed(0)
    network, width = without_top(models.VisionTransformer(32, 16, 3, 2, 8, 16, num_classes=2))
    images = some_images("vit")[..., :32, :32]
    tokens: list[torch.Tensor] = []
    network.encoder.layers[0].register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].clone()))
    with torch.inference_mode():
        whole = network.eval()(images)
        assert torch.equal(cut_at(network, "conv_proj")[0](images), tokens[0].mean(1))
        assert torch.equal(features_at(network, [""])(images)[""], whole)
        last = "encoder.layers.encoder_layer_2"
        assert cut_at(network, last) == (network, width) == (network, 8)
    assert list(blocks(network)) == ["conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in range(3))]
    assert {"class_token", "encoder.pos_embedding"} < set(blocks(network)["conv_proj"])
    assert {"encoder.ln.weight", "encoder.ln.bias"} < set(blocks(network)[last])


@pytest.mark.parametrize(
    ("architecture", "cut", "width"), [("alexnet", "features.10", 256), ("vgg11", "features.18", 512)]
)
def test_a_map_is_averaged_though_the_next_layer_would_have_flattened_it(
    architecture: str, cut: str, width: int
) -> None:
    assert cut_at(on_meta(architecture).network, cut)[1] == width


def test_a_cut_network_trains_its_last_blocks_and_shares_no_tensor_with_what_was_cut_off() -> None:
    network, _ = copy.deepcopy(real("resnet18"))
    truncated, width = cut_at(network, "layer2")
    model = Grafted(truncated, nn.Linear(width, 2), last_blocks(truncated, 1))
    assert model.trainable == ("layer2",)
    before = tensors_of(model.backbone)
    train_a_step(model.train(), some_images("resnet18"))
    after = tensors_of(model.backbone)
    learns = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert {name for name in after if after[name] != before[name]} == learns
    assert all(name.startswith("layer2.") for name in learns)


@pytest.mark.parametrize("architecture", SMALL)
def test_a_cut_network_is_cut_again_as_the_whole_would_be(architecture: str) -> None:
    network, _ = copy.deepcopy(real(architecture))
    names = list(blocks(network.eval()))
    first, second = names[len(names) // 2], names[len(names) // 2 - 1]
    images = some_images(architecture)
    once = copy.deepcopy(cut_at(network, first)[0])
    with torch.inference_mode():
        wanted, (again, width) = cut_at(network, second)[0](images), cut_at(once, second)
        assert torch.equal(again(images), wanted)
        assert width == wanted.shape[1]
        assert torch.equal(features_at(once, ["", second])(images)[second], wanted)


def test_a_vit_for_large_pictures_is_cut_twice_too() -> None:
    torch.manual_seed(0)
    network, _ = without_top(models.VisionTransformer(64, 16, 3, 2, 8, 16, num_classes=2))
    once, _ = cut_at(network, "encoder.layers.encoder_layer_1")
    again, width = cut_at(once, "encoder.layers.encoder_layer_0")
    with torch.inference_mode():
        wanted = cut_at(network, "encoder.layers.encoder_layer_0")[0](some_images("vit"))
        assert torch.equal(again(some_images("vit")), wanted)
    assert width == 8


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("depth", [1, 2])
def test_the_frozen_part_and_the_rest_are_the_network_to_the_bit(architecture: str, depth: int) -> None:
    model, images = grafted(architecture, depth).eval(), some_images(architecture)
    frozen, rest = model.halves()
    with torch.inference_mode():
        assert torch.equal(rest(frozen(images)), model(images))


# Frozen means frozen


@pytest.mark.parametrize("architecture", ALL)
def test_exactly_the_chosen_blocks_and_the_head_learn_wherever_the_network_is_parted(architecture: str) -> None:
    """Every number of blocks, none to all, on tensors without storage; modes and optimiser at six of the numbers."""
    cut = on_meta(architecture)
    split = blocks(cut.network)
    parameters = {name for name, _ in cut.network.named_parameters()}
    learnable = [block for block, names in split.items() if parameters & set(names)]
    most = len(learnable)
    for count in range(most + 1):
        chosen = last_blocks(cut.network, count)
        assert chosen == tuple(learnable[most - count :])
        model = Grafted(cut.network, nn.Linear(cut.width, 2, device="meta"), chosen)
        learns = {name for name, parameter in cut.network.named_parameters() if parameter.requires_grad}
        assert learns == parameters & {name for block in chosen for name in split[block]}
        assert all(parameter.requires_grad for parameter in model.head.parameters())
        assert set(model.frozen_state()) == set(cut.network.state_dict()) - learns
        if count in {0, 1, 2, most // 2, most - 1, most}:
            check_optimiser_and_modes(model)


def check_optimiser_and_modes(model: Grafted) -> None:
    """Hold that the optimiser has what learns, each once, and that nothing frozen is ever in training mode."""
    # Lightning drops a bias that equals another by value (both zero at the start): identity is what counts.
    held = [id(p) for group in _groups(model, SCHEDULE) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)

    inside = tuple(f"{block}." for block in model.trainable)
    joined = {name.rpartition(".")[0] for block in model.trainable for name in model.blocks[block]}  # lone norms
    may = [
        name
        for name, module in model.backbone.named_modules()
        if name and (f"{name}.".startswith(inside) or name in joined) and not isinstance(module, BATCH_NORMS)
    ]
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert [n for n, m in model.backbone.named_modules() if m.training] == (may if mode else [])
        assert model.head.training == mode


@pytest.mark.parametrize("architecture", SMALL)
def test_training_moves_the_chosen_block_and_the_head_and_not_one_bit_else(architecture: str) -> None:
    model = grafted(architecture, 1)
    frozen, before = model.frozen_state().keys(), tensors_of(model.backbone)
    sealed, head = digest(model.frozen_state()), tensors_of(model.head)
    for _ in range(2):
        model.train()
        train_a_step(model, some_images(architecture))
    after = tensors_of(model.backbone)
    moved = {name for name in after if after[name] != before[name]}
    learns = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert moved == learns
    assert moved
    assert not moved & set(frozen)
    assert digest(model.frozen_state()) == sealed
    assert all(value != head[name] for name, value in tensors_of(model.head).items())


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_running_statistics_stand_still_in_the_blocks_that_learn_too(architecture: str) -> None:
    model = grafted(architecture, 2)
    statistics = {n: t.clone() for n, t in model.backbone.state_dict().items() if "running" in n or "tracked" in n}
    inside = [n for block in model.trainable for n in model.blocks[block] if n in statistics]
    assert inside
    model.train()
    train_a_step(model, some_images(architecture))
    assert all(torch.equal(model.backbone.state_dict()[name], old) for name, old in statistics.items())
    assert set(statistics) <= set(model.frozen_state())


def test_without_the_rule_the_same_step_would_move_statistics_and_be_noticed() -> None:
    """Inject the fault: `requires_grad` alone, as in many a tutorial (pytorch/pytorch#86590)."""
    model = grafted("resnet18", 1)
    sealed = digest(model.frozen_state())
    nn.Module.train(model)
    train_a_step(model, some_images("resnet18"))
    assert digest(model.frozen_state()) != sealed


@pytest.mark.parametrize("architecture", SMALL)
def test_a_frozen_backbone_gives_in_training_the_features_it_gives_in_service(architecture: str) -> None:
    model, images = grafted(architecture, 0), some_images(architecture)
    with torch.no_grad():
        trained = model.train()(images)
        assert torch.equal(trained, model.eval()(images))


class Dropping(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.5)),
            nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Dropout(0.5)),
            nn.AdaptiveAvgPool2d(1),
        )


@pytest.mark.parametrize(("trainable", "noisy"), [((), False), (("1",), True)])
def test_dropout_is_off_in_the_frozen_part_and_on_where_it_learns(trainable: tuple[str, ...], noisy: bool) -> None:
    torch.manual_seed(0)
    model = Grafted(Dropping(), nn.Linear(8, 2), trainable).train()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.backbone[0](images), model.backbone[0](images))
    assert torch.equal(model(images), model(images)) is not noisy


def test_a_block_whose_name_begins_like_another_stays_frozen() -> None:
    network = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Dropout()) for _ in range(12)])
    model = Grafted(network, nn.Linear(4, 2), ("1",)).train()
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["1.0.weight", "1.0.bias"]
    assert [i for i, block in enumerate(network) if block[1].training] == [1]
    assert model.training


def test_the_containers_named_are_those_that_some_network_has() -> None:
    """A guard: a renamed container in torchvision would silently make one block of a whole network."""
    seen = {part for name in ALL for tensor in on_meta(name).network.state_dict() for part in tensor.split(".")}
    assert seen >= subject.CONTAINERS
