"""Whatever the bytes, the decoder gives upright RGB pixels or a reason; nothing else comes out of it."""

import hashlib
import io
import struct
import threading
import time
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFilter

from steps.errors import DataError, IntegrityError, UndecodableError
from steps.images import decoding
from steps.images.decoding import batched, decode, inspect, parallel, read_image

Pixels = np.ndarray[Any, Any]
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int = 9, width: int = 7, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(data: bytes) -> Pixels:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(values: Pixels) -> Pixels:
    return np.stack([values] * 3, axis=-1)


# What is decoded


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_rgb_pixels_come_out_as_they_went_in(kind: str) -> None:
    assert np.array_equal(pixels_of(encoded(Image.fromarray(noise()), kind)), noise())


def test_lossless_webp_comes_out_as_it_went_in() -> None:
    assert np.array_equal(pixels_of(encoded(Image.fromarray(noise()), "WEBP", lossless=True)), noise())


# EXIF 2.32, 4.6.4 A: which way the stored rows and columns run, undone by hand.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(noise()), "PNG", exif=exif)
    assert np.array_equal(pixels_of(data), UPRIGHT[orientation](noise()))
    assert inspect(data)[:4] == (7, 9, "RGB", "PNG"), "width and height are told as stored"


def test_a_palette_is_looked_up() -> None:
    indices = noise(channels=1) % 4
    image = Image.fromarray(indices, mode="P")
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    image.putpalette(palette.tobytes())
    for kind in ("PNG", "GIF", "BMP"):
        assert np.array_equal(pixels_of(encoded(image, kind)), palette[indices]), kind


