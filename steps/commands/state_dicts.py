"""A checkpoint's tensors under the names of torchvision's network: found, renamed, checked, and cast to float32.

Only what regraft uses is asked for: the layers below the top. The names may share a prefix (a nesting, `module.`,
`encoder.`), may be those of torchvision's older releases, or count layers as `nn.Sequential` does.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torchvision import models
from torchvision.models import densenet

from steps.backbones.backbone import CONTAINERS, blocks, skeleton, top_of, without_top
from steps.commands.weight_files import Tensors
from steps.errors import RequestError

COUNTER = "num_batches_tracked"
PROFILED = ("total_ops", "total_params")  # that profilers add to every layer
COPIES = ("ema", "swa", "average", "shadow", "teacher", "momentum", "target", "key", "_k")  # parts beside the plain one
NEAR, TRIED = 0.2, 4  # architectures whose size differs by at most this share may be meant; how many are tried


class MisfitError(RequestError):
    """The tensors are not those of the architecture; `inside` holds those of the part that came nearest."""

    def __init__(self, message: str, inside: Tensors) -> None:
        super().__init__(message)
        self.inside = inside


@dataclass(frozen=True)
class Fitted:
    """The weights of a network, and what was done to read them (as in `models.Reading`)."""

    state: Tensors
    classes: int  # of the file's top, 1000 if it has none
    cut: str | None  # as in `Card.cut`
    part: str
    other_parts: tuple[str, ...]
    renamed: int
    counters: int
    cast: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class _View:
    """The tensors of one part of a file, under the names of the network as far as they are known."""

    part: str
    other_parts: tuple[str, ...]
    inside: Tensors
    outside: tuple[str, ...]


def fitted(architecture: str, side: int, tensors: Mapping[str, torch.Tensor], part: str | None) -> Fitted:
    """Return the weights of an architecture of torchvision's for square pictures of `side` pixels.

    `part` names the nesting or prefix to use where several hold the network. Raises MisfitError if tensors of the
    layers below the top are missing, of another shape, or more than the architecture has.
    """
    network = skeleton(architecture, 1000, side)
    view = _view(architecture, network, _today(architecture, tensors), part)
    classes = _classes(view.inside.get(f"{top_of(network)}.weight"))
    network = skeleton(architecture, classes, side) if classes != 1000 else network
    shapes = dict(network.state_dict())
    state = _upgraded(network, view.inside)
    kept, cut = _kept(architecture, network, shapes, state, view)
    return Fitted(
        state={name: _as(shapes[name], state[name]) for name in kept},
        classes=classes,
        cut=cut,
        part=view.part,
        other_parts=view.other_parts,
        renamed=_renamed(tensors, view, kept),
        counters=len([name for name in kept if name.endswith(COUNTER) and state[name] is not view.inside.get(name)]),
        cast=_cast(state[name] for name in kept),
        ignored=_groups(view, kept, state),
    )


def _today(architecture: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return the tensors under today's names: DenseNet's published files hold older ones.

    torchvision keeps the rule in the function that loads a download; here it gets the tensors instead.
    """
    if not architecture.startswith("densenet"):
        return dict(tensors)
    renaming = _Renaming(tensors)
    densenet._load_state_dict(model=renaming, weights=renaming, progress=False)
    return renaming.tensors


