"""The service under attack, on loopback: `python -m tests.studies.under_attack [SECONDS]`.

`regraft serve` answers in a process of its own, the attackers are processes beside it. While each attack lasts,
`/health` and an honest `/predict` are asked in turn; the table holds their medians, and the most memory that was held.
"""

import base64
import http.client
import io
import itertools
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from tests.bench.serving import picture, service
from tests.registered import inside, make_registered

HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
SIDE = 32


def send(place: str, data: bytes, path: str, kind: str) -> None:
    """Send one body after the other."""
    host, _, port = place.partition(":")
    while True:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        with suppress(OSError, http.client.HTTPException):
            connection.request("POST", path, data, {"Content-Type": kind})
            connection.getresponse().read()
        connection.close()


def pour(place: str, first: bytes, more: bytes, pause: float = 0.0, *, read: bool = True) -> None:
    """Open a connection, send its beginning, and go on with more until it breaks; then open the next."""
    host, _, port = place.partition(":")
    while True:
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(first)
            while more:
                connection.sendall(more)
                time.sleep(pause)
            while read and connection.recv(2**16):
                pass
        time.sleep(0.01)


def rows(count: int, length: int) -> bytes:
    text = base64.b64encode(os.urandom(length)).decode()
    return ('{"instances": [' + ", ".join([f'"{text}"'] * count) + "]}").encode()


def icons() -> bytes:
    """Return 64 icons of 50 megapixels each, of a bit a pixel, as rows."""
    stream = io.BytesIO()
    Image.new("1", (7000, 7000)).save(stream, "PNG")
    png = stream.getvalue()
    icon = b"\0\0\1\0\1\0" + bytes([0, 0, 0, 0, 1, 0, 1, 0]) + len(png).to_bytes(4, "little") + b"\x16\0\0\0" + png
    return ('{"instances": [' + ", ".join([f'"{base64.b64encode(icon).decode()}"'] * 64) + "]}").encode()


def large() -> bytes:
    """Return a picture that takes as long to decode as one of the allowed size may."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (4000, 4000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def attacks() -> Iterator[tuple[str, int, Callable[..., None], tuple[object, ...]]]:
    """Yield the name of each attack, how many processes carry it out, and what each of them does."""
    yield "none", 0, send, ()
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    yield "chunks of one byte, 4 clients", 4, pour, (chunked, b"1\r\nX\r\n" * 20_000)
    yield (
        "20 MiB of nested lists, 2 clients",
        2,
        send,
        (b"[" + b"[]," * 6_900_000 + b"[]]", "/invocations", "application/json"),
    )
    yield "19 MiB of base64 in 64 rows, 2 clients", 2, send, (rows(64, 230_000), "/invocations", "application/json")
    yield "64 icons of 50 megapixels, 2 clients", 2, send, (icons(), "/invocations", "application/json")
    yield "pictures of 16 megapixels, 2 clients", 2, send, (large(), "/predict", "image/jpeg")
    yield "heads that do not end, 4 clients", 4, pour, (HEAD, b"X-A: b\r\n", 0.05)
    many = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000
    yield "20,000 requests unread, 4 clients", 4, pour, (many, many, 0.01)


@contextmanager
def under(place: str, clients: int, attack: Callable[..., None], arguments: tuple[object, ...]) -> Iterator[None]:
    """Attack while the block runs."""
    spawn = multiprocessing.get_context("spawn")
    attackers = [spawn.Process(target=attack, args=(place, *arguments), daemon=True) for _ in range(clients)]
    for attacker in attackers:
        attacker.start()
    time.sleep(3 if clients else 0)  # until they are at it
    yield
    for attacker in attackers:
        attacker.kill()
        attacker.join()


def asked(place: str, method: str, path: str, data: bytes | None = None) -> tuple[float, int]:
    """Return the seconds until an answer and its status; 0 if there is none."""
    start, connection = time.perf_counter(), http.client.HTTPConnection(place, timeout=60)
    status = 0
    with suppress(OSError, http.client.HTTPException):
        connection.request(method, path, data)
        status = connection.getresponse().status
    connection.close()
    return time.perf_counter() - start, status


def measured(place: str, data: bytes, seconds: float) -> dict[str, float]:
    """Ask /health and /predict in turn; return milliseconds, the share of 200, and MiB held by the service."""
    server = next(
        connection.pid and psutil.Process(connection.pid)
        for connection in psutil.net_connections("tcp")
        if connection.status == "LISTEN" and connection.laddr.port == int(place.partition(":")[2])
    )
    end, health, honest, held = time.perf_counter() + seconds, list[tuple[float, int]](), list[tuple[float, int]](), 0
    while time.perf_counter() < end or len(health) < 5:
        health.append(asked(place, "GET", "/health"))
        honest.append(asked(place, "POST", "/predict", data))
        held = max(held, server.memory_info().rss)
    return {
        "/health (ms)": 1000 * float(np.median([taken for taken, _ in health])),
        "longest": 1000 * max(taken for taken, _ in health),
        "/predict (ms)": 1000 * float(np.median([taken for taken, _ in honest])),
        "answered": sum(status == 200 for _, status in itertools.chain(health, honest)) / (len(health) + len(honest)),
        "MiB": held / 2**20,
    }


def table(seconds: float) -> Iterator[str]:
    """Yield the rows of the table in docs/security.md."""
    yield "| attack | `/health`, median, longest | honest `/predict`, median | answered with 200 | memory |"
    yield "|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        project = make_registered(Path(folder) / "project", "glyphnet", SIDE)
        for name, clients, attack, arguments in attacks():  # each meets a fresh service
            with inside(project), service(project) as place, under(place, clients, attack, arguments):
                found = measured(place, picture(SIDE), seconds)
            health = f"{found['/health (ms)']:.0f} ms, {found['longest']:.0f} ms"
            yield (
                f"| {name} | {health} | {found['/predict (ms)']:.0f} ms | {100 * found['answered']:.0f} % | "
                f"{found['MiB']:.0f} MiB |"
            )


if __name__ == "__main__":
    for row in table(float(sys.argv[1]) if sys.argv[1:] else 20.0):
        sys.stdout.write(row + "\n")
        sys.stdout.flush()
