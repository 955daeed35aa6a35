"""Backbones: how a network is built, cut, split into ordered blocks, frozen and fingerprinted.

A new architecture is a name that torchvision or timm lists or a row in `OWN`, never a subclass.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torchvision import models

from steps.backbones import timm_networks
from steps.backbones.glyphnet import glyphnet
from steps.backbones.timm_networks import Division, modules_around
from steps.errors import RequestError

OWN = {"glyphnet": glyphnet}
# Children that only hold others: blocks are found below them. The names are torchvision's.
CONTAINERS = {"features", "encoder", "layers", "trunk_output", "blocks", "classifier"}
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
BATCH_NORMS = nn.modules.batchnorm._BatchNorm
TRAITS = "traits"  # the key of a cut network's `meta`


def architectures() -> list[str]:
    """Return the names of our own and of torchvision's architectures, sorted; `build` knows timm's, too."""
    return sorted([*OWN, *models.list_models(module=models)])


def build(architecture: str, num_classes: int, side: int = 224) -> nn.Module:
    """Return the whole network, randomly initialised, with its original kind of top.

    `side` is the side of the square pictures in pixels; only the weights of transformers depend on it.
    Raises RequestError for an unknown name.
    """
    if timm_networks.is_timm(architecture):
        return timm_networks.build(architecture, num_classes, side)
    if architecture in OWN:
        return OWN[architecture](num_classes)
    if architecture not in models.list_models(module=models):
        raise RequestError(f"{architecture!r} is not a backbone that regraft knows")
    network: nn.Module = models.get_model(
        architecture, weights=None, num_classes=num_classes, **_extras(architecture, side)
    )
    if isinstance(network, models.MNASNet):
        network.__class__ = _MNASNet
    return network


class _MNASNet(models.MNASNet):  # type: ignore[misc]
    """torchvision's own class rejects a state without the version number that only pickled files carry."""

    _load_from_state_dict = nn.Module._load_from_state_dict


def _extras(architecture: str, side: int) -> dict[str, int | bool]:
    if architecture.startswith("vit_"):
        return {"image_size": side}
    # torchvision sets these by itself, but only when it downloads the weights: without transform_input the
    # same file gives other features.
    if architecture in ("googlenet", "inception_v3"):
        return {"transform_input": True, "aux_logits": True, "init_weights": False}
    return {}


class _Shapes(TorchFunctionMode):
    """Gives tensors no storage; `torch.device("meta")` would also move the numbers of which RegNet makes its widths."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **on})


def skeleton(architecture: str, num_classes: int, side: int = 224) -> nn.Module:
    """Return what `build` returns, on the meta device: names, shapes and types, in a fraction of a second."""
    with _Shapes():
        return build(architecture, num_classes, side).to("meta")


def without_top(model: nn.Module) -> tuple[nn.Module, int]:
    """Cut the classifier off, in place; return the backbone and the width of the features it now gives.

    The backbone maps float32 [n, 3, h, w] to [n, width]. Auxiliary classifiers (Inception, GoogLeNet) go too.
    """
    if timm_networks.is_grouped(model):
        return timm_networks.without_top(model)
    for auxiliary in ("AuxLogits", "aux1", "aux2"):
        if getattr(model, auxiliary, None) is not None:
            setattr(model, auxiliary, None)
    name = top_of(model)
    top = model.get_submodule(name)
    if isinstance(model, models.SqueezeNet):  # its top is a convolution over the map, then the pooling
        model.classifier = nn.AdaptiveAvgPool2d(1)
        return model, int(top.in_channels)  # type: ignore[arg-type]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model, int(top.in_features)  # type: ignore[arg-type]


def top_of(model: nn.Module) -> str:
    """Return the name of the layer that maps features to classes: torchvision's last linear one, but for SqueezeNet."""
    if timm_networks.is_grouped(model):
        return timm_networks.top_of(model)
    if isinstance(model, models.SqueezeNet):
        return "classifier.1"
    linear: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1]


