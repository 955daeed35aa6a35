"""Parts of image files: JPEG segments and scans, PNG chunks, metadata; read in bounded work around decoding."""

import contextlib
import io
import math
import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import NamedTuple, TypeVar

from PIL import Image

from steps.errors import UndecodableError

MAX_SCANS = 100  # libtiff's limit too; encoders write about ten
# Per file: Pillow walks in Python over chunks, comments and junk, and keeps many of them in memory.
# 256 MiB of PNG in chunks of 1 kB are 800,000.
MAX_READS = 1_000_000
MAX_PARTS = 100_000  # segments of a JPEG, chunks of a PNG
TOO_MANY = "a picture in too many parts, which would take minutes to read"
MAX_EXIFS = 64  # Pillow joins those of a JPEG one by one: 4,000 of 64 kB would copy 500 GB
EXIF = b"Exif\0\0"
JPEG, END_OF_IMAGE, START_OF_SCAN = b"\xff\xd8\xff", 0xD9, 0xDA
PNG, PIXELS = b"\x89PNG\r\n\x1a\n", (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the chunks that pixels depend on
ICON, RUN_LENGTHS = b"\0\0\1\0", (1, 2)  # compressions of a bitmap that Pillow decodes byte by byte, in Python
OS2 = (12).to_bytes(4, "little")  # the length of a bitmap's header in OS/2's form
MAX_ICONS, MAX_ICON_CHUNKS = (
    100,
    1000,
)  # pictures of an icon, chunks of such a PNG before its pixels; real ones have ten
# EXIF, colour profiles, comments...; not JFIF's and Adobe's: they define colours
NOTES = {*range(0xE1, 0xEE), 0xEF, 0xFE}
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # markers followed by a length, and the end of the image
# Pillow's decoders raise all of these on bad bytes, not only OSError; MemoryError if a header lies.
DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    ZeroDivisionError,
    OverflowError,
    MemoryError,
    AttributeError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)

T = TypeVar("T")


class Stream(io.BytesIO):
    """The bytes of a file, with a bounded number of reads."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any stream does; raises UndecodableError after too many reads."""
        self.left -= 1
        if self.left < 0:
            raise UndecodableError(TOO_MANY, "")
        return super().read(size)


def despite_notes(work: Callable[[bytes], T], data: bytes) -> T:
    """Apply `work` to the file as it is or, if that fails, without its metadata: Pillow rejects good pictures over it.

    EXIF, which holds the orientation, is dropped last.
    """
    if data.startswith(JPEG) and data.count(EXIF) > MAX_EXIFS:
        data = _without_notes(data, keep_exif=True)
    try:
        return work(data)
    except DECODE_ERRORS:
        upright, bare = _without_notes(data, keep_exif=True), _without_notes(data, keep_exif=False)
        if upright not in (data, bare):
            with contextlib.suppress(*DECODE_ERRORS):
                return work(upright)
        if bare == data:
            raise
        return work(bare)


def scans(data: bytes) -> int:
    """Count the scans of a JPEG, up to one above the limit: each passes over the whole picture, and may be 20 bytes."""
    scans = (marker for marker, _, _ in _segments(data) if marker == START_OF_SCAN)
    return sum(1 for _ in islice(scans, MAX_SCANS + 1))


class Announced(NamedTuple):
    """The size of a picture inside an icon by its own header, and whether Pillow would decode it in Python."""

    width: int
    height: int
    slow: bool


def icon_pictures(data: bytes) -> list[Announced]:
    """Return what the pictures of an icon (ICO) announce; [] for other files. Raises UndecodableError for too many.

    Pillow decodes the largest while it *opens* an icon, so its limits have to be checked before. A picture is a PNG or
    a bitmap without its file header, whose height counts twice: the pixels, then a mask.
    """
    count = int.from_bytes(data[4:6], "little") if data.startswith(ICON) else 0
    if count > MAX_ICONS:
        raise UndecodableError(TOO_MANY, "")
    starts = {int.from_bytes(data[at : at + 4], "little") for at in range(18, 18 + 16 * count, 16)}
    return [_announced(data, start) for start in sorted(starts)]


def _announced(data: bytes, start: int) -> Announced:
    """Read the headers of a PNG or a bitmap that begins at `start`; zeros if they are cut off."""
    if data.startswith(PNG, start):
        sizes = [struct.unpack(">II", data[at + 8 : at + 16].ljust(8, b"\0")) for at in _headers(data, start)]
        width, height = max(sizes, key=math.prod, default=(0, 0))
        return Announced(width, height, slow=False)
    head = data[start : start + 20].ljust(20, b"\0")
    if head.startswith(OS2):
        width, height = struct.unpack("<HH", head[4:8])
        return Announced(width, height // 2, slow=False)
    width, height, _, _, compression = struct.unpack("<iiHHI", head[4:])
    return Announced(abs(width), abs(height) // 2, slow=compression in RUN_LENGTHS)


def _headers(data: bytes, start: int) -> Iterator[int]:
    """Yield where each IHDR of a PNG begins: Pillow believes the last before the pixels."""
    for number, (kind, at, _) in enumerate(_chunks(data, start)):
        if kind == b"IDAT":
            return
        if number == MAX_ICON_CHUNKS:
            raise UndecodableError(TOO_MANY, "")
        if kind == b"IHDR":
            yield at


def significant_bits(data: bytes) -> int:
    """Return the bits of the first channel that a PNG declares as significant (chunk sBIT); 0 if it declares none."""
    if not data.startswith(PNG):
        return 0
    head = takewhile(lambda chunk: chunk[0] != b"IDAT", _chunks(data))
    return next((data[start + 8] for kind, start, _ in head if kind == b"sBIT" and start + 8 < len(data)), 0)


def jpeg2000_bits(data: bytes) -> int:
    """Return the bits of the first component of a JPEG 2000 codestream (ISO 15444-1, A.5.1), 0 if there is none."""
    start = data.find(b"\xff\x4f\xff\x51")
    return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else 0


def _without_notes(data: bytes, keep_exif: bool) -> bytes:
    """Return a JPEG without comments and application segments, a PNG without optional chunks; others unchanged.

    `keep_exif` keeps the first EXIF.
    """
    if data.startswith(PNG):
        notes = [(start, end, kind == b"eXIf") for kind, start, end in _chunks(data) if kind not in PIXELS]
    elif data.startswith(JPEG):
        head = takewhile(lambda segment: segment[0] != START_OF_SCAN, _segments(data))
        notes = [(start, end, data.startswith(EXIF, start + 4)) for marker, start, end in head if marker in NOTES]
    else:
        return data
    first = next((start for start, _, is_exif in notes if is_exif and keep_exif), None)
    kept, last = [], 0
    for start, end in [(start, end) for start, end, _ in notes if start != first]:
        kept.append(data[last:start])
        last = end
    return b"".join([*kept, data[last:]])


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of a JPEG up to its end marker; UndecodableError for too many."""
    position = 2
    for _ in range(MAX_PARTS):
        match = MARKER.search(data, position)
        if not match or (marker := data[match.end() - 1]) == END_OF_IMAGE:
            return
        position = match.end() + max(2, int.from_bytes(data[match.end() : match.end() + 2], "big"))
        yield marker, match.start(), position
    raise UndecodableError(TOO_MANY, "")


def _chunks(data: bytes, start: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk of a PNG that begins at `start`; UndecodableError for too many."""
    position = start + len(PNG)
    for _ in range(MAX_PARTS):
        if position >= len(data):
            return
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], position, end
        position = end
    raise UndecodableError(TOO_MANY, "")
