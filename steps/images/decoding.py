"""The canonical decoder: the only way from an image file's bytes to RGB pixels, and the loaders built on it.

Ingest, training, evaluation and serving all come through `decode`; a second way would be a second truth.
"""

import hashlib
import math
import re
import stat
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, TiffImagePlugin, UnidentifiedImageError

from steps.errors import IntegrityError, UndecodableError
from steps.images import containers, deep_grey, light, shards
from steps.images.file_kinds import HEIC_IS_READ, RAW, format_of, is_read, reason_of

MAX_PIXELS = 100_000_000  # 300 MB decoded; a larger picture is more likely an attack than a photograph
MAX_RATIO = 50  # the shorter side is resized: 1x9000 pixels would become 224x2,016,000
MAX_BYTES = 256 * 2**20
# Not all that Pillow knows: EPS would hand the bytes to Ghostscript, and the rest is no format of photographs.
FORMATS: tuple[str, ...] = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
HEIF = "HEIF"  # Pillow's name for it, once the optional extra is registered
if HEIC_IS_READ:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    FORMATS = (*FORMATS, HEIF)
SMALL = 128  # side of the square at which sharpness is measured, so that large and small pictures compare
MAX_SLOW_PIXELS = 25_000_000  # for JPEG 2000 and what Pillow decodes in Python, at about a microsecond per pixel
# First bytes of the formats above: a file that begins so and cannot be opened is damaged, not something else.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
TILE_WIDTH, TILE_LENGTH = 322, 323
SUBFILE_TYPE, SUB_PAGES = 254, 330
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MATTE = (light.MATTE,) * 3
warnings.filterwarnings("ignore", module=r"PIL\.")  # about bombs and odd EXIF: the limits above decide

T = TypeVar("T")
R = TypeVar("R")


class ImageFacts(NamedTuple):
    """A picture's fields in the manifest; width, height and mode are as stored, the rest is of the upright RGB."""

    width: int
    height: int
    mode: str
    format: str
    phash: str
    brightness: float
    contrast: float
    sharpness: float
    taken: str


class Decoded(NamedTuple):
    """A decoded file: its fields as stored, the largest value of deep grey (`deep_grey.to_grey`), the upright RGB."""

    width: int
    height: int
    mode: str
    format: str
    taken: str
    largest: int
    image: Image.Image


def decode(data: bytes, grey_bits: int | None = None) -> Image.Image:
    """Decode the bytes of an image file to an upright RGB image; raises UndecodableError with the reason.

    First frame of animations; EXIF orientation applied; alpha composited on `MATTE`; 16-bit, 32-bit and float grey
    scaled by the range that the file declares (`convert("RGB")` would silently clip them to white). `grey_bits` is the
    depth of 16-bit grey as `ingest` measured it over a set of images; None: 16 bits. Memory and time are bounded by
    the work that the headers announce, not by a clock: a slow machine must not lose good images.
    """
    return _decode(data, grey_bits).image


