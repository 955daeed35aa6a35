"""What `use` says about a backbone's weights: how their file was read, and where their preprocessing comes from."""

from collections.abc import Iterator, Sequence

from steps.backbones import timm_networks
from steps.backbones.models import Card, Reading
from steps.commands import published

SHOWN = 6  # names in a list
CROPS: dict[object, str] = {  # timm's, besides the centred square
    "squash": "squashes a picture to a square",
    "border": "adds a border around a picture that is no square",
}


def sentences(card: Card) -> Iterator[str]:
    """Yield a line for each thing that was done to the weights, and one about the preprocessing; none for our own."""
    if card.reading:
        yield from _tensors(card, card.reading)
        yield from _top(card)
        yield from _preprocessing(card, card.reading)


def _tensors(card: Card, reading: Reading) -> Iterator[str]:
    if reading.part:
        yield f"read from the part {reading.part!r} of the file"
    if reading.other_parts:
        yield f"{_listed(reading.other_parts)} would fit, too: --weights-part {reading.other_parts[0]} uses that"
    if reading.renamed:
        yield f"{reading.renamed} tensors were renamed to {_library(card)}'s names"
    if reading.counters:
        yield f"{reading.counters} batch counters of BatchNorm are missing or no whole numbers and were set to 0"
    if reading.cast:
        yield f"{_listed(reading.cast)} became float32"
    if reading.ignored:
        yield f"not used: {_listed(reading.ignored)}"


def _library(card: Card) -> str:
    return "timm" if timm_networks.is_timm(card.architecture) else "torchvision"


def _top(card: Card) -> Iterator[str]:
    if card.cut is not None:
        after = f", ending after {card.cut}" if card.cut else ""
        yield f"the file's top is missing or not {_library(card)}'s: the backbone is used without one{after}"
    elif card.num_classes != 1000:
        yield f"its own top, for {card.num_classes} classes, is cut off"


def _preprocessing(card: Card, reading: Reading) -> Iterator[str]:
    of = card.notes["preprocessing_of"]
    if (mode := card.notes.get("crop_mode", "center")) in CROPS:
        yield f"timm {CROPS[mode]} for these weights; regraft cuts the centred square out of it"
    if reading.preprocessing != "assumed":
        yield f"preprocessing of {of} ({reading.preprocessing})"
        return
    others = published.differences(card.architecture, card.preprocessing)
    if not others:
        yield f"preprocessing assumed to be that of {of}; --preprocessing FILE states another"
        return
    listed = _listed([f"{name}: {fields}" for name, fields in others.items()], "; ")
    yield (
        f"preprocessing assumed to be that of {of}; others differ ({listed}): "
        f"--preprocessing {next(iter(others))} chooses"
    )


def _listed(names: Sequence[str], between: str = ", ") -> str:
    return between.join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
