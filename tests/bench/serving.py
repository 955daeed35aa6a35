"""The service under load, on loopback: `python -m tests.bench.serving [--seconds 5] [--clients 4]`.

`regraft serve` runs in a process of its own; the clients are threads of this one, so on two processors they take a part
of what the service could have. The bare forward pass is the same network, in this process, one picture at a time.
"""

import http.client
import io
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from steps.backbones.inference import predict_probabilities
from steps.images import decoding
from steps.images.preprocessing import preprocess
from tests.conftest import BIN
from tests.registered import Registered, inside, make_registered

NETWORKS = {"glyphnet": (32, 32), "resnet18": (224, 500)}  # side of the network's input, of the picture
console = Console()


def picture(side: int) -> bytes:
    """Return a JPEG as photographs are: smooth, with some noise."""
    rng, stream = np.random.default_rng(0), io.BytesIO()
    smooth = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((side, side))
    noisy = np.asarray(smooth, dtype=np.int16) + rng.integers(-9, 9, (side, side, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def seconds_of(work: Callable[[], Any], seconds: float) -> float:
    """Return the median seconds of one call, over as many calls as fit (3 at least)."""
    work()
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 3:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def bare(project: Registered, data: bytes, seconds: float) -> dict[str, float]:
    """Return milliseconds a picture: the forward pass for one, for each of eight at once, and decoding, one thread."""
    torch.set_num_threads(1)
    network, spec = project.networks["1"], project.spec
    one = preprocess(decoding.decode(data), spec)[None]
    eight = one.repeat(8, 1, 1, 1)
    return {
        "forward": 1000 * seconds_of(lambda: predict_probabilities(network, one), seconds),
        "forward, batches of 8": 125 * seconds_of(lambda: predict_probabilities(network, eight), seconds),
        "decode and resize": 1000 * seconds_of(lambda: preprocess(decoding.decode(data), spec), seconds),
    }


@contextmanager
def service(project: Registered) -> Iterator[str]:
    """Run `regraft serve`; yield host and port."""
    command = [str(BIN / "regraft"), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield urlsplit(running.stdout.readline().split()[-1]).netloc
        running.terminate()


class Load:
    """Clients that ask without a pause until told to stop; keeps (moment, seconds, status, version) of each request."""

    def __init__(self, place: str, data: bytes, clients: int) -> None:
        self.place, self.data, self.asked = place, data, list[tuple[float, float, int, bytes]]()
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self.place, timeout=60)
        while not self.stop.is_set():
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict", self.data)
                answer = connection.getresponse()
                status, told = answer.status, answer.read()
            except (OSError, http.client.HTTPException):  # a connection that breaks is a request that failed
                connection.close()
                status, told = 0, b""
            number = told.partition(b'"number":"')[2].partition(b'"')[0]
            self.asked.append((time.perf_counter(), time.perf_counter() - start, status, number))
        connection.close()


def loaded(place: str, data: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Return requests/s and percentiles in milliseconds."""
    with Load(place, data, clients) as load:
        time.sleep(seconds)
    taken = [1000 * duration for _, duration, _, _ in load.asked]
    failed = sum(status != 200 for _, _, status, _ in load.asked)
    return {
        "requests/s": len(taken) / seconds,
        "p50": float(np.percentile(taken, 50)),
        "p99": float(np.percentile(taken, 99)),
        "failed": failed,
    }


def of_bare(figures: dict[str, float], alone: dict[str, float]) -> dict[str, float]:
    """Return requests/s as shares of what all processors could do if they computed nothing but these."""
    per_second = 1000 * (os.cpu_count() or 1)
    both = alone["forward"] + alone["decode and resize"]
    return {
        "of the forward pass": figures["requests/s"] * alone["forward"] / per_second,
        "of decoding and it": figures["requests/s"] * both / per_second,
    }


def followed(project: Registered, place: str, data: bytes, clients: int, times: int) -> dict[str, float]:
    """Move the alias to and fro under load; return seconds until the other version answers, and failed requests."""
    waited: list[float] = []
    with Load(place, data, clients) as load:
        for number in ("2", "1") * times:
            time.sleep(1)
            project.promote(number)
            moved = time.perf_counter()
            while load.asked[-1][3] != number.encode():
                time.sleep(0.01)
            waited.append(time.perf_counter() - moved)
    return {
        "promotions": len(waited),
        "longest": max(waited),
        "median": float(np.median(waited)),
        "requests": len(load.asked),
        "failed": sum(status != 200 for _, _, status, _ in load.asked),
    }


def main(
    seconds: Annotated[float, typer.Option(min=1, max=60, help="Of each measurement.")] = 5.0,
    clients: Annotated[int, typer.Option(min=1, max=64)] = 4,
    networks: Annotated[list[str] | None, typer.Option(help="Of glyphnet and resnet18.")] = None,
) -> None:
    """Measure, and print a table a network."""
    for name in networks or NETWORKS:
        side, photographed = NETWORKS[name]
        data = picture(photographed)
        with tempfile.TemporaryDirectory() as folder:
            project = make_registered(Path(folder) / "project", name, side)
            with inside(project), service(project) as place:
                found = {
                    "one client (ms)": loaded(place, data, 1, seconds),
                    f"{clients} clients (ms)": loaded(place, data, clients, seconds),
                    "promotion under load (s)": followed(project, place, data, clients, 2),
                }
            alone = bare(project, data, seconds / 5)
            shares = {what: of_bare(figures, alone) for what, figures in found.items() if "requests/s" in figures}
            found = {"alone (ms a picture)": alone, **found}
        table = Table("what", "figures", title=f"{name}, {len(data)} bytes of JPEG, {os.cpu_count()} processors")
        for what, figures in found.items():
            told = {**figures, **shares.get(what, {})}
            table.add_row(what, ", ".join(f"{key} {value:.3g}" for key, value in told.items()))
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
