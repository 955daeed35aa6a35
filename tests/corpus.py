"""Bad and odd files, made by code, each with the verdict that ingest owes it.

Every good one shows the same picture: the left half `LEFT`, the right half `RIGHT`, in the file's own way of saying it.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image

Pixels = np.ndarray[Any, Any]
LEFT, RIGHT = (220, 90, 20), (20, 60, 200)
GREY_LEFT, GREY_RIGHT = (64, 64, 64), (192, 192, 192)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
DAMAGED, NO_IMAGE = "damaged or truncated image", "not an image format"
TOO_MANY = "a picture in too many parts"
WIDTH, HEIGHT = 32, 24


@dataclass(frozen=True)
class Specimen:
    """A file; `verdict` is empty where it is to be kept, else the start of the reason; `shows` its two halves."""

    name: str
    data: bytes
    verdict: str = ""
    shows: tuple[tuple[int, ...], tuple[int, ...]] = (LEFT, RIGHT)
    tolerance: int = 0


def halves(left: Any = LEFT, right: Any = RIGHT, dtype: Any = np.uint8) -> Pixels:
    pixels = np.empty((HEIGHT, WIDTH, *np.shape(left)), dtype)
    pixels[:, : WIDTH // 2], pixels[:, WIDTH // 2 :] = left, right
    return pixels


def encoded(image: Image.Image | Pixels, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


PLAIN = Image.fromarray(halves())
GREY = Image.fromarray(halves(64, 192))
GREYS = (GREY_LEFT, GREY_RIGHT)
PNG, JPEG = encoded(PLAIN), encoded(PLAIN, "JPEG", quality=95, subsampling=0)
TURN_BACK: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: np.rot90(p, -1),
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int) -> bytes:
    """Make a PNG whose header promises a picture of this size, and that holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_with(kind: bytes, content: bytes) -> bytes:
    return PNG[:33] + chunk(kind, content) + PNG[33:]  # behind the signature and the header


def png_behind(kind: bytes, content: bytes) -> bytes:
    return PNG[:-12] + chunk(kind, content) + PNG[-12:]  # behind the pixels, before the end


def jpeg_with(marker: int, content: bytes) -> bytes:
    return JPEG[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + JPEG[2:]


def before(marker: bytes, data: bytes, content: bytes) -> bytes:
    start, end = data.split(marker, 1)
    return start + content + marker + end


def many_scans(count: int, side: int = 32) -> bytes:
    """Repeat the last scan of a progressive JPEG: each is a few bytes and passes over the whole picture."""
    data = encoded(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:]


def tiff_tags(data: bytes, **values: int) -> bytes:
    """Overwrite one-value fields (`t322=...`) in the first directory of a little-endian TIFF."""
    out = bytearray(data)
    at = struct.unpack_from("<I", out, 4)[0]
    for i in range(struct.unpack_from("<H", out, at)[0]):
        entry = at + 2 + 12 * i
        key = f"t{struct.unpack_from('<H', out, entry)[0]}"
        if key in values:
            struct.pack_into("<HII", out, entry + 2, 4, 1, values[key])
    return bytes(out)


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURN_BACK[orientation](halves())))
    return encoded(stored, kind, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


def palette(kind: str, **options: Any) -> bytes:
    image = Image.fromarray(halves(0, 1)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(bytes([*LEFT, *RIGHT]))
    return encoded(image, kind, **options)


def animation(kind: str, **options: Any) -> bytes:
    others = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("#00ff00", "#ffff00")]
    return encoded(PLAIN, kind, save_all=True, append_images=others, **options)


def deep(high: float, dtype: Any, kind: str = "TIFF", **options: Any) -> bytes:
    return encoded(halves(high * 64 / 255, high * 192 / 255, dtype), kind, **options)


def twelve_bits() -> bytes:
    """Make a TIFF of 12 bits a pixel, two pixels in three bytes, as scanners and microscopes write it."""
    row = halves(round(4095 * 64 / 255), round(4095 * 192 / 255), np.uint16)[0]
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in row.reshape(-1, 2).tolist())
    fields = [
        (256, WIDTH),
        (257, HEIGHT),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 110),
        (277, 1),
        (278, HEIGHT),
        (279, len(packed) * HEIGHT),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in fields)
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", 0)
    return head.ljust(110, b"\0") + packed * HEIGHT


