"""The canonical decoder: the one way from the bytes of an image file to RGB pixels, and the loaders built on it.

Ingest, training, evaluation and serving all come through `decode`; a second way would be a second truth.
"""

import hashlib
import io
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from steps.core import light
from steps.errors import DataError, IntegrityError

MAX_PIXELS = 100_000_000  # 300 MB decoded; a larger picture is more likely an attack than a photograph
MAX_RATIO = 50  # the shorter side is resized: 1x9000 pixels would become 224x2,016,000
MAX_BYTES = 256 * 2**20
# Not all that Pillow knows: EPS would hand the bytes to Ghostscript, and the rest is no format of photographs.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
SMALL = 128  # side of the square at which sharpness is measured, so that large and small pictures compare
MATTE = (255, 255, 255)  # what shows through transparent pixels
# Pillow's decoders raise all of these on bad bytes, not only OSError; MemoryError where a header lies.
DECODE_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, ZeroDivisionError,
    OverflowError, MemoryError, AttributeError, RuntimeError, struct.error, Image.DecompressionBombError,
)  # fmt: skip

T = TypeVar("T")
R = TypeVar("R")


class Facts(NamedTuple):
    """What the manifest keeps of a picture; width, height and mode are as stored, the rest is of the upright RGB."""

    width: int
    height: int
    mode: str
    format: str
    phash: str
    brightness: float
    contrast: float
    sharpness: float
    taken: str


class UndecodableError(DataError):
    """The bytes are no image that can be decoded within the limits."""

    def __init__(self, reason: str, exception: str) -> None:
        super().__init__(reason)
        self.reason, self.exception = reason, exception


def decode(data: bytes) -> Image.Image:
    """Decode the bytes of an image file to an RGB image, upright; UndecodableError says why not.

    First frame of animations; EXIF orientation applied; alpha composited on `MATTE`; 16-bit, 32-bit and float
    grey scaled by their true range (`convert("RGB")` would clip them to white without a word).
    """
    return _decode(data)[1]


def inspect(data: bytes) -> Facts:
    """Decode fully and say what the manifest wants to know of the picture; UndecodableError as `decode`."""
    import imagehash  # brings SciPy; only ingest pays for it

    stored, image = _decode(data)
    luma = image.convert("L")
    small = luma.resize((SMALL, SMALL), Image.Resampling.BILINEAR)
    brightness, contrast = light.brightness_and_contrast(np.array(luma.histogram()))
    return Facts(
        *stored[:4], phash=str(imagehash.phash(image)), brightness=brightness, contrast=contrast,
        sharpness=light.sharpness(np.asarray(small)), taken=stored[4],
    )  # fmt: skip


def _decode(data: bytes) -> tuple[tuple[int, int, str, str, str], Image.Image]:
    if not data:
        raise UndecodableError("the file is empty", "")
    if len(data) > MAX_BYTES:
        raise UndecodableError(f"{len(data)} bytes; at most {MAX_BYTES}", "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs and odd EXIF; the limits below decide
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                facts = (image.width, image.height, image.mode, str(image.format), _taken(image))
                if image.width * image.height > MAX_PIXELS:
                    raise UndecodableError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS} in all", "")
                if max(image.size) > MAX_RATIO * min(image.size):
                    raise UndecodableError(f"{image.width}x{image.height} pixels; a strip, not a picture", "")
                return facts, _rgb(ImageOps.exif_transpose(image))
    except DECODE_ERRORS as error:
        # Pillow names the stream by its address in memory, which would make each run's quarantine list another.
        told = re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")
        raise UndecodableError(_reason(error, data), told) from None


def _taken(image: Image.Image) -> str:
    """Return when the picture was taken, in the camera's local time as ISO 8601; empty where it is not told."""
    try:
        told = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        return datetime.strptime(str(told).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except DECODE_ERRORS:
        return ""


def _reason(error: BaseException, data: bytes) -> str:
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit speaks first where it is far above ours
        return f"too many pixels; at most {MAX_PIXELS} in all"
    if not isinstance(error, UnidentifiedImageError):
        return "damaged or truncated image"
    return "an HTML page, not an image" if b"<html" in data[:1024].lower() else "not an image format"


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return _grey(np.asarray(image, dtype=np.float64), image.mode).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        pixels = image.convert("RGBA")
        matte = Image.new("RGBA", pixels.size, MATTE)
        return Image.alpha_composite(matte, pixels).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], mode: str) -> Image.Image:
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    declared = (1,) if mode == "F" else (255, 65535)  # a picture beyond its mode's usual ranges has its own
    top = next((float(limit) for limit in declared if high <= limit), high)
    scaled = (values - low if low < 0 else values) * (255 / (top - min(low, 0.0)))
    return Image.fromarray(np.rint(scaled).astype(np.uint8), mode="L")


def read_image(root: Path, path: str, identity: str) -> Image.Image:
    """Read one image of the manifest; IntegrityError where its bytes are no longer those that ingest saw."""
    data = (root / path).read_bytes()
    if hashlib.sha256(data).hexdigest() != identity:
        raise IntegrityError(f"{path} has changed since ingest (its digest no longer matches); run again")
    return decode(data)


def parallel(work: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Yield `work(item)` in order, computed by a few threads at most a bounded stretch ahead (flat memory)."""
    with ThreadPoolExecutor(threads) as pool:
        source = iter(items)
        pending = [pool.submit(work, item) for item in islice(source, 4 * threads)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(work, item) for item in islice(source, 1)]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
