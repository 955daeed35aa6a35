"""timm's networks (pytorch-image-models, an optional extra): how they are named, built, cut off and grouped.

Named `timm:NAME`. Nothing here imports timm before such a name is met.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

from torch import nn

from steps.errors import RequestError

Division = Mapping[str, tuple[str, ...]]  # block -> the names of its tensors
PREFIX = "timm:"
INSTALL = "pip install --editable '.[timm]'"  # the extra of pyproject.toml, in the folder of the project


def is_timm(architecture: str) -> bool:
    """Return whether a name is one of timm's networks."""
    return architecture.startswith(PREFIX)


def requirements(architecture: str) -> tuple[str, ...]:
    """Return the packages that a network needs besides torch and torchvision."""
    return ("timm",) if is_timm(architecture) else ()


def library() -> Any:
    """Return the module `timm`; RequestError if it is not installed."""
    if find_spec("timm") is None:
        raise RequestError(f"backbones named timm:NAME need timm, which is not installed: `{INSTALL}`")
    import timm

    return timm


def build(architecture: str, num_classes: int, side: int) -> nn.Module:
    """Return a network, randomly initialised, for square pictures of `side` pixels, which some are made for.

    Raises RequestError for an unknown name.
    """
    timm, name = library(), architecture.removeprefix(PREFIX)
    if not timm.is_model(name):
        raise RequestError(f"{architecture!r} is not a backbone that regraft knows")
    network: nn.Module = timm.create_model(
        name, num_classes=num_classes, pretrained_cfg_overlay={"input_size": (3, side, side)}
    )
    return network


def is_grouped(network: nn.Module) -> bool:
    """Return whether a network is one of timm's, which know their own groups of layers."""
    return hasattr(network, "group_matcher")


def without_top(network: Any) -> tuple[nn.Module, int]:
    """Cut the classifier off, in place, as `timm.create_model(NAME, num_classes=0)` does; return network and width."""
    network.reset_classifier(0)
    return network, int(network.head_hidden_size)


def top_of(network: Any) -> str:
    """Return the name of the classifier; RequestError if there are several."""
    classifier = network.get_classifier()
    names: list[str] = [name for name, module in network.named_modules() if module is classifier]
    if not names:
        raise RequestError(f"{type(network).__name__} of timm has no single classifier that could be cut off")
    return names[0]


def side_of(network: Any) -> int:
    """Return the side of square pictures that a network takes, in pixels."""
    return int(network.pretrained_cfg["input_size"][-1])


def has_channels_last(network: nn.Module) -> bool:
    """Return whether the maps of a network are [n, h, w, c]."""
    return str(getattr(network, "output_fmt", "")) in ("NHWC", "Format.NHWC")


def untraceable() -> Iterable[Callable[..., Any]]:
    """Return the functions of timm's that look at sizes, so that tracing has to take each of them as a whole."""
    layers: Any = sys.modules.get("timm.layers")  # no network of timm's exists before it is imported
    return layers.get_notrace_functions() if layers else ()


def division(network: Any) -> Division:
    """Return the blocks by timm's groups of layers (stages; a transformer's blocks), input side first.

    A block is named after the first of its modules. Parameters that are a group by themselves join the block before.
    """
    from timm.models._manipulate import group_with_matcher

    state = network.state_dict()
    groups = group_with_matcher([(name, name) for name in state], network.group_matcher(coarse=True))
    owners: dict[str, set[int]] = {}  # module -> the groups that have tensors in it
    for number, names in groups.items():
        for module in (module for name in names for module in modules_around(name)):
            owners.setdefault(module, set()).add(number)
    blocks: dict[str, list[str]] = {}
    for number, names in sorted(groups.items()):
        own = (module for name in names for module in modules_around(name) if owners[module] == {number})
        blocks.setdefault(next(own, next(reversed(blocks), "")), []).extend(names)
    return {block: tuple(names) for block, names in _with_modules(blocks).items()}


def _with_modules(blocks: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the blocks with the parameters before the first module in its block."""
    homeless = blocks.pop("", [])
    first = next(iter(blocks))
    return {**blocks, first: [*homeless, *blocks[first]]}


def modules_around(name: str) -> list[str]:
    """Return the modules that hold a tensor, the outermost first."""
    return list(accumulate(name.split(".")[:-1], lambda outer, inner: f"{outer}.{inner}"))
