"""Models on disk: backbones with their card, heads, and whole grafted networks. safetensors and JSON, no pickle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steps.adapters import files
from steps.core import heads
from steps.core.backbone import Grafted, build, cut_at, without_top
from steps.core.preprocessing import Preprocessing
from steps.errors import IntegrityError

WEIGHTS, CARD, FACTS = "weights.safetensors", "card.json", "model.json"


@dataclass(frozen=True)
class Card:
    """What there is to know of a backbone besides its weights; `sha256` pins those."""

    name: str
    architecture: str
    num_classes: int  # of the original top, which the file still holds
    sha256: str
    source: str
    licence: str
    preprocessing: Preprocessing
    input_statistics: dict[str, list[float]] | None  # per channel, of the source's inputs in [0, 1]
    notes: dict[str, Any]


def read_card(folder: Path) -> Card:
    """Read a backbone's card."""
    raw = files.read_json(folder / CARD)
    return Card(**{**raw, "preprocessing": read_preprocessing_dict(raw["preprocessing"])})


def write_card(folder: Path, card: Card) -> None:
    """Write a backbone's card."""
    files.write_json(folder / CARD, {**vars(card), "preprocessing": card.preprocessing.to_dict()})


def read_preprocessing_dict(raw: dict[str, Any]) -> Preprocessing:
    """Make a Preprocessing of its JSON form."""
    fields: dict[str, Any] = {
        key: tuple(map(float, value)) if isinstance(value, list) else value for key, value in raw.items()
    }
    return Preprocessing(**fields)


def read_preprocessing(path: Path) -> Preprocessing:
    """Read the preprocessing that `validate` accepted."""
    return read_preprocessing_dict(files.read_json(path))


def load_backbone(folder: Path, cut: str = "") -> tuple[Card, nn.Module, int]:
    """Return card, network without its top (evaluation mode, its own copy of the weights) and feature width.

    `cut` names the last block to keep; "" keeps them all. Raises IntegrityError where the weights are not the ones
    that the card pins, RequestError where there is no such block.
    """
    card = read_card(folder)
    found = files.sha256_of(folder / WEIGHTS)
    if found != card.sha256:
        raise IntegrityError(
            f"the weights of {card.name} have digest {found[:12]}, its card pins {card.sha256[:12]}; "
            "set the backbone anew with `regraft use`"
        )
    network = build(card.architecture, card.num_classes, card.preprocessing.crop)
    network.load_state_dict(files.read_tensors(folder / WEIGHTS))
    backbone, width = without_top(network)
    return (card, *cut_at(backbone.eval(), cut)) if cut else (card, backbone.eval(), width)


def load_head(folder: Path, refitted: bool) -> nn.Module:
    """Return the head refitted on train + val, or the one fitted on train alone (from which fine-tuning starts)."""
    return heads.rebuild(_under("refitted." if refitted else "train_only.", files.read_tensors(folder / WEIGHTS)))


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_head_model(backbone: Path, head: Path) -> Grafted:
    """Return the frozen backbone, cut where the head was trained, with the refitted head on it; evaluation mode."""
    return Grafted(load_backbone(backbone, cut_of(head))[1], load_head(head, refitted=True)).eval()


def cut_of(folder: Path) -> str:
    """Return the block after which the backbone of the model in `folder` is cut; "" is nowhere."""
    return str(files.read_json(folder / FACTS)["cut"])


def load_fine_tuned(backbone: Path, fine_tuned: Path) -> Grafted:
    """Return the fine-tuned network in evaluation mode."""
    card = read_card(backbone)
    state = files.read_tensors(fine_tuned / WEIGHTS)
    return rebuild(card.architecture, card.num_classes, card.preprocessing.crop, state, cut_of(fine_tuned))


def rebuild(architecture: str, num_classes: int, side: int, state: dict[str, torch.Tensor], cut: str) -> Grafted:
    """Rebuild a grafted network for pictures of `side` pixels, cut after the block `cut`, in evaluation mode.

    `state` is the whole of it: `backbone.*`, `head.*`.
    """
    backbone, _ = without_top(build(architecture, num_classes, side))
    model = Grafted(cut_at(backbone, cut)[0], heads.rebuild(_under("head.", state)))
    model.load_state_dict(state)
    return model.eval()