def blocks(backbone: nn.Module) -> dict[str, tuple[str, ...]]:
    """Split a backbone into ordered blocks: name -> the names of its parameters and buffers, input side first.

    Every tensor of the state is in exactly one block. Tensors that make no sense to freeze without their neighbour join
    the block before them: a norm outside a block, and a parameter without a module of its own (ViT's class token and
    position embedding; if there is no block before it, the first one). timm's networks are divided as they say.
    """
    division = _traits(backbone).division
    if division is not None:
        return _kept_of(division, backbone.state_dict())
    by_block: dict[str, list[str]] = {}
    last, homeless = "", []
    for name in backbone.state_dict():
        block = _block_name(name)
        if block not in by_block and (block == name or (last and _is_norm(backbone, block))):
            block = last
        if not block:
            homeless.append(name)
            continue
        by_block.setdefault(block, []).append(name)
        last = block
    if by_block:
        first = next(iter(by_block))
        by_block[first] = [*homeless, *by_block[first]]
    return {block: tuple(names) for block, names in by_block.items()}


def _kept_of(division: Division, state: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the blocks of which a network still has tensors, with those."""
    kept = set(state)
    left = {block: tuple(name for name in names if name in kept) for block, names in division.items()}
    return {block: names for block, names in left.items() if names}


def units(names: Iterable[str], state: Iterable[str]) -> list[str]:
    """Return the outermost modules that hold none but these tensors; `state` names all tensors of the network."""
    names = tuple(names)
    shared = {module for name in set(state) - set(names) for module in modules_around(name)}
    outermost = (next((module for module in modules_around(name) if module not in shared), "") for name in names)
    return list(dict.fromkeys(filter(None, outermost)))


def cut_at(backbone: nn.Module, cut: str) -> tuple[nn.Module, int]:
    """Return the backbone truncated after the block `cut`, and the width of its pooled output.

    The result maps float32 [n, 3, h, w] to [n, width]: the mean over space of a map, or the mean over tokens of a
    sequence (the class token of a ViT knows little before the last block). It shares the tensors that it keeps, under
    their names; later blocks are removed. "" and the last block give the whole backbone unchanged.
    Raises RequestError for an unknown block.
    """
    network = backbone if _is_whole(backbone, cut) else _truncated(backbone, [cut], lambda outputs: outputs[cut])
    return network, _output_of(network, _traits(backbone).side).shape[1]


def features_at(backbone: nn.Module, cuts: Sequence[str]) -> nn.Module:
    """Return a module of one forward pass: float32 [n, 3, h, w] -> {cut: [n, width]}, pooled as `cut_at` does."""
    return _truncated(backbone, cuts, lambda outputs: outputs)


def _is_whole(backbone: nn.Module, cut: str) -> bool:
    names = list(blocks(backbone))
    if cut and cut not in names:
        raise RequestError(f"the backbone has no block {cut!r}; its blocks are {', '.join(names)}")
    return cut in ("", names[-1])


def _output_of(network: nn.Module, side: int) -> torch.Tensor:
    """Return the output for two square pictures on the meta device: shapes only, nothing is computed."""
    tensors = (*network.named_parameters(), *network.named_buffers())  # those too that no file holds
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    network.eval()
    images = torch.empty(2, 3, side, side, device="meta")
    output: torch.Tensor = functional_call(network, meta, (images,))
    return output.flatten(1)


class Tracer(fx.Tracer):
    """Traces a network as a function of its pictures; options of its `forward` (an attention mask) stay as they are."""

    def __init__(self) -> None:
        # a cut network ends in `pooled`, and is traced again when it is halved
        super().__init__(autowrap_functions=(pooled, *timm_networks.untraceable()))

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """Return the network's function and its arguments: itself and the pictures."""
        function, arguments = super().create_args_for_root(*args, **kwargs)
        for option in arguments[2:]:
            self.graph.erase_node(option.node)
        return function, arguments[:2]


class _Chain(Tracer):
    """Traces a backbone as a chain of its blocks; a block's inside is not traced."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return not any(name.startswith(f"{module_qualified_name}.") for name in self.names)


def _truncated(backbone: nn.Module, cuts: Sequence[str], output: Any) -> fx.GraphModule:
    names = list(blocks(backbone))
    graph = _Chain(names).trace(backbone.eval())
    end = graph.output_node()
    called = {node.target: node for node in graph.nodes if node.op == "call_module"}
    outputs = {}
    for cut in cuts:
        if _is_whole(backbone, cut):
            value: Any = end.args[0]
        else:
            value = _still_spread(called[names[names.index(cut) + 1]].args[0], backbone)
        with graph.inserting_after(value):
            outputs[cut] = graph.call_function(pooled, (value, _traits(backbone).channels_last))
    end.args = (output(outputs),)
    return _pruned(backbone, graph)


def _halved(backbone: nn.Module, names: tuple[str, ...], second: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the part before the block `second` and the part from it on; they share tensors."""
    parts = []
    for keep_first in (True, False):
        graph = _Chain(names).trace(backbone.eval())
        boundary = next(node for node in graph.nodes if node.op == "call_module" and node.target == second).args[0]
        if keep_first:
            graph.output_node().args = (boundary,)
        else:
            images = next(iter(graph.nodes))
            with graph.inserting_after(images):
                entry = graph.placeholder("boundary")
            boundary.replace_all_uses_with(entry)
            _prune(graph)
            graph.erase_node(images)
        parts.append(_pruned(backbone, graph))
    return parts[0], parts[1]


def _pruned(backbone: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    _prune(graph)
    network = fx.GraphModule(backbone, graph)
    network.meta[TRAITS] = _traits(backbone)  # of all attributes, `meta` survives a copy
    return network


@dataclass(frozen=True)
class _Traits:
    """Properties of a network's class, kept because a cut network no longer has that class."""

    channels_last: bool  # of the maps
    side: int  # of square pictures that it takes, in pixels
    division: Division | None  # into blocks, where the network's class knows it (timm's)


def _traits(backbone: nn.Module) -> _Traits:
    if isinstance(backbone, fx.GraphModule):
        traits: _Traits = backbone.meta[TRAITS]
        return traits
    if timm_networks.is_grouped(backbone):
        layout = timm_networks.has_channels_last(backbone)
        return _Traits(layout, timm_networks.side_of(backbone), timm_networks.division(backbone))
    side = backbone.image_size if isinstance(backbone, models.VisionTransformer) else 224
    return _Traits(isinstance(backbone, models.SwinTransformer), side, None)


def _prune(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)


def _still_spread(value: Any, backbone: nn.Module) -> Any:
    """Skip back over layers that only prepare a map for a linear one (AlexNet, VGG): the map itself is pooled."""
    while value.target is torch.flatten or (
        value.op == "call_module" and isinstance(backbone.get_submodule(value.target), nn.Dropout)
    ):
        value = value.args[0]
    return value


def pooled(values: torch.Tensor, channels_last: bool = False) -> torch.Tensor:
    """Average a map [n, c, h, w] (or [n, h, w, c]) over space, tokens [n, t, c] over t; leave [n, c] as it is."""
    if values.dim() == 4:
        return values.mean(dim=(1, 2) if channels_last else (2, 3))
    return values.mean(dim=1) if values.dim() == 3 else values.flatten(1)


def _block_name(tensor_name: str) -> str:
    parts = tensor_name.split(".")
    depth = 0
    while depth < len(parts) - 1 and parts[depth] in CONTAINERS:
        depth += 1
    return ".".join(parts[: depth + 1])


def _is_norm(backbone: nn.Module, name: str) -> bool:
    parent, _, child = name.rpartition(".")
    return isinstance(getattr(backbone.get_submodule(parent), child, None), NORMS)


class Grafted(nn.Module):
    """A backbone with a head grafted on; the blocks named `trainable` learn, everything before is frozen.

    Frozen means that no parameter takes a gradient and that its modules stay in evaluation mode through every
    `.train()`, so BatchNorm statistics and dropout stand still (pytorch/pytorch#86590). What BatchNorm does in the
    trainable blocks is `bn_policy`: "frozen" keeps the source's statistics (with few images a batch is a poor estimate
    of them), "adapt" re-estimates them once and then keeps them, "train" lets every batch move them. Dropout of the
    classifier that was cut off (VGG, EfficientNet) went with it: it stays off.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, trainable: Iterable[str] = (), bn_policy: str = "frozen"
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.bn_policy = backbone, head, bn_policy
        self.blocks = blocks(backbone)
        chosen = set(trainable)
        self.trainable = tuple(block for block in self.blocks if block in chosen)
        self.activate(self.trainable)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32 [n, 3, h, w] to logits [n, classes]."""
        return self.head(self.features(images))  # type: ignore[no-any-return]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32 [n, 3, h, w] to what the head sees, [n, width]."""
        return self.backbone(images).flatten(1)  # type: ignore[no-any-return]

    def activate(self, active: Iterable[str]) -> None:
        """Make the head and these trainable blocks learn from now on; the others stay frozen."""
        learns = self._tensors(active)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in learns)
        owners = {name.rpartition(".")[0] for name in learns}
        inside = tuple(f"{block}." for block in active)
        self._learning = [
            module
            for name, module in self.backbone.named_modules()
            if name and (f"{name}.".startswith(inside) or name in owners)
            if self.bn_policy == "train" or not isinstance(module, BATCH_NORMS)
        ]
        self.train(self.training)

    def train(self, mode: bool = True) -> "Grafted":
        """Set the mode of the head and of the active blocks; the frozen part stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        for module in self._learning:
            module.training = mode
        return self

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Return the frozen part up to the first trainable block, and the rest, from there to logits.

        They share their tensors with this network; applied one after the other, they compute the same.
        """
        flat = nn.Flatten(1)
        if not self.trainable:
            return nn.Sequential(self.backbone, flat), self.head
        if self.trainable[0] == next(iter(self.blocks)):
            return nn.Identity(), self
        first, rest = _halved(self.backbone, tuple(self.blocks), self.trainable[0])
        return first, nn.Sequential(rest, flat, self.head)

    def frozen_state(self) -> dict[str, torch.Tensor]:
        """Return the backbone's tensors (parameters and buffers) that must not change, by name."""
        moving = self._tensors(self.trainable)
        return {name: tensor for name, tensor in self.backbone.state_dict().items() if name not in moving}

    def moving_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that training may change, by name: the head's and those of trainable blocks."""
        frozen = {f"backbone.{name}" for name in self.frozen_state()}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}

    def batch_norms(self) -> list[nn.Module]:
        """Return the BatchNorms of the trainable blocks."""
        owners = {name.rpartition(".")[0] for block in self.trainable for name in self.blocks[block]}
        return [m for name, m in self.backbone.named_modules() if name in owners and isinstance(m, BATCH_NORMS)]

    def norms_follow(self, *policies: str) -> bool:
        """Return whether any BatchNorm computes statistics of training images under one of these policies."""
        return self.bn_policy in policies and bool(self.batch_norms())

    def _tensors(self, chosen: Iterable[str]) -> set[str]:
        """Return the tensors of these blocks that may change: parameters, and statistics if the policy changes them."""
        parameters = {name for name, _ in self.backbone.named_parameters()}
        adapts = self.bn_policy != "frozen"
        return {
            name
            for block in chosen
            for name in self.blocks[block]
            if name in parameters
            or (adapts and isinstance(self.backbone.get_submodule(name.rpartition(".")[0]), BATCH_NORMS))
        }


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of the tensors, in sorted order of names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()


def learnable(backbone: nn.Module) -> list[str]:
    """Return the names of the blocks that hold parameters, input side first."""
    parameters = {name for name, _ in backbone.named_parameters()}
    return [block for block, names in blocks(backbone).items() if parameters & set(names)]


def last_blocks(backbone: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names of the `count` blocks nearest the output that hold parameters; fewer if there are fewer."""
    names = learnable(backbone)
    return tuple(names[max(0, len(names) - count) :])
