"""Fixed pictures that show whether decoder, preprocessing and backbone still compute the same.

There is one for each way in which a file becomes RGB pixels, so that a change of a single way is detected too.
"""

import base64
import hashlib
import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image

from steps.backbones.forward import Forward
from steps.images.decoding import decode
from steps.images.preprocessing import Preprocessing, preprocess

# A JPEG of 42x30 pixels with subsampled colours: waves, slopes and an edge, made for this purpose.
PICTURE = base64.b64decode("""
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEYIx8lJCIfIiEmKzcvJik0KSEiMEExNDk7Pj4+JS5ESUM8
SDc9Pjv/2wBDAQoLCw4NDhwQEBw7KCIoOzs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozv/wAARCAAeACoD
ASIAAhEBAxEB/8QAGQAAAwEBAQAAAAAAAAAAAAAABAUGAwIH/8QAJBAAAQMDAwUBAQAAAAAAAAAAAgABEQMEEgUUMRMhIlFhsQb/xAAYAQADAQEA
AAAAAAAAAAAAAAACBAYFB//EACARAAEDBAMBAQAAAAAAAAAAAAMAAQIEBRESEyIxFEH/2gAMAwEAAhEDEQA/AFGnswAyNqXOLRKW06rAHKY0X6lj
TP3P66pzV+H2VNeC8AtIMswquZ8qh0mlLs6mSLElV/zg5WdM/c/rpKpuL6Z8UOKh5Sbu+XVbYwAMjdw3tKxrMAcrjd/VOyqnk+UVaaIJNFl4tUuo
aJR1lreFoFtt8nGfLPmXd+I+qaOuREmOnNkbJoh207LfuhpmPiKpbe2e+ecunPyVW6RQ2VmFFzzxnyiJl5SHSgYRZO+q4h2U7VXCUun4jhTxAJyP
6jqt1HaVjuH9peVdyJbM/Zkp9OGXObmeRDPhf//Z
""")


@cache
def pictures() -> tuple[bytes, ...]:
    """Return the files: the JPEG above, and others made of slopes and stripes, the same bytes at every call.

    A changed encoder only causes a recomputation, which is safe; only the first picture was encoded once and for all.
    """
    colours = Image.fromarray(_slopes(30, 42))
    alpha = Image.fromarray(_slopes(30, 42)[..., 0])
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    palette = Image.fromarray(_slopes(30, 42)[..., 1] % 16)
    palette.putpalette([(level * step) % 256 for level in range(16) for step in (17, 40, 91)])
    return (
        PICTURE,
        _encoded(Image.merge("RGBA", (*colours.split(), alpha)), "PNG"),
        _encoded(palette, "PNG", transparency=3),
        _encoded(Image.fromarray(_slopes(30, 42)[..., 0].astype(np.uint16) * 257 + 100), "PNG"),
        _encoded(Image.fromarray(_slopes(30, 42)[..., 1].astype(np.float32) / 255), "TIFF"),
        _encoded(Image.merge("CMYK", (*colours.split(), alpha)), "JPEG"),
        _encoded(colours, "JPEG", exif=turned),
        _encoded(colours, "WEBP"),
        _encoded(Image.fromarray(_slopes(480, 640)), "JPEG", progressive=True),
    )


def _slopes(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [height, width, 3] in which no direction looks like another; integers, the same on every machine."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // (width - 1), (7 * x + 3 * y) % 256, (x * y // 4) % 256], axis=-1).astype(np.uint8)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cut_digests(forward: Forward, spec: Preprocessing) -> dict[str, tuple[str, int]]:
    """Return for each cut the digest of the fixed pictures' features (one batch) and their width.

    A version number would have to be raised by hand when a library or a line of code changes results; this cannot be
    forgotten.
    """
    pixels = torch.stack([preprocess(decode(data), spec) for data in pictures()])
    features = forward.uncompiled(pixels)
    return {cut: (_digest(pixels.numpy(), rows), rows.shape[1]) for cut, rows in features.items()}


def _digest(*arrays: npt.NDArray[np.float32]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
