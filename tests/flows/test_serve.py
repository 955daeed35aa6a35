"""`regraft serve` as a person runs it: a process, a signal, an exit code."""

import io
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from steps.adapters.service import Limits
from steps.errors import RequestError
from steps.serve import Place, serve
from tests.conftest import BIN
from tests.registered import Registered, inside

ANY = Limits(body=1, pixels=1, rows=1, waiting=1, workers=1, patience=1)


def slow_picture() -> bytes:
    """Return a JPEG that takes a good part of a second to decode."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def test_sigterm_finishes_what_is_under_way(
    registered_once: Registered, isolated: dict[str, str], tmp_path: Path
) -> None:
    project = registered_once.copy(tmp_path / "project")
    command = [str(BIN / "regraft"), "serve", "--port", "0", "--workers", "1"]
    running = subprocess.Popen(command, cwd=project.root, env=isolated, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        said = running.stdout.readline()
        assert said.startswith("version 1 ("), said
        address, picture = said.split()[-1], slow_picture()
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(httpx.post, address, content=picture, timeout=120) for _ in range(6)]
            latency = address.replace("/predict", "/latency")
            while httpx.get(latency, timeout=60).json()["under_way"] < 6 and not any(one.done() for one in asked):
                pass
            running.send_signal(signal.SIGTERM)
            answers = [one.result() for one in asked]
        assert [answer.status_code for answer in answers] == [200] * 6
        assert running.wait(120) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)
    finally:
        running.kill()
        running.wait()


def test_what_cannot_be_served_is_refused_with_a_sentence(registered_once: Registered) -> None:
    with inside(registered_once) as project:
        for alias, version, sentence in (
            ("champion", "9", "regraft has no version 9"),
            ("winner", None, "no alias 'winner'; it has: champion"),
        ):
            with pytest.raises(RequestError, match=sentence):
                serve(project.root, alias, version, 1, Place("127.0.0.1", 0, 1), ANY, print)


def test_an_address_that_is_taken_is_told_before_anything_is_loaded(
    registered_once: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.serve._follower", lambda *_: pytest.fail("a version was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = f"cannot listen on 127.0.0.1, port {port}: Address already in use; --host and --port"
        with pytest.raises(RequestError, match=sentence):
            serve(registered_once.root, "champion", None, 1, Place("127.0.0.1", port, 1), ANY, print)