def icon(picture: bytes) -> bytes:
    """Wrap a PNG as an icon whose directory says 32x24, whatever the PNG is."""
    entry = struct.pack("<BBBBHHII", WIDTH, HEIGHT, 0, 0, 1, 32, len(picture), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + picture


def cmyk() -> Image.Image:
    return Image.fromarray(halves((255 - 220, 255 - 90, 255 - 20, 0), (255 - 20, 255 - 60, 255 - 200, 0)), mode="CMYK")


ALPHA = halves((*LEFT, 255), (*RIGHT, 0))
KEYED = {"shows": (LEFT, WHITE)}
LOSSY: dict[str, Any] = {"tolerance": 6}
DEEP: dict[str, Any] = {"shows": GREYS, "tolerance": 1}


def _good() -> list[Specimen]:
    """Odd files that show a picture: to lose one is a fault."""
    exif = Image.Exif()
    exif[270], exif[ExifTags.Base.Orientation] = "a picture", 1
    tagged = encoded(PLAIN, "JPEG", quality=95, subsampling=0, exif=exif)
    return [
        *(Specimen(f"turned {n}.jpg", turned(n, "JPEG"), **LOSSY) for n in TURN_BACK),
        *(Specimen(f"turned {n}.{kind.lower()}", turned(n, kind)) for n in (3, 6) for kind in ("PNG", "TIFF")),
        Specimen(
            "turned 6.webp",
            encoded(
                Image.fromarray(np.ascontiguousarray(TURN_BACK[6](halves()))),
                "WEBP",
                lossless=True,
                exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
            ),
        ),
        Specimen("palette.png", palette("PNG")),
        Specimen("palette.gif", palette("GIF")),
        Specimen("palette.bmp", palette("BMP")),
        Specimen("palette with a clear colour.png", palette("PNG", transparency=1), **KEYED),
        Specimen("palette with half alpha.png", palette("PNG", transparency=bytes([255, 0])), **KEYED),
        Specimen("alpha.png", encoded(ALPHA), **KEYED),
        Specimen("alpha.tiff", encoded(ALPHA, "TIFF"), **KEYED),
        Specimen("alpha.webp", encoded(ALPHA, "WEBP", lossless=True), **KEYED),
        Specimen(
            "grey and alpha.png",
            encoded(Image.fromarray(halves((64, 255), (192, 0)), mode="LA")),
            shows=(GREY_LEFT, WHITE),
        ),
        Specimen("a clear colour.png", encoded(PLAIN, transparency=RIGHT), **KEYED),
        Specimen("a clear grey.png", encoded(GREY, transparency=192), shows=(GREY_LEFT, WHITE)),
        Specimen(
            "a clear deep grey.png",
            deep(65535, np.uint16, "PNG", transparency=round(65535 * 192 / 255)),
            shows=(GREY_LEFT, WHITE),
            tolerance=1,
        ),
        Specimen("cmyk.tiff", encoded(cmyk(), "TIFF"), tolerance=1),
        Specimen("cmyk, inverted by adobe's habit.jpg", encoded(cmyk(), "JPEG", quality=95, subsampling=0), **LOSSY),
        Specimen("grey.jpg", encoded(GREY, "JPEG", quality=95), shows=GREYS, tolerance=2),
        Specimen("grey.pgm", encoded(GREY, "PPM"), shows=GREYS),
        Specimen("one bit.png", encoded(GREY.point(lambda v: 255 * (v > 100)).convert("1")), shows=(BLACK, WHITE)),
        Specimen(
            "one bit.tiff",
            encoded(GREY.point(lambda v: 255 * (v > 100)).convert("1"), "TIFF", compression="group4"),
            shows=(BLACK, WHITE),
        ),
        Specimen("sixteen bits.png", deep(65535, np.uint16, "PNG"), **DEEP),
        Specimen("sixteen bits, all dark.png", encoded(halves(0, 255, np.uint16)), shows=(BLACK, (1, 1, 1))),
        Specimen("sixteen bits.tiff", deep(65535, np.uint16), **DEEP),
        Specimen("sixteen bits, deflated.tiff", deep(65535, np.uint16, compression="tiff_deflate"), **DEEP),
        Specimen(
            "sixteen bits, white is zero.tiff",
            tiff_tags(encoded(halves(65535 * 191 // 255, 65535 * 63 // 255, np.uint16), "TIFF"), t262=0),
            **DEEP,
        ),
        Specimen("sixteen bits.pgm", b"P5 32 24 65535\n" + halves(64 * 257, 192 * 257, ">u2").tobytes(), **DEEP),
        Specimen("sixteen bits.jp2", deep(65535, np.uint16, "JPEG2000"), **DEEP),
        Specimen("twelve bits.tiff", twelve_bits(), **DEEP),
        Specimen("twelve bits in sixteen, declared.tiff", deep(4095, np.uint16, tiffinfo={281: 4095}), **DEEP),
        Specimen("sixteen bits and its brightest pixel.tiff", deep(65535, np.uint16, tiffinfo={281: 50000}), **DEEP),
        Specimen("sixteen bits, declared less than it holds.tiff", deep(65535, np.uint16, tiffinfo={281: 255}), **DEEP),
        Specimen("thirty-two bits.tiff", deep(65535, np.int32), **DEEP),
        Specimen(
            "thirty-two bits and more.tiff", encoded(halves(0, 9_000_000, np.int32), "TIFF"), shows=(BLACK, WHITE)
        ),
        Specimen("float to one.tiff", deep(1.0, np.float32), **DEEP),
        Specimen("float of its own range.tiff", encoded(halves(-3.0, 7.0, np.float32), "TIFF"), shows=(BLACK, WHITE)),
        Specimen("float, declared.tiff", deep(100.0, np.float32, tiffinfo={340: 0.0, 341: 100.0}), **DEEP),
        Specimen("float of nothing.tiff", encoded(halves(np.nan, np.inf, np.float32), "TIFF"), shows=(BLACK, BLACK)),
        Specimen(
            "lab.tiff",
            encoded(Image.fromarray(halves((0, 0, 0), (255, 0, 0)), mode="LAB"), "TIFF"),
            shows=(BLACK, WHITE),
            tolerance=2,
        ),
        Specimen("first frame.gif", animation("GIF")),
        Specimen("first frame.png", animation("PNG")),
        Specimen("first frame.webp", animation("WEBP", lossless=True)),
        Specimen("first page.tiff", animation("TIFF")),
        Specimen("of two lenses.mpo", animation("MPO", quality=95, subsampling=0), **LOSSY),
        Specimen("progressive.jpg", encoded(PLAIN, "JPEG", quality=95, subsampling=0, progressive=True), **LOSSY),
        Specimen("lossy.avif", encoded(PLAIN, "AVIF", quality=95, subsampling="4:4:4"), tolerance=12),
        Specimen("an icon.ico", icon(PNG)),
        Specimen("a targa.tga", encoded(PLAIN, "TGA")),
        Specimen("a paintbrush.pcx", encoded(PLAIN, "PCX")),
        Specimen("a pixmap.ppm", encoded(PLAIN, "PPM")),
        Specimen("plain text pixels.ppm", b"P3 2 1 255\n220 90 20 20 60 200\n"),
        Specimen("a png called.jpg", PNG),
        Specimen("a jpeg called.png", JPEG, **LOSSY),
        Specimen("no extension", PNG),
        Specimen("UPPER.JPEG", JPEG, **LOSSY),
        Specimen("ärger, 図.png", PNG),
        Specimen(" spaces  .png ", PNG),
        Specimen('it\'s "quoted", and; more.png', PNG),
        Specimen("a\nnew\rline\t.png", PNG),
        Specimen("-n; rm $(x) `y` %s {0} \\.png", PNG),
        Specimen(f"{'long' * 60}.png", PNG),
        Specimen("deep/er/and/deeper.png", PNG),
        Specimen("nan", PNG),
        Specimen("1.10", PNG),
        Specimen("thirteen bytes of litter behind.jpg", JPEG + b"litter behind", **LOSSY),
        Specimen("a film behind with false markers.jpg", JPEG + b"\xff\xda" * 500, **LOSSY),
        Specimen("a comment with false markers.jpg", jpeg_with(0xFE, b"\xff\xda" * 500), **LOSSY),
        Specimen("twenty scans.jpg", many_scans(20), shows=(BLACK, BLACK)),
        Specimen("exif of garbage.jpg", jpeg_with(0xE1, b"Exif\0\0" + bytes(range(256))), **LOSSY),
        Specimen("exif cut short.jpg", jpeg_with(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01"), **LOSSY),
        Specimen(
            "exif in a circle.jpg",
            jpeg_with(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08"),
            **LOSSY,
        ),
        Specimen("exif of the wrong type.jpg", tagged.replace(b"\x01\x0e\0\x02", b"\x01\x0e\0\0"), **LOSSY),
        Specimen(
            "exif turned by 77.jpg",
            jpeg_with(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x4d\0\0\0\0\0\0"),
            **LOSSY,
        ),
        Specimen("exif of garbage.png", png_with(b"eXIf", b"garbage")),
        Specimen("exif raw profile of garbage.png", png_with(b"tEXt", b"Raw profile type exif\0\nexif\n9\nzz\n")),
        Specimen("multi-picture of garbage.jpg", jpeg_with(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"), **LOSSY),
        Specimen("colour profile of garbage.png", png_with(b"iCCP", b"x\0\0" + zlib.compress(b"garbage"))),
        Specimen("colour profile of megabytes.png", png_with(b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000)))),
        Specimen("text of megabytes.png", png_with(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(3_000_000)))),
        Specimen("text of megabytes behind.png", png_behind(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(3_000_000)))),
        Specimen("density cut short.png", png_with(b"pHYs", b"12")),
        Specimen("a note that rots.png", png_with(b"tEXt", b"a\0sound note").replace(b"sound", b"S0und")),
        Specimen("a film behind that rots.png", png_behind(b"fcTL", b"12")),
        Specimen(
            "alpha and a note cut short.png", encoded(ALPHA)[:33] + chunk(b"gAMA", b"1") + encoded(ALPHA)[33:], **KEYED
        ),
        Specimen("exif in too many pieces.jpg", JPEG[:2] + 100 * (b"\xff\xe1\0\x0eExif\0\0pieces") + JPEG[2:], **LOSSY),
        Specimen(
            "turned 6, and a text of megabytes.png",
            turned(6, "PNG")[:33]
            + chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(3_000_000)))
            + turned(6, "PNG")[33:],
        ),
        Specimen(
            "turned 6, and exif in too many pieces.jpg",
            before(b"\xff\xdb", turned(6, "JPEG"), 100 * b"\xff\xe1\0\x0eExif\0\0pieces"),
            **LOSSY,
        ),
        Specimen(
            "turned 6, and photoshop's notes cut short.jpg",
            before(b"\xff\xdb", turned(6, "JPEG"), b"\xff\xed\0\x16Photoshop 3.0\x008BIM\0\0"),
            **LOSSY,
        ),
        Specimen("photoshop's notes cut short.jpg", jpeg_with(0xED, b"Photoshop 3.0\x008BIM\0\0"), **LOSSY),
        Specimen("colour profile of garbage.jpg", jpeg_with(0xE2, b"ICC_PROFILE\0\x09\x01garbage"), **LOSSY),
    ]


def _bad() -> list[Specimen]:
    """Files that show no picture, or that nobody should decode."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = {kind: encoded(noise, kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "JPEG2000", "AVIF")}
    broken_crc = bytearray(whole["PNG"])
    broken_crc[-30] ^= 255
    tiled = tiff_tags(encoded(PLAIN, "TIFF", compression="tiff_deflate"), t273=8, t278=HEIGHT)
    return [
        *(Specimen(f"cut in half.{kind.lower()}", data[: len(data) // 2], DAMAGED) for kind, data in whole.items()),
        *(
            Specimen(f"cut after the head.{kind.lower()}", data[:40], DAMAGED)
            for kind, data in whole.items()
            if kind in ("PNG", "JPEG", "TIFF", "GIF", "JPEG2000")
        ),
        Specimen("magic alone.jpg", b"\xff\xd8\xff", DAMAGED),
        Specimen("magic alone.png", b"\x89PNG\r\n\x1a\n", DAMAGED),
        Specimen("a bit rotten.png", bytes(broken_crc), DAMAGED),
        Specimen("empty.jpg", b"", "the file is empty"),
        Specimen("zeros.jpg", bytes(5000), NO_IMAGE),
        Specimen("text.jpg", b"hello", NO_IMAGE),
        Specimen("names.csv", b"path,label\n", NO_IMAGE),
        Specimen("page.jpg", b"<!DOCTYPE html>\n<HTML><body>404</body></HTML>", "an HTML page, not an image"),
        Specimen("refused.png", b'{"error": "forbidden"}', NO_IMAGE),
        Specimen("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', NO_IMAGE),
        Specimen("print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_IMAGE),
        Specimen("paper.pdf", b"%PDF-1.7\n", NO_IMAGE),
        Specimen("packed.png", b"PK\x03\x04" + bytes(60), NO_IMAGE),
        Specimen("film.jpg", b"\0\0\0\x18ftypmp42" + bytes(60), NO_IMAGE),
        Specimen("program.jpg", b"\x7fELF" + bytes(60), NO_IMAGE),
        Specimen("large-file pointer.jpg", b"version https://git-lfs.github.com/spec/v1\n", NO_IMAGE),
        Specimen("bomb.png", png_of(12_000, 12_000), "12000x12000 pixels; at most 100000000 in all"),
        Specimen("bomb that Pillow refuses.png", png_of(65_535, 65_535), "too many pixels; at most 100000000 in all"),
        Specimen(
            "bomb.bmp",
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, 11_000, 11_000, 1, 24, 0, 0, 0, 0, 0, 0),
            "11000x11000 pixels",
        ),
        Specimen(
            "bomb.gif",
            b"GIF89a"
            + struct.pack("<HHBBB", 11_000, 11_000, 0, 0, 0)
            + b"\x2c"
            + struct.pack("<HHHHB", 0, 0, 11_000, 11_000, 0)
            + b"\x08\x01\0\0",
            "11000x11000 pixels",
        ),
        Specimen("bomb in an icon.ico", icon(encoded(Image.new("1", (10_001, 10_000)))), "10001x10000 pixels"),
        Specimen("strip.png", encoded(Image.new("RGB", (9000, 3))), "9000x3 pixels; a strip, not a picture"),
        Specimen("pixels without area.png", png_of(0, 10), DAMAGED),
        Specimen("slow.ppm", b"P5 6000 6000 254\n", "6000x6000 pixels in a slow format; at most 25000000"),
        Specimen("scans without end.jpg", many_scans(101), "more than 100 scans"),
        Specimen("comments without end.jpg", JPEG[:2] + 300_000 * b"\xff\xfe\0\2" + JPEG[2:], TOO_MANY),
        Specimen("chunks without end.png", PNG[:33] + 600_000 * chunk(b"tEXt", b"") + PNG[33:], TOO_MANY),
        Specimen(
            "comments without end.gif",
            b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b"!\xfe" + 600_000 * b"\1a",
            TOO_MANY,
        ),
        Specimen("tiles of a gigapixel.tiff", gigantic_tiles(tiled), "tiles of 4294836225 pixels"),
    ]


def gigantic_tiles(data: bytes) -> bytes:
    """Turn the strip fields of a TIFF into tile fields: a reader allocates a tile before it decodes one."""
    out = bytearray(data)
    at = struct.unpack_from("<I", out, 4)[0]
    fields = [out[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(struct.unpack_from("<H", out, at)[0])]
    kept = [bytes(field) for field in fields if struct.unpack_from("<H", field)[0] < 273]
    tiles = [
        struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in [(277, 3), (322, 65_535), (323, 65_535), (324, 8), (325, 9)]
    ]
    entries = b"".join(kept + tiles)
    directory = struct.pack("<H", len(kept) + len(tiles)) + entries + bytes(4)
    return bytes(out[:4]) + struct.pack("<I", len(out)) + bytes(out[8:]) + directory


GOOD, BAD = _good(), _bad()