def test_transparent_pixels_show_the_matte_and_half_transparent_ones_half_of_it() -> None:
    pixels = noise(channels=4)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    found = pixels_of(encoded(Image.fromarray(pixels))).astype(float)
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(found, pixels[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    assert (found[0] == decoding.MATTE).all()
    assert np.array_equal(found[1], pixels[1, :, :3])


def test_a_transparent_palette_entry_shows_the_matte() -> None:
    indices = noise(channels=1) % 4
    image = Image.fromarray(indices, mode="P")
    image.putpalette(bytes(range(12)))
    found = pixels_of(encoded(image, "PNG", transparency=2))
    wanted = np.arange(12, dtype=np.uint8).reshape(4, 3)
    wanted[2] = decoding.MATTE
    assert np.array_equal(found, wanted[indices])


def test_grey_with_alpha_and_a_transparent_colour_show_the_matte() -> None:
    pair = np.stack([noise(channels=1), np.where(noise(channels=1, seed=1) > 127, 255, 0).astype(np.uint8)], axis=-1)
    wanted = np.where(pair[..., 1] == 0, 255, pair[..., 0])
    assert np.array_equal(pixels_of(encoded(Image.fromarray(pair, mode="LA"))), grey(wanted))

    opaque = noise()
    opaque[2:4] = (1, 2, 3)
    keyed = opaque.copy()
    keyed[2:4] = decoding.MATTE
    assert np.array_equal(pixels_of(encoded(Image.fromarray(opaque), transparency=(1, 2, 3))), keyed)


def test_cmyk_becomes_the_colours_that_the_inks_leave() -> None:
    inks = noise(channels=4)
    found = pixels_of(encoded(Image.fromarray(inks, mode="CMYK"), "TIFF")).astype(float)
    wanted = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    np.testing.assert_allclose(found, wanted, atol=1.5)


def test_black_and_white_and_grey_are_spread_over_the_channels() -> None:
    values = noise(channels=1)
    assert np.array_equal(pixels_of(encoded(Image.fromarray(values))), grey(values))
    bits = Image.fromarray(values).point(lambda v: 255 if v > 100 else 0).convert("1")
    assert np.array_equal(pixels_of(encoded(bits)), grey(np.where(values > 100, 255, 0)))


def test_deep_grey_is_scaled_and_not_clipped_to_white() -> None:
    values = np.linspace(0, 65535, 63).astype(np.uint16).reshape(9, 7)
    wanted = grey(np.rint(values / 65535 * 255).astype(np.uint8))
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(pixels_of(encoded(Image.fromarray(values), kind)), wanted), kind
    whole = Image.fromarray(values.astype(np.int32))
    assert np.array_equal(pixels_of(encoded(whole, "TIFF")), wanted)
    big_endian = Image.frombytes("I;16B", (7, 9), values.astype(">u2").tobytes())
    assert np.array_equal(pixels_of(encoded(big_endian, "TIFF")), wanted)
    assert len(np.unique(wanted)) == 63
    clipped = np.asarray(Image.fromarray(values).convert("RGB"))
    assert not np.array_equal(clipped, wanted), "Pillow has mended its conversion; ours may go"


def test_float_grey_in_the_unit_range_is_scaled_by_it_and_anything_else_by_its_own() -> None:
    unit = np.linspace(0, 0.8, 63, dtype=np.float32).reshape(9, 7)
    assert np.array_equal(pixels_of(encoded(Image.fromarray(unit), "TIFF")), grey(np.rint(unit * 255)))
    wide = np.linspace(-3, 7, 63, dtype=np.float32).reshape(9, 7)
    wanted = grey(np.rint((wide + 3.0) / 10.0 * 255))
    np.testing.assert_allclose(pixels_of(encoded(Image.fromarray(wide), "TIFF")), wanted, atol=1)
    broken = unit.copy()
    broken[0, :3] = np.nan, np.inf, -np.inf
    assert np.array_equal(pixels_of(encoded(Image.fromarray(broken), "TIFF"))[0, :3], np.zeros((3, 3)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (7, 9), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(pixels_of(data), np.full((9, 7, 3), (255, 0, 0)))


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (encoded(Image.fromarray(noise()), "JPEG"), (7, 9, "RGB", "JPEG")),
        (encoded(Image.fromarray(noise(channels=1)), "PNG"), (7, 9, "L", "PNG")),
        (encoded(Image.fromarray(noise(channels=4), mode="CMYK"), "JPEG"), (7, 9, "CMYK", "JPEG")),
        (encoded(Image.fromarray(noise(channels=1).astype(np.uint16)), "PNG"), (7, 9, "I;16", "PNG")),
    ],
)
def test_facts_are_told_as_stored(data: bytes, facts: tuple[int, int, str, str]) -> None:
    assert inspect(data)[:4] == facts


def scene(seed: int = 0, height: int = 96, width: int = 128) -> Image.Image:
    """Make something with structure at every scale, as photographs have."""
    scales = [Image.fromarray(noise(n, n, seed=seed + n)).resize((width, height)) for n in (4, 8, 16, 32)]
    return Image.fromarray(np.mean([np.asarray(scale) for scale in scales], axis=0).astype(np.uint8))


def test_the_measures_are_of_the_upright_picture_whatever_the_file() -> None:
    picture = scene()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = encoded(picture.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    plain = inspect(encoded(picture))
    assert (inspect(turned).width, plain.width) == (96, 128)
    assert inspect(turned)[4:] == plain[4:]
    luma = np.asarray(picture.convert("L")) / 255
    assert (plain.brightness, plain.contrast) == pytest.approx((luma.mean(), luma.std()))
    assert plain.phash == str(imagehash.phash(picture))
    assert len(plain.phash) == 16


def test_a_copy_in_another_format_and_size_is_near_in_phash_and_another_picture_is_far() -> None:
    def bits(data: bytes) -> int:
        return int(inspect(data).phash, 16)

    here = bits(encoded(scene()))
    near = bits(encoded(scene().resize((64, 48)), "JPEG", quality=60))
    far = bits(encoded(scene(seed=100)))
    assert (here ^ near).bit_count() <= 6
    assert (here ^ far).bit_count() >= 16


def test_a_blurred_picture_is_less_sharp_at_any_size() -> None:
    sharp = Image.fromarray(noise(256, 256))
    blurred = sharp.filter(ImageFilter.GaussianBlur(6))
    assert inspect(encoded(blurred)).sharpness < inspect(encoded(sharp)).sharpness / 20


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ("2024:05:06 07:08:09", "2024-05-06T07:08:09"),
        ("2024:05:06 07:08:09\0", "2024-05-06T07:08:09"),
        ("0000:00:00 00:00:00", ""),
        ("    :  :     :  :  ", ""),
        ("yesterday", ""),
        (None, ""),
    ],
)
def test_when_a_picture_was_taken_is_told_or_left_empty(told: str | None, taken: str) -> None:
    exif = Image.Exif()
    exif[270] = "a picture"
    if told is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = told
    assert inspect(encoded(scene(), "JPEG", exif=exif)).taken == taken


# What is not


def refusal(data: bytes) -> str:
    with pytest.raises(UndecodableError) as caught:
        decode(data)
    assert isinstance(caught.value, DataError)
    assert str(caught.value) == caught.value.reason
    with pytest.raises(UndecodableError) as again:
        inspect(data)
    assert (again.value.reason, again.value.exception) == (caught.value.reason, caught.value.exception)
    return caught.value.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image format"),
        (b"\xff\xd8\xff", "damaged or truncated image"),
        (b"<!DOCTYPE html>\n<HTML><body>404</body></HTML>", "an HTML page, not an image"),
        (encoded(Image.fromarray(noise(64, 64)), "JPEG")[:900], "damaged or truncated image"),
        (encoded(Image.fromarray(noise(64, 64)), "PNG")[:900], "damaged or truncated image"),
        (encoded(Image.fromarray(noise(64, 64)), "BMP")[:900], "damaged or truncated image"),
        (encoded(Image.fromarray(noise(64, 64)), "WEBP")[:900], "damaged or truncated image"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    assert refusal(data) == reason


def png_of(width: int, height: int) -> bytes:
    """Make a PNG whose header promises a picture of this size, and that holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_001, 10_000), (12_000, 12_000), (65_535, 65_535), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_for_its_size_and_before_it_goes_off(size: tuple[int, int]) -> None:
    start = time.perf_counter()
    assert "pixels" in refusal(png_of(*size))
    assert time.perf_counter() - start < 0.5


def test_a_strip_is_refused_before_its_shorter_side_is_stretched() -> None:
    for size in ((1, 50), (100, 2)):
        assert decode(encoded(Image.new("RGB", size))).size == size
    for size in ((1, 51), (9000, 3)):
        assert refusal(encoded(Image.new("RGB", size))) == f"{size[0]}x{size[1]} pixels; a strip, not a picture"


def test_a_file_of_absurd_length_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoded(Image.fromarray(noise()))
    monkeypatch.setattr(decoding, "MAX_BYTES", len(good))
    assert decode(good).size == (7, 9)
    assert refusal(good + b"\0") == f"{len(good) + 1} bytes; at most {len(good)}"


@cache
def specimens() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[ORIENTATION], exif[270] = 6, "a picture"
    colour, alpha = Image.fromarray(noise()), Image.fromarray(noise(channels=4))
    frames = [colour.convert("P"), colour.convert("P").transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    return {
        "png": encoded(colour),
        "png palette": encoded(frames[0], transparency=3),
        "png alpha": encoded(alpha),
        "png deep": encoded(Image.fromarray(noise(channels=1).astype(np.uint16) * 257)),
        "jpeg": encoded(colour, "JPEG", exif=exif),
        "jpeg progressive": encoded(colour, "JPEG", progressive=True),
        "jpeg cmyk": encoded(colour.convert("CMYK"), "JPEG"),
        "gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "bmp": encoded(colour, "BMP"),
        "bmp palette": encoded(frames[0], "BMP"),
        "tiff lzw": encoded(colour, "TIFF", compression="tiff_lzw"),
        "tiff": encoded(colour, "TIFF"),
        "webp": encoded(colour, "WEBP", exif=exif),
        "webp alpha": encoded(alpha, "WEBP", lossless=True),
    }


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a good file and change, remove or insert bytes, in the header more often than in the body."""
    data = bytearray(specimens()[draw(st.sampled_from(sorted(specimens())))])
    for _ in range(draw(st.integers(1, 6))):
        last = len(data) - 1
        at = draw(st.integers(0, min(80, last)) | st.integers(0, last))
        kind = draw(st.sampled_from(["set", "set", "set", "cut", "insert", "end"]))
        if kind == "set":
            data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def ill_typed_exif() -> bytes:
    """Declare a text tag as something else: Pillow's `exif_transpose` rewrites the block and fails in `struct`."""
    data = bytearray(specimens()["jpeg"])
    kind = data.index(b"Exif\0\0") + 17
    assert data[kind - 1 : kind + 3] == bytes([0x01, 0x0E, 0, 2]), "big-endian tag 270, type 2 (text)"
    data[kind] = 0
    return bytes(data)


@settings(max_examples=600, deadline=None)
@given(damaged())
@example(ill_typed_exif())
def test_damaged_bytes_give_an_image_or_a_reason_and_nothing_else(data: bytes) -> None:
    try:
        image = decode(data)
    except UndecodableError as error:
        assert error.reason
        return
    assert image.mode == "RGB"
    assert len(image.tobytes()) == 3 * image.width * image.height <= 3 * decoding.MAX_PIXELS


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"])
)
def test_arbitrary_bytes_give_a_reason(data: bytes, magic: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode(magic + data)


# Reading and working ahead


def test_an_image_is_read_by_its_place_and_checked_by_its_digest(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise()))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(data)
    identity = hashlib.sha256(data).hexdigest()
    assert np.array_equal(np.asarray(read_image(tmp_path, "a/x.png", identity, None)), noise())
    (tmp_path / "a" / "x.png").write_bytes(encoded(Image.fromarray(noise(seed=1))))
    with pytest.raises(IntegrityError, match=r"a/x\.png has changed since ingest"):
        read_image(tmp_path, "a/x.png", identity, None)


@pytest.mark.parametrize("threads", [1, 3])
def test_work_done_in_threads_comes_back_in_order(threads: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item % 5 == 0 else 0)
        return item * item

    assert list(parallel(slow_at_first, range(40), threads)) == [item * item for item in range(40)]


@pytest.mark.parametrize(("threads", "ahead"), [(1, 4), (2, 8), (2, 20)])
def test_work_runs_ahead_a_bounded_stretch_only(threads: int, ahead: int) -> None:
    started, lock = 0, threading.Lock()

    def work(item: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return item

    source = parallel(work, range(1000), threads, ahead)
    for taken in range(1, 51):
        next(source)
        time.sleep(0.001)
        with lock:
            assert taken <= started <= taken + ahead
    source.close()
    assert started <= 50 + ahead + threads


def test_a_failure_in_a_thread_reaches_the_caller_at_its_place() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise UndecodableError("broken", "")
        return item

    seen = []
    with pytest.raises(UndecodableError, match="broken"):
        seen.extend(iter(parallel(work, range(10), 2)))
    source = parallel(work, range(10), 2)
    assert [next(source) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UndecodableError, match="broken"):
        next(source)


@given(st.lists(st.integers()), st.integers(1, 7))
def test_batches_hold_everything_in_order_and_only_the_last_is_short(items: list[int], size: int) -> None:
    found = list(batched(items, size))
    assert [item for batch in found for item in batch] == items
    assert all(len(batch) == size for batch in found[:-1])
    assert all(1 <= len(batch) <= size for batch in found[-1:])