class _Renaming:
    """Takes the parts of a download and of a network in torchvision's function; keeps the renamed tensors."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)

    def get_state_dict(self, **_: object) -> Tensors:
        return self.tensors

    def load_state_dict(self, renamed: Tensors) -> None:
        self.tensors = renamed


def _view(architecture: str, network: nn.Module, tensors: Tensors, part: str | None) -> _View:
    """Return the part of the tensors that holds most of the network below its top, in the spelling that fits best."""
    top = top_of(network)
    wanted = [name for name in network.state_dict() if not name.startswith(f"{top}.") and not name.endswith(COUNTER)]
    counted = [(spelling, _parts(spelling.values_of(wanted), tensors, part)) for spelling in _spellings(network)]
    spelling, parts = max(counted, key=lambda pair: max(pair[1].values(), default=0))
    most = max(parts.values(), default=0)
    if most < len(wanted) / 2:
        asked = f" under {part!r}" if part else ""
        raise MisfitError(
            f"the weights do not fit {architecture}: the file has {most} of its {len(wanted)} tensors{asked} "
            f"(first in the file: {next(iter(tensors))})",
            tensors,
        )
    best, *others = sorted((name for name in parts if parts[name] == most), key=_plainness)
    prefix = f"{best}." if best else ""
    return _View(
        part=best,
        other_parts=tuple(others),
        inside={spelling.real(name.removeprefix(prefix)): t for name, t in tensors.items() if name.startswith(prefix)},
        outside=tuple(name for name in tensors if not name.startswith(prefix)),
    )


def _plainness(part: str) -> tuple[bool, int, str]:
    return any(word in part.lower() for word in COPIES), len(part), part


def _parts(wanted: Iterable[str], names: Iterable[str], part: str | None) -> Counter[str]:
    """Return how many of the wanted names the file holds behind each prefix."""
    known, counts = set(wanted), Counter[str]()
    for name in names:
        words = name.split(".")
        for i in range(len(words)):
            prefix = ".".join(words[:i])
            if ".".join(words[i:]) in known and (part is None or f".{part}." in f".{prefix}."):
                counts[prefix] += 1
    return counts


@dataclass(frozen=True)
class _Spelling:
    """Another way to name the layers: without their container, or by their number in it."""

    container: str = ""
    children: tuple[str, ...] = ()

    def values_of(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the names, spelt this way; those that have no such spelling are left out."""
        for name in names:
            first, _, rest = name.partition(".")
            if self.children:
                yield f"{self.children.index(first)}.{rest}" if first in self.children else name
            elif not self.container or first == self.container:
                yield rest if self.container else name

    def real(self, name: str) -> str:
        """Return the network's name for a name that is spelt this way."""
        first, _, rest = name.partition(".")
        if self.children and first.isdigit() and int(first) < len(self.children):
            return f"{self.children[int(first)]}.{rest}"
        return f"{self.container}.{name}" if self.container else name


def _spellings(network: nn.Module) -> Iterator[_Spelling]:
    children = tuple(name for name, _ in network.named_children())
    yield _Spelling()
    yield _Spelling(children=children)
    yield from (_Spelling(container=name) for name in children if name in CONTAINERS)


def _classes(weight: torch.Tensor | None) -> int:
    return len(weight) if weight is not None and weight.dim() and len(weight) else 1000


def _upgraded(network: nn.Module, inside: Tensors) -> Tensors:
    """Return the tensors as each layer of torch and torchvision reads those of its own older releases.

    BatchNorm adds its counter of batches, ViT renames its linear layers.
    """
    state = {name: tensor for name, tensor in inside.items() if _is_plain(name, tensor)}
    for name, module in network.named_modules():
        module._load_from_state_dict(
            state, f"{name}." if name else "", {"assign_to_params_buffers": True}, False, [], [], []
        )
    return state


def _is_plain(name: str, tensor: torch.Tensor) -> bool:
    """Return whether a tensor is no counter of batches, or one that counts: cast to float16 it may be infinite."""
    return not name.endswith(COUNTER) or not (tensor.is_floating_point() or tensor.dim())


