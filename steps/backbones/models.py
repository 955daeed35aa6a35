"""Models on disk: backbones with their card, heads, and whole grafted networks. safetensors and JSON, no pickle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from steps.backbones import heads
from steps.backbones.backbone import Grafted, blocks, build, cut_at, without_top
from steps.errors import IntegrityError
from steps.images.preprocessing import Preprocessing
from steps.runtime import artefacts, files

WEIGHTS, CARD, FACTS = "weights.safetensors", "card.json", "model.json"

Basis = Literal["published", "recognised", "chosen", "assumed"]  # of the preprocessing: how it is known


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file of weights was read: what was done to its tensors, and where its preprocessing comes from."""

    part: str  # the names of the tensors that were used began with it, and lost it
    other_parts: tuple[str, ...]  # that hold the same network
    renamed: int  # tensors that got today's names of torchvision
    counters: int  # of batches, which BatchNorm keeps, that are missing or no whole numbers: set to 0
    cast: tuple[str, ...]  # types of numbers that became float32
    ignored: tuple[str, ...]  # groups of tensors that belong to no layer that is used
    preprocessing: Basis


@dataclass(frozen=True)
class Card:
    """The facts about a backbone besides its weights; `sha256` pins those."""

    name: str
    architecture: str
    num_classes: int  # of the original top
    sha256: str
    source: str
    licence: str
    preprocessing: Preprocessing
    input_statistics: dict[str, list[float]] | None  # per channel, of the source's inputs in [0, 1]
    notes: Mapping[str, object]
    cut: str | None = None  # the file ends after this block ("": the last), without the original top; None: holds all
    reading: Reading | None = field(default=None, metadata=artefacts.OPTIONAL)

    def cut_after(self, cut: str) -> str:
        """Return the block of the architecture after which this backbone, cut at `cut`, ends; "" if it is not cut."""
        return cut or self.cut or ""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """model.json of a registered version: what serving needs besides its tensors, and what it was made of."""

    kind: str
    architecture: str
    num_classes: int  # of the backbone's original top
    backbone: str
    backbone_sha256: str
    backbone_licence: str | None = None  # the materials that a version does not name are left out of its bill
    cut: str
    classes: tuple[str, ...]  # in the order of probabilities
    lineage: str
    code: str | None = None
    data_sha256: str | None = None
    temperature: float
    prior_shift: tuple[float, ...] | None = field(default=None, metadata=artefacts.OPTIONAL)  # added to the logits
    answer_weights: tuple[float, ...] | None = field(default=None, metadata=artefacts.OPTIONAL)  # times probabilities
    abstain_below: float
    preprocessing: Preprocessing
    extras: tuple[str, ...] | None = field(default=None, metadata=artefacts.OPTIONAL)  # packages that only some need

    @property
    def weights(self) -> tuple[float, ...]:
        """Return what each class's probability is multiplied by to find the answer; older versions have ones."""
        return self.answer_weights or (1.0,) * len(self.classes)


def read_card(folder: Path) -> Card:
    """Read a backbone's card."""
    return artefacts.read(Card, folder / CARD, "set the backbone anew with `regraft use`")


def write_card(folder: Path, card: Card) -> None:
    """Write a backbone's card."""
    files.write_json(folder / CARD, card)


def read_facts(folder: Path) -> ModelFacts:
    """Read the facts of a registered version, which may be of another release: unknown keys are ignored."""
    return artefacts.read(ModelFacts, folder / FACTS, "the version needs code of its own release", lenient=True)


def read_preprocessing(path: Path) -> Preprocessing:
    """Read the preprocessing that `validate` accepted."""
    return artefacts.read(Preprocessing, path)


def load_backbone(folder: Path, cut: str = "") -> tuple[Card, nn.Module, int]:
    """Return card, network without its top (evaluation mode, its own copy of the weights) and feature width.

    `cut` names the last block to keep; "" keeps them all. Raises IntegrityError if the weights are not the ones
    that the card pins, RequestError if there is no such block.
    """
    card, state = _pinned(folder)
    return (card, *assemble(card, state, cut))


