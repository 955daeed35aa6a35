"""What `use` says about a backbone's weights: how their file was read, and where their preprocessing comes from."""

from collections.abc import Iterator

from steps.backbones.models import Card, Reading
from steps.commands import published

SHOWN = 6  # names in a list


def sentences(card: Card) -> Iterator[str]:
    """Yield a line for each thing that was done to the weights, and one about the preprocessing; none for our own."""
    if card.reading:
        yield from _tensors(card.reading)
        yield from _top(card)
        yield from _preprocessing(card, card.reading)


def _tensors(reading: Reading) -> Iterator[str]:
    if reading.part:
        yield f"read from the part {reading.part!r} of the file"
    if reading.other_parts:
        yield f"{_listed(reading.other_parts)} would fit, too: --weights-part {reading.other_parts[0]} uses that"
    if reading.renamed:
        yield f"{reading.renamed} tensors were renamed to torchvision's names"
    if reading.counters:
        yield f"{reading.counters} batch counters of BatchNorm are missing or no whole numbers and were set to 0"
    if reading.cast:
        yield f"{_listed(reading.cast)} became float32"
    if reading.ignored:
        yield f"not used: {_listed(reading.ignored)}"


def _top(card: Card) -> Iterator[str]:
    if card.cut is not None:
        after = f", ending after {card.cut}" if card.cut else ""
        yield f"the file's top is missing or not torchvision's: the backbone is used without one{after}"
    elif card.num_classes != 1000:
        yield f"its own top, for {card.num_classes} classes, is cut off"


def _preprocessing(card: Card, reading: Reading) -> Iterator[str]:
    of = card.notes["preprocessing_of"]
    if reading.preprocessing != "assumed":
        yield f"preprocessing of {of} ({reading.preprocessing})"
        return
    others = published.differences(card.architecture, card.preprocessing)
    if not others:
        yield f"preprocessing assumed to be that of {of}; --preprocessing FILE states another"
        return
    listed = "; ".join(f"{name}: {fields}" for name, fields in others.items())
    yield (
        f"preprocessing assumed to be that of {of}; others differ ({listed}): "
        f"--preprocessing {next(iter(others))} chooses"
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
