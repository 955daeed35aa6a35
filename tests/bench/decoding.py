"""What the worst files within the limits cost to decode: `python -m tests.bench.decoding` (processor seconds, memory).

Each file is decoded in a process of its own, after a small one: the difference in peak memory is the file's.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from steps.images import containers, decoding
from tests.corpus import PNG, encoded, many_scans

Image.MAX_IMAGE_PIXELS = None  # this script makes what the decoder refuses to trust
SIDE = int(decoding.MAX_PIXELS**0.5)
SLOW = int(decoding.MAX_SLOW_PIXELS**0.5)


def noise(side: int, dtype: type = np.uint8, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (side, side, channels) if channels > 1 else (side, side), dtype)


def photo_like(side: int) -> Image.Image:
    return Image.fromarray(noise(64)).resize((side, side))


WORST: dict[str, Callable[[], bytes]] = {
    "PNG, 100 megapixels": lambda: encoded(Image.new("RGB", (SIDE, SIDE), 9), compress_level=1),
    "PNG with alpha, 100 megapixels": lambda: encoded(Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 99))),
    "PNG of 16-bit grey, 100 megapixels": lambda: encoded(Image.new("I;16", (SIDE, SIDE), 9999)),
    "TIFF of float grey, 8000 x 8000": lambda: encoded(Image.new("F", (8000, 8000), 0.5), "TIFF"),
    "JPEG, 100 megapixels": lambda: encoded(photo_like(SIDE), "JPEG", quality=95),
    "JPEG of 100 scans, 100 megapixels": lambda: many_scans(containers.MAX_SCANS, SIDE),
    "WebP, 9000 x 9000": lambda: encoded(photo_like(9000), "WEBP", quality=80, method=0),
    "AVIF, 9 megapixels of noise": lambda: encoded(noise(3000), "AVIF", quality=80, speed=10),
    "JPEG 2000, 25 megapixels of noise, lossless": lambda: encoded(noise(SLOW), "JPEG2000"),
    "PGM of an odd depth (decoded in Python), 25 megapixels": lambda: (
        b"P5 %d %d 254\n" % (SLOW, SLOW) + bytes(SLOW * SLOW)
    ),
    "GIF, 100 megapixels": lambda: encoded(Image.new("P", (SIDE, SIDE)), "GIF"),
}


def cost(data: bytes) -> tuple[float, float]:
    """Return processor seconds and MiB."""

    def peak() -> float:
        # Not `ru_maxrss`: a process inherits that of the one that started it.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    decoding.inspect(PNG)
    before, start = peak(), time.process_time()
    decoding.inspect(data)
    return time.process_time() - start, peak() - before


def main() -> None:
    """Print a table for docs/data.md; with an argument: the cost of the file on standard input."""
    out = sys.stdout
    if len(sys.argv) > 1:
        out.write("{:.1f} | {:.0f}".format(*cost(sys.stdin.buffer.read())))
        return
    for name, make in WORST.items():
        data = make()
        command = [sys.executable, "-m", "tests.bench.decoding", "one"]
        done = subprocess.run(command, input=data, capture_output=True, check=True)
        out.write(f"| {name} | {len(data) / 2**20:.1f} | {done.stdout.decode()} |\n")
        out.flush()


if __name__ == "__main__":
    main()
