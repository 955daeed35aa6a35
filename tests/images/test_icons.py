"""Icons are measured by their pictures' own headers before Pillow opens them, which would decode them."""

import io
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image

from steps.errors import UndecodableError
from steps.images import decoding
from steps.images.containers import icon_pictures


def icon(*pictures: bytes) -> bytes:
    """Return an icon whose directory says 32x24 for each picture."""
    head, start = struct.pack("<HHH", 0, 1, len(pictures)), 6 + 16 * len(pictures)
    entries = b""
    for picture in pictures:
        entries += struct.pack("<BBBBHHII", 32, 24, 0, 0, 1, 32, len(picture), start)
        start += len(picture)
    return head + entries + b"".join(pictures)


def png(width: int, height: int, *, twice: bool = False) -> bytes:
    """Return a PNG of one-bit black; `twice`: a header of 8x8 comes first, which Pillow does not believe."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def header(width: int, height: int) -> bytes:
        return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))

    pixels = zlib.compress(bytes((1 + (width + 7) // 8) * height))
    first = header(8, 8) if twice else b""
    return b"\x89PNG\r\n\x1a\n" + first + header(width, height) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bitmap(width: int, height: int, compression: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 8, compression, 0, 0, 0, 256, 0) + bytes(1024)


def os2_bitmap(width: int, height: int) -> bytes:
    return struct.pack("<IHHHH", 12, width, 2 * height, 1, 8) + bytes(768)


BOMBS = {
    "PNG": png(10_001, 10_000),
    "PNG with two headers": png(10_001, 10_000, twice=True),
    "bitmap": bitmap(10_001, 10_000),
    "bitmap upside down": bitmap(10_001, -10_000),
    "bitmap of run lengths": bitmap(5001, 5000, compression=1),
    "bitmap of OS/2": os2_bitmap(10_001, 10_000),
}


@pytest.mark.parametrize("where", ["alone", "second", "last of a hundred"])
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_in_an_icon_is_refused_before_a_pixel_is_decoded(bomb: bytes, where: str) -> None:
    before = {"alone": 0, "second": 1, "last of a hundred": 99}[where]
    data = icon(*[png(8, 8)] * before, bomb)
    tracemalloc.start()
    with pytest.raises(UndecodableError, match="pixels in an icon"):
        decoding.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("picture", [png(7, 5), bitmap(7, 5), os2_bitmap(7, 5), png(7, 5, twice=True)])
def test_the_size_of_an_icon_is_its_pictures_own(picture: bytes) -> None:
    assert max(icon_pictures(icon(picture)))[:2] in {(7, 5), (8, 8)}


def test_an_icon_that_pillow_writes_is_decoded_and_measured() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 200, 30)).save(stream, "ICO", sizes=[(16, 16), (64, 64)])
    assert decoding.size(stream.getvalue()) == decoding.decode(stream.getvalue()).size == (64, 64)


@pytest.mark.parametrize(
    "data",
    [icon(*[png(8, 8)] * 101), icon(b"\x89PNG\r\n\x1a\n" + (struct.pack(">I", 0) + b"tEXt" + bytes(4)) * 2000)],
    ids=["too many pictures", "too many chunks"],
)
def test_an_icon_in_too_many_parts_is_refused(data: bytes) -> None:
    with pytest.raises(UndecodableError, match="too many parts"):
        decoding.size(data)


@pytest.mark.parametrize("length", range(0, 60, 3))
def test_an_icon_that_is_cut_off_is_refused_in_words(length: int) -> None:
    with pytest.raises(UndecodableError):
        decoding.decode(icon(png(8, 8))[:length])