def _kept(
    architecture: str, network: nn.Module, shapes: Tensors, state: Tensors, view: _View
) -> tuple[list[str], str | None]:
    """Return the names of the tensors to keep, and the cut; MisfitError if the layers below the top do not fit."""
    faulty = {name for name in shapes if not _fits(state.get(name), shapes[name])}
    root = top_of(network).partition(".")[0]
    body = without_top(network)[0]
    used = list(body.state_dict())
    layers = {name.partition(".")[0] for name in used} - {root}
    foreign = [
        name
        for name in state
        if name not in shapes and name.partition(".")[0] in layers and name.rpartition(".")[2] not in PROFILED
    ]
    wrong = [name for name in used if name in faulty]
    cut = _cut_before(body, wrong, root)
    if foreign or (wrong and not cut):
        raise MisfitError(_misfit(architecture, used, wrong, foreign, state, view), view.inside)
    if not faulty:
        return list(shapes), None
    ends = list(blocks(body))
    last = ends[: ends.index(cut) + 1] if cut else ends
    names = {name for block in last for name in blocks(body)[block]}
    return [name for name in used if name in names], cut


def _fits(tensor: torch.Tensor | None, wanted: torch.Tensor) -> bool:
    return (
        tensor is not None and tensor.shape == wanted.shape and tensor.is_floating_point() == wanted.is_floating_point()
    )


def _cut_before(body: nn.Module, wrong: list[str], root: str) -> str:
    """Return the last block before layers of the classifier that the file lacks (VGG has some below its top)."""
    by_block = blocks(body)
    lacking = [block for block, names in by_block.items() if set(names) & set(wrong)]
    if not lacking or not all(block.startswith(f"{root}.") for block in lacking):
        return ""
    names = list(by_block)
    return names[names.index(lacking[0]) - 1]


def _misfit(
    architecture: str, used: list[str], wrong: list[str], foreign: list[str], state: Tensors, view: _View
) -> str:
    missing = [name for name in wrong if name not in state]
    reshaped = [name for name in wrong if name in state]
    facts = [
        f"{len(missing)} of {len(used)} tensors missing (first: {missing[0]})" if missing else "",
        f"{len(reshaped)} of another shape or type (first: {reshaped[0]})" if reshaped else "",
        f"{len(foreign)} of layers that it does not have (first: {foreign[0]})" if foreign else "",
        f"names read under {view.part!r}" if view.part else "",
    ]
    return f"the weights do not fit {architecture}: {', '.join(fact for fact in facts if fact)}"


def _as(wanted: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of the wanted type: what is read from a file may be a view into a buffer that all tensors share."""
    return tensor.to(wanted.dtype, copy=True)


def _cast(tensors: Iterable[torch.Tensor]) -> tuple[str, ...]:
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} - {torch.float32}
    return tuple(sorted(str(dtype).removeprefix("torch.") for dtype in types))


def _renamed(tensors: Mapping[str, torch.Tensor], view: _View, kept: list[str]) -> int:
    prefix = f"{view.part}." if view.part else ""
    return len([name for name in kept if f"{prefix}{name}" not in tensors and not name.endswith(COUNTER)])


def _groups(view: _View, kept: list[str], state: Tensors) -> tuple[str, ...]:
    """Return the first words of the names that are not used, without other parts that hold the same network."""
    used = set(kept)
    inside = {name.partition(".")[0] for name in state if name not in used}
    others = tuple(f"{part}." for part in view.other_parts)
    outside = {name.partition(".")[0] for name in view.outside if not name.startswith(others)}
    return tuple(sorted(inside | outside))


def others_that_fit(misfit: MisfitError) -> list[str]:
    """Return the architectures of torchvision's that the refused tensors fit, among those of about their size."""
    parameters = [t for name, t in misfit.inside.items() if not name.endswith(("running_mean", "running_var", COUNTER))]
    size = sum(tensor.numel() for tensor in parameters)
    sizes = {name: next(iter(models.get_model_weights(name))).meta["num_params"] for name in models.list_models(models)}
    near = sorted((abs(known - size), name) for name, known in sizes.items() if abs(known - size) <= NEAR * known)
    return [name for _, name in near[:TRIED] if _is(name, misfit.inside)]


def _is(architecture: str, tensors: Tensors) -> bool:
    try:
        fitted(architecture, 224, tensors, None)
    except MisfitError:
        return False
    return True