def load_with_top(folder: Path) -> tuple[Card, nn.Module]:
    """Return card and network as stored, in evaluation mode: with its own top if `card.cut` is None.

    Raises IntegrityError as `load_backbone` does.
    """
    card, state = _pinned(folder)
    network = untrained(card)
    network.load_state_dict(state)
    return card, network.eval()


def _pinned(folder: Path) -> tuple[Card, dict[str, torch.Tensor]]:
    card = read_card(folder)
    digest = files.sha256_of(folder / WEIGHTS)
    if digest != card.sha256:
        raise IntegrityError(
            f"the weights of {card.name} have digest {digest[:12]}, its card pins {card.sha256[:12]}; "
            "set the backbone anew with `regraft use`"
        )
    return card, files.read_tensors(folder / WEIGHTS)


def untrained(card: Card) -> nn.Module:
    """Return the network that the card describes, randomly initialised: the whole, or up to its cut."""
    network = build(card.architecture, card.num_classes, card.preprocessing.crop)
    return network if card.cut is None else cut_at(without_top(network)[0], card.cut)[0]


def assemble(card: Card, state: dict[str, torch.Tensor], cut: str = "") -> tuple[nn.Module, int]:
    """Return the network of these weights without its top, in evaluation mode, and its width; see `load_backbone`."""
    network = untrained(card)
    network.load_state_dict(state)
    return _topless(card, network, cut)


def from_scratch(card: Card, classes: int, seed: int) -> Grafted:
    """Return the backbone's architecture with a linear head, all of it random from `seed` and trainable.

    No weights are read, and torch's global generator is left as it was. BatchNorm makes its own statistics.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, width = _topless(card, untrained(card), "")
        return Grafted(backbone, nn.Linear(width, classes), blocks(backbone), bn_policy="train")


def _topless(card: Card, network: nn.Module, cut: str) -> tuple[nn.Module, int]:
    backbone = without_top(network)[0] if card.cut is None else network
    return cut_at(backbone.eval(), cut)


def load_head(folder: Path, refitted: bool) -> nn.Module:
    """Return the head refitted on train + val, or the one fitted on train alone (from which fine-tuning starts)."""
    return heads.rebuild(under("refitted." if refitted else "train_only.", files.read_tensors(folder / WEIGHTS)))


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `prefix`, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_head_model(backbone: Path, head: Path) -> Grafted:
    """Return the frozen backbone, cut where the head was trained, with the refitted head on it; evaluation mode."""
    return Grafted(load_backbone(backbone, cut_of(head))[1], load_head(head, refitted=True)).eval()


def cut_of(folder: Path) -> str:
    """Return the block after which the backbone of the model in `folder` is cut; "" if it is not."""
    return str(files.read_json(folder / FACTS)["cut"])


def load_fine_tuned(backbone: Path, fine_tuned: Path) -> Grafted:
    """Return the fine-tuned network in evaluation mode."""
    card = read_card(backbone)
    state = files.read_tensors(fine_tuned / WEIGHTS)
    cut = card.cut_after(cut_of(fine_tuned))
    return rebuild(card.architecture, card.num_classes, card.preprocessing.crop, state, cut)


def rebuild(architecture: str, num_classes: int, side: int, state: dict[str, torch.Tensor], cut: str) -> Grafted:
    """Rebuild a grafted network for pictures of `side` pixels, cut after the block `cut`, in evaluation mode.

    `state` holds all its tensors: `backbone.*`, `head.*`.
    """
    backbone, _ = without_top(build(architecture, num_classes, side))
    model = Grafted(cut_at(backbone, cut)[0], heads.rebuild(under("head.", state)))
    model.load_state_dict(state)
    return model.eval()
