"""The example's images: scikit-learn's UCI handwritten digits, 1,797 of 8x8 pixels, as PNG files."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from steps.runtime.arrays import Ints
from steps.runtime.seeding import numpy_generator

LABELLED, TEST = 20, 60  # images of each class; the rest is the unlabelled pool


def pixels() -> tuple[npt.NDArray[np.uint8], Ints]:
    """Return the digits as uint8 [1797, 8, 8], white on black, and their labels [1797]."""
    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target


def split(seed: int) -> dict[str, list[int]]:
    """Draw, class by class, which images are train, test and unlabelled; no two splits share equal pixels."""
    images, labels = pixels()
    drawn: dict[str, list[int]] = {"train": [], "test": [], "unlabelled": []}
    for label in range(10):
        order = numpy_generator(seed, "digits", label).permutation(np.flatnonzero(labels == label)).tolist()
        drawn["test"] += order[:TEST]
        drawn["train"] += order[TEST : TEST + LABELLED]
        drawn["unlabelled"] += order[TEST + LABELLED :]
    seen = {images[i].tobytes() for i in drawn["test"] + drawn["train"]}
    drawn["unlabelled"] = [i for i in drawn["unlabelled"] if images[i].tobytes() not in seen]
    return drawn


def write_digits(root: Path, seed: int) -> None:
    """Write train/LABEL/, test/LABEL/ and unlabelled/ under `root`: same seed, same bytes."""
    images, labels = pixels()
    for name, members in split(seed).items():
        for number in members:
            folder = root / name / (str(labels[number]) if name != "unlabelled" else "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number]).save(folder / f"{number:04}.png", optimize=False)
