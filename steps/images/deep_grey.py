"""Deep grey and 16-bit colour become 8-bit, by the range that the file declares or that its set of images uses.

Cameras of 10, 12 and 14 bits write files that declare 16, so the range does not show in a single picture; one guessed
per picture would give a dark and a bright picture the same values. `ingest` therefore measures it over all of them.
"""

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from steps.images import containers, light

if TYPE_CHECKING:
    import pandas as pd

LARGEST = "largest"  # column of the manifest, if a picture has a measured range: its largest value, 0 for the others
FULL, SIGNED, LEAST = 16, 15, 8  # bits: of a 16-bit file without and with a sign; of the 8-bit grey that is made
SHALLOW = 3  # bits less than the set uses: a picture that has 32 grey levels left
BITS_PER_SAMPLE, PHOTOMETRIC, LARGEST_INTEGER, SMALLEST, LARGEST_SAMPLE = 258, 262, 281, 340, 341
WHITE_IS_ZERO = 0
GREY_ALPHA, ALPHA = "LA;16B", 3
# Pillow's modes of unpacking 16-bit colour -> the mode that unpacks the other byte of each value.
SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
OTHER_BYTE = {f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for order, other in SWAPPED.items()}
OTHER_BYTE[GREY_ALPHA] = "RGBA"  # its four bytes per pixel as they are


def least_bits(image: ImageFile.ImageFile, data: bytes) -> int | None:
    """Return the depth that a file, opened but not loaded, declares for values in 16 bits; 8 if it declares none.

    None if Pillow spreads the values over 16 bits by the declared depth (PGM, JPEG 2000): nothing is left to measure.
    """
    if image.format == "PPM":
        arguments = image.tile[0].args
        return LEAST if not isinstance(arguments, tuple) or arguments[-1] == 2**FULL - 1 else None
    if image.format == "JPEG2000":
        return LEAST if containers.jpeg2000_bits(data) >= FULL else None
    return max(LEAST, containers.significant_bits(data))


def to_grey(image: Image.Image, least: int | None, used: int | None) -> tuple[Image.Image, int]:
    """Return a deep grey picture as 8-bit grey, and the largest value that its set has to hold for it.

    That is 0 if the file declares a range itself (see `light.declared_scale`), or has values outside of 16 bits.
    `least` comes from `least_bits`. `used` is the depth of the set, None for the full depth; larger values are clipped.
    """
    key = image.info.get("transparency")  # PNG: the one grey level that is transparent
    values, is_key = np.asarray(image), isinstance(key, int)
    tags: dict[int, Any] = dict(image.tag_v2) if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    (low, high), is_measurable = _range(image.mode, values, tags)
    largest = 0
    if is_measurable and least is not None:
        counted = np.where(values == key, 0, values) if is_key else values
        largest = max(int(light.extremes(counted)[1]), 2**least - 1)
        high = min(high, 2.0 ** (used or FULL) - 1)
    ends = (high, low) if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else (low, high)
    grey = light.to_bytes(values, *ends)
    return Image.fromarray(np.where(values == key, np.uint8(light.MATTE), grey) if is_key else grey), largest


def low_bytes(image: ImageFile.ImageFile, data: bytes) -> light.Array | None:
    """Decode the lower bytes of 16-bit colour, uint8 [h, w, channels], of which Pillow keeps the higher alone.

    None for a file, opened but not loaded, that is something else. The second decoding unpacks the other byte.
    """
    modes = {tile.args[0] if isinstance(tile.args, tuple) else tile.args for tile in image.tile}
    if "transparency" in image.info or not modes or not modes <= OTHER_BYTE.keys():
        return None
    with Image.open(containers.Stream(data), formats=[str(image.format)]) as again:
        tiles = again.tile
        for index, tile in enumerate(tiles):
            mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            other = OTHER_BYTE[mode]
            tiles[index] = tile._replace(args=(other, *rest) if rest else other)
        pixels = np.asarray(again)
    return pixels[..., [1, 1, 1, 3]] if modes == {GREY_ALPHA} else pixels


def to_colour(image: Image.Image, low: light.Array, least: int | None, used: int | None) -> tuple[Image.Image, int]:
    """Return 16-bit colour as 8-bit colour, and the largest value that its set has to hold, as `to_grey` does.

    At full depth the image, which holds the higher bytes, is returned as it is.
    """
    white, bands, largest = 2.0 ** (used or FULL) - 1, [], 2 ** (least or LEAST) - 1
    for index, band in enumerate(image.split()):
        values = np.asarray(band).astype(np.uint16) << 8 | low[..., index]
        most = int(values.max())
        is_alpha = index == ALPHA
        largest = largest if is_alpha else max(largest, most)
        if used is not None:
            ends = 2.0**FULL - 1 if is_alpha and most > white else white
            bands.append(Image.fromarray(light.to_bytes(values, 0.0, ends)))
    return (Image.merge(image.mode, bands) if bands else image), largest


def _range(mode: str, values: light.Array, tags: dict[int, Any]) -> tuple[tuple[float, float], bool]:
    """Return the values of black and white, and whether they are merely the ends of 16 bits."""
    is_float, bits = mode == "F", _number(tags.get(BITS_PER_SAMPLE, FULL))
    bits = SIGNED if mode == "I" and tags and bits == FULL else bits  # Pillow's mode for 16 bits with a sign
    largest = _number(tags.get(LARGEST_SAMPLE, tags.get(LARGEST_INTEGER)))
    if declared := light.declared_scale(values, is_float, (_number(tags.get(SMALLEST)), largest)):
        return declared, False
    ends = light.usual_scale(values, is_float, bits)
    return ends, not is_float and bits >= SIGNED and ends == (0.0, 2.0 ** min(bits, FULL) - 1)


def _number(value: Any) -> float:
    """Read a TIFF field that may hold one value per channel; NaN if it holds none."""
    first = value[0] if isinstance(value, tuple) and value else value
    return float(first) if isinstance(first, int | float) else math.nan


def bits_of(largest: int) -> int:
    """Return the least depth that holds a value; 8 at least."""
    return max(LEAST, largest.bit_length())


def in_words(largest: Sequence[int]) -> str:
    """Return a sentence about the depth of a set, from the largest value of each of its deep grey pictures."""
    pictures = f"{len(largest):,} picture{'s' if len(largest) > 1 else ''} of 16 bits"
    most = max(largest)
    return f"{pictures}: the largest value is {most:,}; they are read as {bits_of(most)}-bit"


def used_bits(images: "pd.DataFrame") -> int | None:
    """Return the depth that the deep grey of a manifest uses; None if it is the full one, or if there is none."""
    bits = bits_of(int(images[LARGEST].max())) if LARGEST in images and len(images) else FULL
    return bits if bits < FULL else None


def shallow(images: "pd.DataFrame") -> list[str]:
    """Return the paths of the pictures that use less than an eighth of the range that all of them are scaled by."""
    if LARGEST not in images or not len(images):
        return []
    limit = 2 ** (bits_of(int(images[LARGEST].max())) - SHALLOW)
    return sorted(images["path"][(images[LARGEST] > 0) & (images[LARGEST] < limit)])
