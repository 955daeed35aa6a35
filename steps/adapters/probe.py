"""One fixed picture that tells whether decoder, preprocessing and backbone still compute what they once did."""

import base64
import hashlib

import numpy as np
import numpy.typing as npt

from steps.adapters.images import decode
from steps.core.forward import Forward
from steps.core.preprocessing import Preprocessing, preprocess

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


def probe(forward: Forward, spec: Preprocessing) -> dict[str, tuple[str, int]]:
    """Return for each cut the digest of what becomes of the fixed picture, and the width of the features.

    A version number would have to be raised by hand when a library or a line of code changes results; this cannot be
    forgotten.
    """
    pixels = preprocess(decode(PICTURE), spec)
    found = forward.uncompiled(pixels[None])
    return {cut: (_digest(pixels.numpy(), rows), rows.shape[1]) for cut, rows in found.items()}


def _digest(*arrays: npt.NDArray[np.float32]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
