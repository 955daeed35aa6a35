"""HEIC is read where the extra `heif` is installed, within the limits of every picture; elsewhere it is named."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from steps.errors import UndecodableError
from steps.images import decoding
from steps.images.file_kinds import DAMAGED, HEIC, OTHER_FORMAT, kind_of, reason_of

SIZE = (96, 64)


def picture() -> Image.Image:
    """Return a picture whose quarters differ: red, black, black, blue."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[: SIZE[1] // 2, : SIZE[0] // 2, 0] = 255
    pixels[SIZE[1] // 2 :, SIZE[0] // 2 :, 2] = 255
    return Image.fromarray(pixels)


def heic(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "HEIF", quality=90, **options)
    return buffer.getvalue()


def orientation(turn: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    return exif.tobytes()


def announced(width: int, height: int) -> bytes:
    """Return a small file whose header announces a picture of this size."""
    data = bytearray(heic(picture()))
    start = data.find(b"ispe") + 8
    data[start : start + 8] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


# what the file holds, and the picture that is to be seen
READ = {
    "plain": (heic(picture()), picture()),
    "grey": (heic(picture().convert("L")), picture().convert("L").convert("RGB")),
    "turned by a quarter": (heic(picture(), exif=orientation(6)), picture().transpose(Image.Transpose.ROTATE_270)),
    "mirrored": (heic(picture(), exif=orientation(2)), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "several, the second is the primary one": (
        heic(Image.new("RGB", (32, 32)), save_all=True, append_images=[picture()], primary_index=1),
        picture(),
    ),
    "transparent": (heic(Image.new("RGBA", SIZE, (255, 0, 0, 0))), Image.new("RGB", SIZE, "white")),
}


@pytest.mark.parametrize("name", READ)
def test_heic_is_read_upright(name: str) -> None:
    data, expected = READ[name]
    seen = decoding.decode(data)
    assert (seen.mode, seen.size) == ("RGB", expected.size)
    assert np.abs(np.asarray(seen, float) - np.asarray(expected, float)).mean() < 4  # the codec is lossy
    assert decoding.inspect(data).format == decoding.HEIF


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (announced(20_000, 20_000), "too many pixels; at most 100000000 in all"),
        (announced(12_000, 9_000), "12000x9000 pixels; at most 100000000 in all"),
        (announced(96, 9_000), "96x9000 pixels; a strip, not a picture"),
        (heic(picture())[:-5], "damaged or truncated image"),
        (heic(picture())[:100], "damaged or truncated image"),
        (b"\0\0\0\x18ftypheic", "damaged or truncated image"),
    ],
)
def test_the_limits_of_every_picture_hold_and_damage_is_called_damage(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableError) as caught:
        decoding.decode(data)
    assert caught.value.reason == reason
    assert kind_of("a.bin", data)[0] == DAMAGED


def test_without_the_extra_heic_is_named_with_both_ways_out() -> None:
    script = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from steps.errors import UndecodableError\n"
        "from steps.images import decoding, file_kinds\n"
        "data = sys.stdin.buffer.read()\n"
        "try:\n    decoding.decode(data)\n"
        "except UndecodableError as error:\n    print(file_kinds.kind_of('a.jpg', data)[0], error.reason, sep=': ')"
    )
    done = subprocess.run([sys.executable, "-c", script], input=heic(picture()), capture_output=True, check=True)
    assert done.stdout.decode().strip() == f"{OTHER_FORMAT}: {reason_of(HEIC)}"
    assert "`heif-convert FILE FILE.jpg`" in reason_of(HEIC) and "`pip install --editable '.[heif]'`" in reason_of(HEIC)
