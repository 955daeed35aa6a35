"""Small copies of images for a page, within a budget of characters."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from steps.images.decoding import read_image
from steps.pages.rendering import Picture, picture


class Album:
    """Small copies of the images under `raw`, until `budget` characters of page are used up.

    `grey_bits` is the depth of their deep grey (`deep_grey.used_bits`).
    """

    def __init__(self, raw: Path, side: int, budget: int, grey_bits: int | None) -> None:
        self.raw, self.side, self.budget, self.grey_bits = raw, side, budget, grey_bits

    def add(
        self, path: str, identity: str, change: Callable[[Image.Image], Image.Image] | None = None
    ) -> Picture | None:
        """Return a small copy of the image at `path`, perhaps changed, or None if the page would get too large."""
        if self.budget <= 0:
            return None
        image = read_image(self.raw, path, identity, self.grey_bits)
        shown = picture(change(image) if change else image, self.side)
        self.budget -= len(shown.uri)
        return shown if self.budget >= 0 else None


def exchanged(image: Image.Image) -> Image.Image:
    """Return an RGB image with red and blue exchanged."""
    return Image.merge("RGB", image.split()[::-1])
