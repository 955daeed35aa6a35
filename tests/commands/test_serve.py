"""`regraft serve` as a person runs it: a process, a signal, an exit code."""

import base64
import io
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from flows import cli
from steps.commands.serve import Place, _bound, _follower, serve
from steps.errors import RequestError
from steps.serving.bodies import ServiceLimits
from steps.serving.served_version import Follower
from tests.conftest import BIN
from tests.registered import Registered, inside

ANY = ServiceLimits(
    body=1, bodies=1, pixels=1, request_pixels=1, rows=1, connections=1, waiting=1, workers=1, patience=1, deadline=1
)


def slow_picture() -> bytes:
    """Return a JPEG that takes a good part of a second to decode."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@contextmanager
def serving(project: Registered, environment: dict[str, str], *options: str) -> Iterator[tuple[Any, str]]:
    """Run `regraft serve` with one worker; yield the process and its address."""
    command = [str(BIN / "regraft"), "serve", "--port", "0", "--workers", "1", *options]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=project.root, env=environment, **pipes) as running:
        try:
            assert running.stdout is not None
            said = running.stdout.readline()
            assert said.startswith("version 1 ("), said
            yield running, said.split()[-1].removesuffix("/predict")
        finally:
            running.kill()


def under_way(address: str) -> int:
    return int(httpx.get(f"{address}/latency", timeout=60).json()["under_way"])


@pytest.fixture(scope="module")
def project(registered_once: Registered, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    return registered_once.copy(tmp_path_factory.mktemp("served") / "project")


def test_sigterm_finishes_what_is_under_way(project: Registered, isolated: dict[str, str]) -> None:
    with serving(project, isolated) as (running, address), ThreadPoolExecutor(6) as pool:
        picture = slow_picture()
        asked = [pool.submit(httpx.post, f"{address}/predict", content=picture, timeout=120) for _ in range(6)]
        while under_way(address) < 6 and not any(one.done() for one in asked):
            pass
        running.send_signal(signal.SIGTERM)
        answers = [one.result() for one in asked]
        assert [answer.status_code for answer in answers] == [200] * 6
        assert running.wait(120) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)


def test_sigterm_does_not_wait_for_what_outlasts_the_grace(project: Registered, isolated: dict[str, str]) -> None:
    """2,000 pictures of 49 million pixels, 8 kB each, are a quarter of an hour for one thread."""
    stream = io.BytesIO()
    Image.new("1", (7000, 7000)).save(stream, "PNG")
    body = json.dumps({"inputs": [base64.b64encode(stream.getvalue()).decode()] * 2000})
    allowed = ["--rows", "2000", "--request-pixels", "100000", "--deadline", "100000", "--body", "100"]
    with serving(project, isolated, *allowed, "--grace", "1") as (running, address), ThreadPoolExecutor(1) as pool:
        kind = {"content-type": "application/json"}
        asked = pool.submit(httpx.post, f"{address}/invocations", content=body, headers=kind, timeout=120)
        while under_way(address) < 1:
            assert not asked.done(), asked.result().text
        running.send_signal(signal.SIGTERM)
        assert asked.result().json()["detail"] == "the service is being stopped"
        assert running.wait(120) == 0
        said = running.stderr.read()
        assert "requests left unfinished: 1; the grace of 1 s was over" in said and "Traceback" not in said


PLANTED = (
    "pyspark",
    "databricks",
    "IPython",
    "dbutils",
    "olefile",
    "defusedxml",
    "win32api",
)  # and more, not installed


def plant(code: Path, ran: Path) -> None:
    """Put modules of names that somebody may ask for where a version's code once was; each tells that it ran."""
    for name in PLANTED:
        (code / name).mkdir(parents=True)
        (code / name / "__init__.py").write_text(f"open({str(ran)!r}, 'a').write('{name} ')\nraise ImportError\n")


def test_what_is_planted_where_a_replaced_version_was_loaded_from_is_never_run(
    project: Registered, isolated: dict[str, str], tmp_path: Path
) -> None:
    """The swaps 1, 2, 1, 2: MLflow asks at each load for libraries that nobody has installed."""
    temporary, ran = tmp_path / "tmp", tmp_path / "ran"
    temporary.mkdir(mode=0o1777)
    places = (project.root / ".regraft/packages", temporary)

    def swap(address: str, number: str) -> set[Path]:
        with inside(project):
            project.promote(number)
        while httpx.get(f"{address}/version").json()["version"]["number"] != number:
            time.sleep(0.05)
        httpx.post(f"{address}/predict", content=project.pictures[0].read_bytes()).raise_for_status()
        return {code for place in places for code in place.glob("regraft-*/*/code")}

    with serving(project, {**isolated, "TMPDIR": str(temporary)}, "--every", "0.1") as (_, address):
        second, third = swap(address, "2"), swap(address, "1")
        gone = [code for code in second if code not in third]
        assert gone
        for code in gone:
            plant(code, ran)
        swap(address, "2")
        left = swap(address, "1") - {*gone}
        assert not ran.exists(), f"code of others ran: {ran.read_text()}"
        assert len(left) == 1, "a version that no longer answers holds its folder"
        assert not [*temporary.glob("regraft-*")]


def test_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY where the protocol is named; without it the client's delayed ACK holds each answer."""
    with _bound("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_it_asks_where_the_alias_stands_every_second() -> None:
    assert signature(cli.serve).parameters["every"].default <= 1


def test_what_cannot_be_served_is_refused_with_a_sentence(registered_once: Registered) -> None:
    with inside(registered_once) as project:
        for alias, version, sentence in (
            ("champion", "9", "regraft has no version 9"),
            ("winner", None, "no alias 'winner'; it has: champion"),
        ):
            with pytest.raises(RequestError, match=sentence):
                serve(project.root, alias, version, 1, Place("127.0.0.1", 0, 1, ""), ANY, print)


def test_an_address_that_is_taken_is_told_before_anything_is_loaded(
    registered_once: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.commands.serve._follower", lambda *_: pytest.fail("a version was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = f"cannot listen on 127.0.0.1, port {port}: Address already in use; --host and --port"
        with pytest.raises(RequestError, match=sentence):
            serve(registered_once.root, "champion", None, 1, Place("127.0.0.1", port, 1, ""), ANY, print)


def test_an_address_that_another_service_takes_during_the_loading_is_told(
    registered_once: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two may be bound to one address for as long as neither listens."""
    with _bound("127.0.0.1", 0) as other, inside(registered_once) as project:

        def overtaken(*told: Any) -> Follower:
            other.listen()
            return _follower(*told)

        monkeypatch.setattr("steps.commands.serve._follower", overtaken)
        port = other.getsockname()[1]
        with pytest.raises(RequestError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use"):
            serve(project.root, "champion", None, 1, Place("127.0.0.1", port, 1, ""), ANY, print)


def test_a_host_that_is_no_name_is_told() -> None:
    with pytest.raises(RequestError, match=r"cannot listen on \.\.: it is not the name of a host; --host"):
        _bound("..", 0)