def of_pixels(pixels: light.Array) -> Image.Image:
    """Return uint8 [height, width, 3] as an RGB image; raises UndecodableError for other arrays or too large ones."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UndecodableError(f"an array {pixels.dtype}{list(pixels.shape)}; expected uint8 [height, width, 3]", "")
    _refuse_size(pixels.shape[1], pixels.shape[0])
    return Image.fromarray(np.ascontiguousarray(pixels))


def inspect(data: bytes) -> ImageFacts:
    """Decode an image fully and return the facts that the manifest keeps; raises as `decode` does."""
    return examine(data, None)[0]


def examine(data: bytes, grey_bits: int | None) -> tuple[ImageFacts, Decoded]:
    """Return the results of both `inspect` and `decode` from one decoding."""
    import imagehash  # brings SciPy; only ingest pays for it

    decoded = _decode(data, grey_bits)
    luma = decoded.image.convert("L")
    small = luma.resize((SMALL, SMALL), Image.Resampling.BILINEAR)
    brightness, contrast = light.brightness_and_contrast(np.array(luma.histogram()))
    facts = ImageFacts(
        *decoded[:4],
        phash=str(imagehash.phash(decoded.image)),
        brightness=brightness,
        contrast=contrast,
        sharpness=light.sharpness(np.asarray(small)),
        taken=decoded.taken,
    )
    return facts, decoded


def _decode(data: bytes, grey_bits: int | None) -> Decoded:
    if not data:
        raise UndecodableError("the file is empty", "")
    _refuse_length(len(data))
    try:
        return containers.despite_notes(lambda data: _whole(data, grey_bits), data)
    except containers.DECODE_ERRORS as error:
        # Pillow names the stream by its address in memory, so the quarantine list would differ from run to run.
        message = re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")
        raise UndecodableError(_reason(error, data), message) from None


def _whole(data: bytes, grey_bits: int | None) -> Decoded:
    _refuse_icon(data)
    stream = containers.Stream(data)
    with Image.open(stream, formats=FORMATS) as image:
        if _refuse_too_much_work(image, data):
            stream.left += 4 * MAX_SLOW_PIXELS  # run lengths are read byte by byte
        stored = (image.width, image.height, image.mode, str(image.format))
        is_deep = image.mode[0] == "I" or image.mode == "F"
        low = deep_grey.low_bytes(image, data)
        # Before loading, which forgets a PGM's maximum
        least = deep_grey.least_bits(image, data) if is_deep or low is not None else None
        image.load()
        _refuse_size(image.width, image.height)  # an icon's picture may be larger than its directory says
        pixels, largest = deep_grey.to_grey(image, least, grey_bits) if is_deep else (image, 0)
        if low is not None:
            pixels, largest = deep_grey.to_colour(image, low, least, grey_bits)
        return Decoded(*stored, _taken(image), largest, _upright(_rgb(pixels), image))


def _refuse_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UndecodableError(f"{width}x{height} pixels; at most {MAX_PIXELS} in all", "")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UndecodableError(f"{width}x{height} pixels; a strip, not a picture", "")


def _refuse_icon(data: bytes) -> None:
    """Raise UndecodableError for an icon with too large a picture, before Pillow opens it, which decodes it."""
    for width, height, slow in containers.icon_pictures(data):
        most = MAX_SLOW_PIXELS if slow else MAX_PIXELS
        if width * height > most:
            raise UndecodableError(f"{width}x{height} pixels in an icon; at most {most} in all", "")


def _refuse_too_much_work(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Raise UndecodableError if the headers announce more than memory and time allow (docs/data.md).

    Return True for formats that Pillow decodes in Python, or as slowly.
    """
    _refuse_size(image.width, image.height)
    slow = image.format == "JPEG2000" or any(tile[0] in Image.DECODERS for tile in image.tile)  # written in Python
    if slow and max(image.width * image.height, len(data) // 4) > MAX_SLOW_PIXELS:
        raise UndecodableError(f"{image.width}x{image.height} pixels in a slow format; at most {MAX_SLOW_PIXELS}", "")
    if data.startswith(containers.JPEG) and containers.scans(data) > containers.MAX_SCANS:
        raise UndecodableError(f"more than {containers.MAX_SCANS} scans: a picture that would decode for hours", "")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        # A raw camera file would be read as the thumbnail that is its first page.
        if format_of(data) is RAW or (tags.get(SUBFILE_TYPE, 0) & 1 and SUB_PAGES in tags):
            raise UndecodableError(reason_of(RAW), "")
        tile = int(tags.get(TILE_WIDTH, 1)) * int(tags.get(TILE_LENGTH, 1))
        if tile > MAX_PIXELS:
            raise UndecodableError(f"tiles of {tile} pixels; at most {MAX_PIXELS}", "")
    return slow


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Rotate or flip the pixels as the file's EXIF or XMP says; an unreadable tag is ignored, the picture is kept."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except containers.DECODE_ERRORS:
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


def _taken(image: Image.Image) -> str:
    """Return when the picture was taken, in the camera's local time as ISO 8601; empty if unknown."""
    try:
        taken = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        return datetime.strptime(str(taken).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except containers.DECODE_ERRORS:
        return ""


def _reason(error: BaseException, data: bytes) -> str:
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit, checked first for files far above ours
        return f"too many pixels; at most {MAX_PIXELS} in all"
    known = format_of(data)
    begun = data.startswith(MAGIC) or data[4:12] == b"ftypavif" or is_read(known)
    return "damaged or truncated image" if begun or not isinstance(error, UnidentifiedImageError) else reason_of(known)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return typing.cast(Image.Image, ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))
    if not image.has_transparency_data:
        return image.convert("RGB")
    pixels = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    matte = Image.new("RGB", pixels.size, MATTE)
    matte.paste(pixels, mask=pixels.getchannel("A"))
    return matte


def size(data: bytes) -> tuple[int, int]:
    """Return width and height from the headers of an image file; raises UndecodableError if there are none.

    No pixel is decoded.
    """
    icons = containers.icon_pictures(data)
    if icons:
        return max(((width, height) for width, height, _ in icons), key=math.prod)

    def announced(data: bytes) -> tuple[int, int]:
        with Image.open(containers.Stream(data), formats=FORMATS) as image:
            return image.size

    try:
        return containers.despite_notes(announced, data)
    except containers.DECODE_ERRORS as error:
        raise UndecodableError(_reason(error, data), str(error)) from None


def read_bytes(path: Path) -> bytes:
    """Read a file; raises UndecodableError if it is not a regular file (a pipe would block) or too large.

    Raises OSError if it is missing or unreadable.
    """
    facts = path.stat()
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise UndecodableError("a pipe, socket or device, not a file", "")
    _refuse_length(facts.st_size)
    return path.read_bytes()


def _refuse_length(size: int) -> None:
    if size > MAX_BYTES:
        raise UndecodableError(f"{size} bytes; at most {MAX_BYTES}", "")


def reader(raw: Path) -> Callable[[str], bytes]:
    """Return a function that reads a raw image by its path, loose or packed; it raises as `read_bytes` does."""
    packed = shards.opened(raw)
    if packed is None:
        return lambda path: read_bytes(raw / path)

    def read(path: str) -> bytes:
        identity, size = packed.known(path)
        _refuse_length(size)
        return packed.read(identity)

    return read


def bytes_of(raw: Path, path: str, identity: str) -> bytes:
    """Return the bytes of an image of the manifest, loose or packed; raises IntegrityError if they have changed."""
    packed = shards.opened(raw)
    if packed:
        return packed.read(identity)
    data = (raw / path).read_bytes()
    if hashlib.sha256(data).hexdigest() != identity:
        raise IntegrityError(f"{path} has changed since ingest (its digest no longer matches); run again")
    return data


def read_image(raw: Path, path: str, identity: str, grey_bits: int | None) -> Image.Image:
    """Decode one image of the manifest, as `decode` does; raises IntegrityError if its bytes changed since ingest."""
    return decode(bytes_of(raw, path, identity), grey_bits)


def parallel(work: Callable[[T], R], items: Sequence[T], threads: int, ahead: int = 0) -> Iterator[R]:
    """Yield `work(item)` in order, computed by threads a bounded number of items ahead, so that memory stays flat.

    `ahead` is the number of items, at least four per thread. With less than a batch the threads would idle while the
    caller computes on one.
    """
    with ThreadPoolExecutor(threads) as pool:
        source = iter(items)
        pending = [pool.submit(work, item) for item in islice(source, max(ahead, 4 * threads))]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(work, item) for item in islice(source, 1)]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
