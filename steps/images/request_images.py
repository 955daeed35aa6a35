"""Images in requests: the bytes of an image file, their base64 text, a path, or decoded pixels."""

import base64
import binascii
import os
from pathlib import Path

import numpy as np
from PIL import Image

from steps.errors import UndecodableError
from steps.images import decoding


def picture(value: object, paths: bool, grey_bits: int | None) -> Image.Image:
    """Return the RGB image of one row of a request; raises UndecodableError with the reason if there is none.

    bytes: an image file, or base64 of one. str: base64 if its letters and length allow it, otherwise a path (a name
    with a dot is never base64). A path object is a path. uint8 [height, width, 3]: RGB pixels. The decoder's bounds
    on bytes and pixels hold for all of them. `paths` False refuses paths: what comes over a network must not choose
    files of this machine. `grey_bits` is the depth of the deep grey that the model has learnt from: larger values are
    clipped to white.
    """
    if isinstance(value, np.ndarray):
        return decoding.of_pixels(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return decoding.decode(_from_base64(data) or data, grey_bits)
    if isinstance(value, str) and (decoded := _from_base64(value.encode())) is not None:
        return decoding.decode(decoded, grey_bits)
    if isinstance(value, str | os.PathLike):
        return decoding.decode(_read(Path(value), paths), grey_bits)
    raise UndecodableError(
        f"{type(value).__name__}; expected bytes, base64 text, a path, or uint8 [height, width, 3]", ""
    )


def _from_base64(text: bytes) -> bytes | None:
    """Decode base64, with or without line breaks; None if it is something else."""
    try:
        return base64.b64decode(text.translate(None, b"\r\n"), validate=True)
    except binascii.Error:
        return None


def _read(path: Path, paths: bool) -> bytes:
    if not paths:
        raise UndecodableError("text that is no base64; a server reads no paths", "")
    try:
        return decoding.read_bytes(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL inside
        reason = getattr(error, "strerror", None) or error
        raise UndecodableError(f"{str(path)[:200]!r} is neither base64 nor a file: {reason}", "") from None
