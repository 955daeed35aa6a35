"""timm's own weights: which there are of an architecture, where they are published, and the preprocessing they take.

The source is timm's `pretrained_cfg`, one for each tag: `resnet18.a1_in1k` is the tag `a1_in1k` of `resnet18`.
"""

import difflib
import logging
import math
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from torch import nn

from steps.backbones.backbone import Grafted, blocks, skeleton, top_of, without_top
from steps.backbones.timm_networks import PREFIX, library
from steps.errors import RequestError
from steps.images.preprocessing import Preprocessing

log = logging.getLogger("regraft")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
FILE = "model.safetensors"  # in a repository of Hugging Face's
UNTAGGED = "untagged"
SHOWN = 8  # tags in a list


class Tag(Enum):
    """Weights of an architecture, as torchvision's enumerations list theirs; `DEFAULT` is another name of timm's own.

    A value is a `timm.models.PretrainedCfg`.
    """

    def __str__(self) -> str:
        cfg: Any = self.value
        return f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)

    @property
    def repository(self) -> str:
        """Return the repository of Hugging Face's that holds the weights; empty if there is none."""
        return str(self.value.hf_hub_id or "")

    @property
    def url(self) -> str:
        """Return the address of the weights; empty if timm publishes none."""
        if not self.repository:
            return str(self.value.url or "")
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"{endpoint}/{self.repository}/resolve/main/{FILE}"

    @property
    def file(self) -> str:
        """Return the name that a download gets; that of a repository's file is the same for all weights."""
        return f"{self}.safetensors" if self.repository else self.url.rpartition("/")[2]

    def names(self, file: Path) -> bool:
        """Return whether a file, or a folder that it is in, has the name of these weights."""
        return str(self) in (file.stem, *(part.rpartition("--")[2] for part in file.parts))

    @property
    def licence(self) -> str:
        """Return the licence of the weights as timm states it."""
        return str(self.value.license or "not stated by timm")

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing of evaluation, with the centred square cut out.

        Raises RequestError if the weights take no square RGB pictures.
        """
        cfg: Any = self.value
        channels, height, width = cfg.input_size
        if channels != 3 or height != width or cfg.interpolation not in INTERPOLATIONS:
            raise RequestError(
                f"{self} of timm takes pictures of {height}x{width} pixels, {channels} channels, {cfg.interpolation}; "
                f"regraft makes squares of 3 channels, {', '.join(INTERPOLATIONS)}"
            )
        return Preprocessing(
            resize=max(width, math.floor(width / cfg.crop_pct)),
            crop=width,
            interpolation=cfg.interpolation,
            antialias=True,
            colour_order="RGB",
            value_range=(0.0, 1.0),
            mean=tuple(map(float, cfg.mean)),
            std=tuple(map(float, cfg.std)),
        )


def entries(name: str) -> Any:
    """Return timm's weights of an architecture `timm:NAME`, its default first; RequestError if there is no such name.

    The name of a member is the tag.
    """
    cfgs = library().models.get_arch_pretrained_cfgs(name.removeprefix(PREFIX))
    members = {full.partition(".")[2] or UNTAGGED: cfg for full, cfg in cfgs.items()}
    enumeration: Any = Tag  # mypy takes a call of an enumeration for a look-up
    return enumeration("Tag", {**members, "DEFAULT": next(iter(members.values()))})


def notes(entry: object) -> dict[str, str]:
    """Return what a card says besides about weights of timm's; nothing for others."""
    if not isinstance(entry, Tag):
        return {}
    return {"timm": library().__version__, "crop_mode": str(entry.value.crop_mode)}


def split(name: str) -> tuple[str, str]:
    """Return the architecture and the tag (empty: none) of `timm:NAME` or `timm:NAME.TAG`.

    Raises RequestError with the nearest spelling if timm lists no such name, or with the tags that there are.
    """
    architecture, _, tag = name.partition(".")
    known = library().list_models()
    if architecture.removeprefix(PREFIX) not in known:
        close = difflib.get_close_matches(architecture.removeprefix(PREFIX), known, n=1)
        hint = f"; did you mean {PREFIX + close[0]!r}?" if close else ""
        raise RequestError(f"no backbone {name!r}{hint} (timm.list_models() has them all)")
    tags = list(entries(architecture).__members__)
    if tag and tag not in tags:
        listed = ", ".join(tags[:SHOWN]) + (" ..." if len(tags) > SHOWN else "")
        raise RequestError(f"timm has no weights {tag!r} of {architecture}; it has {listed}")
    return architecture, tag


def refuse_indivisible(architecture: str, side: int) -> None:
    """Raise RequestError if a network has several tops, or cannot be halved before each of its blocks."""
    try:
        network = skeleton(architecture, 1000, side)
        top_of(network)
        body = without_top(network)[0]
        names = list(blocks(body))
        divisible = all(_ends_before(body, names[i:]) for i in range(1, len(names)))
    except RequestError:
        raise
    except Exception as error:  # whatever the code of a network raises if it is built or traced
        log.debug("%s", error)
        divisible = False
    if not divisible:
        raise RequestError(
            f"{architecture} cannot be used: its features cannot be cut into blocks that follow one another, each "
            "computed from the output of the one before it alone"
        )


def _ends_before(body: nn.Module, later: Sequence[str]) -> bool:
    """Return whether a network can be halved before its last blocks; the first half then needs none of their tensors.

    The halves exist only if one value is all that the second needs of the first.
    """
    first, _ = Grafted(body, nn.Identity(), later).halves()
    needed = {name.removeprefix("0.") for name in first.state_dict()}
    division = blocks(body)
    return needed.isdisjoint(name for block in later for name in division[block])
