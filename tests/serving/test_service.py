"""The service over real HTTP: a real uvicorn, a real SQLite registry, packages that were really saved."""

import base64
import gc
import io
import json
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from steps.errors import RegistryError
from steps.registry import tracking
from steps.registry.model_registry import Registry
from steps.registry.production import Production, aliased
from steps.runtime import files
from steps.serving import served_version
from steps.serving.bodies import ServiceLimits
from steps.serving.served_version import Follower, Served
from steps.serving.server import configured
from steps.serving.service import Service, application
from tests.conftest import free_port
from tests.packaged import CLASSES
from tests.registered import ABSTAIN_BELOW, NAME, Registered, inside, other

LIMITS: dict[str, Any] = {
    "body": 100_000,
    "bodies": 1_000_000,
    "pixels": 10_000,
    "request_pixels": 30_000,
    "rows": 4,
    "connections": 100,
    "waiting": 16,
    "workers": 2,
    "patience": 60.0,
    "deadline": 60.0,
}


def until(there: Callable[[], bool]) -> None:
    """Wait for what has to come; a busy machine may take its time."""
    end = time.monotonic() + 120
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@contextmanager
def serving(follower: Follower, **limits: Any) -> Iterator[str]:
    """Run the app in a thread; yield its address."""
    port, kept = free_port(), ServiceLimits(**{**LIMITS, **limits})
    server = uvicorn.Server(configured(application(Service(follower, kept)), kept, 60, port=port))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def new_follower(every: float = 3600) -> Follower:
    """Return one that follows the champion; every hour, unless a test wants to see it."""
    registry = Registry(files.project_root(), NAME)
    load, production = partial(served_version.load, registry), Production(registry)
    return Follower(load("1"), production.named, load, every)


@pytest.fixture(scope="module")
def project(registered_once: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    with inside(registered_once.copy(tmp_path_factory.mktemp("service") / "project")) as copied:
        yield copied


@pytest.fixture
def follower(project: Registered) -> Iterator[Follower]:
    project.promote("1")
    yield new_follower()
    project.promote("1")


@pytest.fixture(scope="module")
def client(project: Registered) -> Iterator[httpx.Client]:
    with serving(new_follower()) as address, httpx.Client(base_url=address, timeout=60) as made:
        yield made


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def rows(picture: bytes, count: int) -> bytes:
    return json.dumps({"inputs": [base64.b64encode(picture).decode()] * count}).encode()


@dataclass(frozen=True)
class Slow(Served):
    """A version that answers when it is let, and keeps what it was asked."""

    let: threading.Event = field(default_factory=threading.Event)
    asked: list[bytes] = field(default_factory=list)

    def answer(self, picture: bytes) -> dict[str, Any]:
        self.asked.append(picture)
        assert self.let.wait(120)
        return super().answer(picture)


@pytest.fixture
def slow(follower: Follower) -> Iterator[Slow]:
    """Let the follower's version be one that answers when it is let."""
    made = Slow(follower.current.package)
    follower.current = made
    yield made
    made.let.set()


def test_bytes_get_the_probabilities_of_evaluation(project: Registered, client: httpx.Client) -> None:
    for path, expected in zip(project.pictures, project.evaluated("1", project.pictures), strict=True):
        told = client.post("/predict", content=path.read_bytes()).json()
        assert [*told["probabilities"]] == CLASSES
        assert [*told["probabilities"].values()] == pytest.approx(expected, abs=1e-5)
        assert told["label"] == CLASSES[expected.index(max(expected))]
        assert told["probability"] == told["probabilities"][told["label"]]
        assert told["abstain"] is (told["probability"] < ABSTAIN_BELOW)
        assert told["version"]["number"] == "1" and len(told["version"]["digest"]) == 64


def test_a_picture_of_something_else_is_unfamiliar_and_counted(
    project: Registered, client: httpx.Client, tmp_path: Path
) -> None:
    def counted(name: str) -> float:
        return float(re.search(rf"^regraft_{name}_total (\S+)$", client.get("/metrics").text, re.MULTILINE)[1])

    asked = {project.pictures[0]: False, other(tmp_path / "other.png"): True}
    before = counted("pictures"), counted("unfamiliar")
    for path, unfamiliar in asked.items():
        assert client.post("/predict", content=path.read_bytes()).json()["unfamiliar"] is unfamiliar
        (row,) = client.post("/invocations", json={"inputs": [encoded(path)]}).json()["predictions"]
        assert row["unfamiliar"] is unfamiliar
    assert (counted("pictures"), counted("unfamiliar")) == (before[0] + 4, before[1] + 2)


def test_invocations_answers_in_every_form_as_predict_does(project: Registered, client: httpx.Client) -> None:
    some = project.pictures[:3]
    expected = [[*client.post("/predict", content=p.read_bytes()).json()["probabilities"].values()] for p in some]
    texts = [encoded(path) for path in some]
    for document in (
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}},
        {"dataframe_records": [{"image": text} for text in texts]},
        {"inputs": {"image": texts}},
        {"instances": [{"image": text} for text in texts]},
    ):
        told = client.post("/invocations", json=document).json()["predictions"]
        assert [row["probabilities"] for row in told] == expected, document.keys()
    raw = client.post("/invocations", content=some[0].read_bytes(), headers={"content-type": "image/png"})
    assert [row["probabilities"] for row in raw.json()["predictions"]] == expected[:1]


GOOD_JSON = {"content-type": "application/json; charset=UTF-8"}
BAD: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("/predict", b"", {}, 400, "the body is empty"),
    ("/predict", b"no picture", {}, 400, "not an image format"),
    ("/predict", b"<html>not found</html>", {"content-type": "image/jpeg"}, 400, "an HTML page, not an image"),
    ("/predict", png(64, 64)[:60], {}, 400, "damaged or truncated image"),
    ("/predict", base64.b64encode(png(8, 8)), {}, 400, "not an image format"),
    ("/predict", png(101, 100), {}, 422, "101x100 pixels; at most 10000 in all"),
    ("/predict", png(90, 1), {}, 400, "a strip, not a picture"),
    ("/predict", bytes(100_001), {}, 413, "a body of 100001 bytes or more; at most 100000"),
    ("/predict", b"{}", {"content-type": "application/json"}, 415, "application/json is not an image"),
    ("/predict", b"--x", {"content-type": "multipart/form-data; boundary=x"}, 400, "a form with 0 files"),
    ("/predict", b"x", {"content-type": "multipart/form-data; boundary=x"}, 400, "the body is not a form"),
    ("/predict", b"--x", {"content-type": "multipart/form-data"}, 415, "without a boundary"),
    ("/predict", b"x", {"content-type": "text/plain"}, 415, "curl --data-binary @photo.jpg"),
    ("/predict", b"\x1f\x8b", {"content-encoding": "gzip"}, 415, "content-encoding gzip"),
    ("/invocations", b"x", {}, 415, "no content type; expected application/json, or image/..."),
    ("/invocations", b"image\nAA==", {"content-type": "text/csv"}, 415, "text/csv; expected application/json"),
    ("/invocations", b"{}", {"content-type": "application/json; charset=latin-1"}, 415, "JSON is read as UTF-8"),
    ("/invocations", b"{", GOOD_JSON, 400, "the body is not JSON"),
    ("/invocations", b"\xff\xfe", GOOD_JSON, 400, "the body is not JSON"),
    ("/invocations", b"[" * 90_000, GOOD_JSON, 400, "JSON of 90000 lists"),
    ("/invocations", b'{"inputs": ["AA=="]}', GOOD_JSON, 400, "row 0: not an image format"),
    ("/invocations", b'{"inputs": ["/etc/crontab"]}', GOOD_JSON, 400, "row 0: not an image format"),  # it is base64
    ("/invocations", b'{"inputs": ["../x.png"]}', GOOD_JSON, 400, "row 0: '../x.png' is no base64 text"),
    ("/invocations", b'{"inputs": ["A", "A", "A", "A", "A"]}', GOOD_JSON, 400, "row 0: 'A' is no base64 text"),
    ("/invocations", b'{"inputs": ["", "", "", "", ""]}', GOOD_JSON, 413, "5 rows; at most 4 in one request"),
    ("/invocations", png(101, 100), {"content-type": "image/png"}, 422, "101x100 pixels"),
    ("/invocations", rows(png(100, 90), 4), GOOD_JSON, 422, "36000 pixels in 4 pictures; at most 30000 in one request"),
]


@pytest.mark.parametrize(("path", "body", "headers", "status", "sentence"), BAD)
def test_bad_input_gets_a_status_and_a_sentence(
    client: httpx.Client, path: str, body: bytes, headers: dict[str, str], status: int, sentence: str
) -> None:
    told = client.post(path, content=body, headers=headers)
    assert (told.status_code, sentence in told.json()["detail"]) == (status, True), told.text


@pytest.mark.parametrize(
    ("method", "path", "wanted", "how"),
    [
        ("GET", "/predict", "POST", "send a picture's bytes as the body: curl --data-binary @photo.jpg"),
        ("PUT", "/invocations", "POST", "send JSON with base64 pictures"),
        ("POST", "/version", "GET, HEAD", ""),
    ],
)
def test_another_method_is_told_which_one_and_what_to_send(
    client: httpx.Client, method: str, path: str, wanted: str, how: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, wanted)
    assert answer.json()["detail"].startswith(f"{method} {path} is not answered, {wanted} is{'; ' * bool(how)}{how}")


def test_a_row_that_is_no_picture_is_named(project: Registered, client: httpx.Client) -> None:
    texts = [encoded(project.pictures[0]), base64.b64encode(png(101, 100)).decode()]
    told = client.post("/invocations", json={"inputs": texts})
    assert (told.status_code, told.json()["detail"]) == (422, "row 1: 101x100 pixels; at most 10000 in all")


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_long(client: httpx.Client) -> None:
    told = client.post("/predict", content=(bytes(10_000) for _ in range(30)))
    assert (told.status_code, "at most 100000" in told.text) == (413, True)


@settings(max_examples=150)
@given(
    st.sampled_from(["/predict", "/invocations"]),
    st.sampled_from(["", "image/png", "application/json", "text/plain", "a/b; c=d"]),
    st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: png(8, 8)[:60] + tail),
)
def test_no_body_brings_it_down(client: httpx.Client, path: str, kind: str, body: bytes) -> None:
    told = client.post(path, content=body, headers={"content-type": kind} if kind else {})
    assert told.status_code == 200 or (told.status_code in (400, 413, 415, 422) and told.json()["detail"]), told.text


def connected(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=120)


def hanging(address: str, announced: int = 5, sent: bytes = b"") -> socket.socket:
    """Announce a body and send none of it, or not all."""
    opened = connected(address)
    opened.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % announced + sent)
    return opened


def read_answer(opened: socket.socket) -> bytes:
    """Read until the end of a JSON object."""
    told = b""
    while not told.endswith(b"}"):
        part = opened.recv(1000)
        assert part, told
        told += part
    return told


def is_closed(opened: socket.socket, dribbled: bytes) -> bool:
    """Wait until the other side has closed, sending a byte now and then; False where it waits for many of them."""
    opened.settimeout(0.02)
    for _ in range(3000):
        try:
            opened.sendall(dribbled)
            return opened.recv(1) == b""
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


def now(address: str, what: str) -> int:
    return int(httpx.get(f"{address}/latency", timeout=60).json()[what])


def test_one_request_too_many_is_told_to_come_back(follower: Follower, slow: Slow) -> None:
    with serving(follower, waiting=2) as address, ThreadPoolExecutor(2) as pool:
        ask = partial(httpx.post, f"{address}/predict", content=png(8, 8), timeout=120)
        seated = [pool.submit(ask) for _ in range(2)]
        until(lambda: now(address, "under_way") == 2)
        refused = ask()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["detail"] == "2 requests are under way already"
        assert httpx.get(f"{address}/health").status_code == 200
        slow.let.set()
        assert [one.result().status_code for one in seated] == [200, 200]
        assert ask().status_code == 200


def test_who_announces_a_body_and_sends_none_takes_no_seat(follower: Follower) -> None:
    with serving(follower, waiting=1) as address, ExitStack() as opened:
        silent = [opened.enter_context(hanging(address)) for _ in range(5)]
        until(lambda: now(address, "reading") == 5)
        assert now(address, "under_way") == 0
        assert httpx.post(f"{address}/predict", content=png(8, 8)).status_code == 200
        silent[0].sendall(b"12345")
        assert silent[0].recv(12) == b"HTTP/1.1 400", "it was answered when its body came"


def test_bodies_that_are_still_coming_in_are_bounded_in_bytes(follower: Follower) -> None:
    with serving(follower, bodies=50_000) as address:
        with hanging(address, 46_000, bytes(45_000)):
            until(lambda: now(address, "held_bytes") == 45_000)
            refused = httpx.post(f"{address}/predict", content=bytes(10_000))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["detail"] == "the requests under way hold 50000 bytes already"
            assert httpx.post(f"{address}/predict", content=png(8, 8)).status_code == 200
        until(lambda: now(address, "held_bytes") == 0)


def test_a_body_that_does_not_come_is_given_up(follower: Follower) -> None:
    with serving(follower, patience=0.2) as address, hanging(address) as opened:
        assert opened.recv(12) == b"HTTP/1.1 408"


@pytest.mark.parametrize("begun", [b"", b"POST /predict HTTP/1.1\r\nX-Slow: "])
def test_headers_that_do_not_come_are_given_up(follower: Follower, begun: bytes) -> None:
    """Also those that come byte by byte, which uvicorn takes for news each time."""
    with serving(follower, patience=0.5) as address, connected(address) as opened:
        opened.sendall(begun)
        assert is_closed(opened, begun[:1])


def test_what_is_left_of_a_refused_body_is_not_waited_for(follower: Follower) -> None:
    with serving(follower, patience=0.5) as address, hanging(address, 200_000) as opened:
        assert b"at most 100000" in read_answer(opened)
        assert is_closed(opened, b"x")


def test_a_head_that_does_not_end_is_refused(follower: Follower) -> None:
    with serving(follower) as address, connected(address) as opened:
        opened.sendall(b"GET /health HTTP/1.1\r\nX: ")
        assert floods(opened, bytes(20_000).replace(b"\0", b"x"), 100)
        assert is_answered(address)


def floods(opened: socket.socket, part: bytes, times: int) -> bool:
    """Send the part again and again; return whether the other side hung up."""
    try:
        for _ in range(times):
            opened.sendall(part)
            time.sleep(0.002)
    except OSError:
        return True
    return is_closed(opened, b"")


def test_a_body_in_chunks_of_a_byte_is_refused(follower: Follower) -> None:
    begin = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(follower) as address, connected(address) as opened:
        opened.sendall(begin)
        assert floods(opened, b"1\r\nX\r\n" * 5000, 20)
        assert is_answered(address)


def test_trailers_are_bounded_like_a_head(follower: Follower) -> None:
    begin = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nX\r\n0\r\n"
    with serving(follower) as address, connected(address) as opened:
        opened.sendall(begin)
        assert floods(opened, b"X-More: " + b"x" * 5000 + b"\r\n", 100)


def test_who_asks_and_never_reads_loses_the_connection(follower: Follower) -> None:
    """Pipelined requests whose answers nobody reads: each would hold one of the connections for good."""
    with serving(follower, patience=0.5, connections=3) as address, ExitStack() as opened:
        for _ in range(2):
            deaf = opened.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.connect(("127.0.0.1", int(address.rpartition(":")[2])))
            deaf.settimeout(0.2)
            with suppress(OSError):
                for _ in range(500):
                    deaf.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        until(lambda: answers_all(address, 3))


def answers_all(address: str, count: int) -> bool:
    """Return whether as many connections as may be open are answered at one time."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(connected(address)) for _ in range(count)]
        for one in sockets:
            one.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            return all(one.recv(12) == b"HTTP/1.1 200" for one in sockets)
        except OSError:
            return False


def test_what_is_no_http_is_refused_in_json(follower: Follower) -> None:
    with serving(follower) as address, connected(address) as opened:
        opened.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
        assert read_answer(opened).endswith(b'{"detail": "this is not an HTTP request"}')


@pytest.mark.parametrize(
    ("head", "parts", "status"),
    [
        ("POST /predict HTTP/1.1\r\nContent-Length: {length}", ["{body}"], 200),
        ("POST /predict HTTP/1.1\r\nContent-Length: {length}", ["", "{body}"], 200),
        ("POST /predict HTTP/1.0\r\nContent-Length: {length}", ["{body}"], 200),
        ("POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked", ["", "{length:x}\r\n{body}\r\n0\r\n\r\n"], 200),
        ("POST /predict HTTP/1.1\r\nContent-Length: 200000", [""], 413),
        ("GET /health HTTP/1.1", [""], 200),
        ("CONNECT a:1 HTTP/1.1", [""], 400),
    ],
)
def test_who_wishes_for_another_protocol_is_answered_in_this(
    follower: Follower, head: str, parts: list[str], status: int
) -> None:
    """Java's own client asks for HTTP/2 with each request, and goes on in HTTP/1.1 if the server ignores it."""
    picture, wish = png(8, 8), "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
    words = {"length": len(picture), "body": picture.decode("latin-1")}
    with serving(follower) as address, connected(address) as opened:
        for _ in range(2 if status == 200 and "1.1" in head else 1):  # the next one finds the connection as it was
            opened.sendall(f"{head}\r\n{wish}\r\n\r\n{parts[0]}".format(**words).encode("latin-1"))
            for part in parts[1:]:
                time.sleep(0.05)
                opened.sendall(part.format(**words).encode("latin-1"))
            assert read_answer(opened).startswith(b"HTTP/1.1 %d" % status)


def test_wishes_by_the_thousand_in_one_piece_are_answered(follower: Follower) -> None:
    with serving(follower) as address, connected(address) as opened:
        opened.sendall(b"GET /ping HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 2000)
        answered = 0
        while answered < 2000:
            part = opened.recv(2**20)
            assert part, f"hung up after {answered} answers"
            answered += part.count(b"HTTP/1.1 200")


def test_a_form_is_answered_as_its_picture_is(project: Registered, client: httpx.Client) -> None:
    path = project.pictures[0]
    form = {"file": ("a picture.png", path.read_bytes(), "image/png")}
    expected = client.post("/predict", content=path.read_bytes()).json()
    for beside in ({"note": "x"}, {"filename": "a picture.png"}, {"note": "x; filename"}):
        assert client.post("/predict", files=form, data=beside).json() == expected
    unused = {"second": ("", b"", "application/octet-stream")}  # as a browser sends a field that nobody filled
    assert client.post("/predict", files=form | unused).json() == expected


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([("a", ("a.png", b"x")), ("b", ("b.png", b"x"))], "a form with 2 files"),
        ([(f"a{i}", (None, b"x")) for i in range(17)], "more than 16 fields"),
    ],
)
def test_a_form_of_several_files_is_refused(client: httpx.Client, files: Any, sentence: str) -> None:
    refused = client.post("/predict", files=files)
    assert (refused.status_code, sentence in refused.json()["detail"]) == (400, True)


def test_probes_may_ask_with_head(client: httpx.Client) -> None:
    assert [client.head(path).status_code for path in ("/health", "/ping", "/version")] == [200] * 3


def test_a_version_that_fails_is_answered_in_json(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Served, __: bytes) -> Any:
        raise RegistryError("version 1 failed")

    monkeypatch.setattr(Served, "answer", fail)
    with serving(follower) as address:
        refused = httpx.post(f"{address}/predict", content=png(8, 8))
        assert (refused.status_code, "log has the reason" in refused.json()["detail"]) == (500, True)


def test_one_connection_too_many_is_turned_away(follower: Follower) -> None:
    with serving(follower, connections=2) as address, connected(address) as one, connected(address):
        with connected(address) as third:
            told = read_answer(third)
            assert told.startswith(b"HTTP/1.1 503 ") and b"too many connections are open already" in told
            assert third.recv(1) == b""
        one.close()
        until(lambda: is_answered(address))


def is_answered(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_a_client_that_leaves_takes_nothing_with_it(follower: Follower) -> None:
    with serving(follower, waiting=1) as address:
        with hanging(address, 100, b"1234"):
            until(lambda: now(address, "held_bytes") == 4)
        until(lambda: now(address, "reading") == 0)
        assert now(address, "held_bytes") == 0
        assert httpx.post(f"{address}/predict", content=png(8, 8)).status_code == 200


def test_a_request_of_too_many_pixels_is_refused_before_any_is_decoded(follower: Follower, slow: Slow) -> None:
    with serving(follower) as address:
        told = httpx.post(f"{address}/invocations", content=rows(png(100, 90), 4), headers=GOOD_JSON, timeout=60)
    assert (told.status_code, slow.asked) == (422, [])


def test_a_request_whose_time_is_over_is_given_up_between_two_pictures(follower: Follower, slow: Slow) -> None:
    with serving(follower, workers=1, deadline=0.2) as address, ThreadPoolExecutor(2) as pool:
        ask = partial(httpx.post, f"{address}/invocations", headers=GOOD_JSON, timeout=120)
        first = pool.submit(ask, content=rows(png(8, 8), 3))
        until(lambda: len(slow.asked) == 1)
        queued = pool.submit(ask, content=rows(png(9, 9), 2))
        until(lambda: now(address, "under_way") == 2)
        time.sleep(0.3)  # both are late from here on
        slow.let.set()
        answers = [one.result() for one in (first, queued)]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert answers[0].json()["detail"].startswith("1 of 3 pictures were answered in the 0.2 s that a request has")
    assert answers[1].json()["detail"].startswith("0 of 2 pictures were answered")
    assert slow.asked == [png(8, 8)]


def test_when_the_grace_is_over_who_waits_is_told_and_what_is_computed_is_left(follower: Follower, slow: Slow) -> None:
    kept = ServiceLimits(**{**LIMITS, "workers": 1})
    service, port = Service(follower, kept), free_port()
    server = uvicorn.Server(configured(application(service), kept, 0, port=port))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    with ThreadPoolExecutor(2) as pool:
        ask = partial(httpx.post, f"http://127.0.0.1:{port}/predict", content=png(8, 8), timeout=120)
        asked = [pool.submit(ask) for _ in range(2)]
        until(lambda: len(service.seated) == 2)
        server.should_exit = True
        answers = [one.result() for one in asked]
    thread.join()
    assert [(one.status_code, one.json()["detail"]) for one in answers] == [(503, "the service is being stopped")] * 2
    assert (len(slow.asked), len(service.seated)) == (1, 1), "one in a thread's hands, and none begun since"


def test_the_first_look_after_the_alias_has_moved_swaps(project: Registered, follower: Follower) -> None:
    """Together with the default of --every this is what makes it follow within seconds."""
    follower.look()
    assert follower.current.number == "1"
    project.promote("2")
    follower.look()
    assert follower.current.number == "2"


def test_a_promotion_under_load_fails_no_request(project: Registered, follower: Follower) -> None:
    """Each answer is that of the version which it names."""
    path = project.pictures[0]
    expected = {number: project.evaluated(number, [path])[0] for number in ("1", "2")}
    follower._every = 0.1
    seen: list[dict[str, Any]] = []

    def ask(client: httpx.Client) -> bool:
        told = client.post("/predict", content=path.read_bytes())
        assert told.status_code == 200, told.text
        seen.append(told.json())
        return told.json()["version"]["number"] == "2"

    def keep_asking(address: str) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            until(lambda: ask(client))

    with serving(follower) as address, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(keep_asking, address) for _ in range(4)]
        until(lambda: len(seen) > 8)
        project.promote("2")
        for one in asked:
            one.result()
    for told in seen:
        assert [*told["probabilities"].values()] == pytest.approx(expected[told["version"]["number"]], abs=1e-5)
    assert {told["version"]["number"] for told in seen} == {"1", "2"}


def test_a_version_that_cannot_be_served_leaves_the_old_one_answering(project: Registered, follower: Follower) -> None:
    project.promote("3")
    with serving(follower) as address:
        follower.look()
        told = httpx.get(f"{address}/health")
        assert (told.status_code, told.json()["status"], told.json()["version"]["number"]) == (200, "degraded", "1")
        assert told.json()["problem"].startswith(
            "version 3 cannot be served: version 3 of regraft is not what was signed"
        )
        assert httpx.post(f"{address}/predict", content=png(8, 8)).status_code == 200
        project.promote("2")
        follower.look()
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        assert httpx.get(f"{address}/version").json()["version"]["number"] == "2"


def test_a_version_that_failed_is_not_loaded_again_at_every_look(project: Registered, follower: Follower) -> None:
    project.promote("3")
    follower.look()
    told, follower._load = follower.problem, lambda number: pytest.fail(f"{number} was loaded again")
    follower.look()
    assert follower.problem == told


def test_an_alias_that_was_moved_by_hand_is_told_and_not_followed(project: Registered, follower: Follower) -> None:
    for number, stands in (("2", "on version 2"), (None, "nowhere")):
        project.point(number)
        follower.look()
        told = f"the alias champion stands {stands}, the ledger names version 1, which answers"
        assert (follower.current.number, follower.problem) == ("1", told)
    project.point("1")
    follower.look()
    assert follower.problem == ""


def test_another_alias_is_followed_as_it_stands(project: Registered, follower: Follower) -> None:
    follower._find = partial(aliased, project.registry, "nightly")
    follower.look()
    assert (follower.current.number, follower.problem) == ("1", "the alias nightly names no version any more")
    project.registry.point("nightly", "2")
    follower.look()
    project.registry.point("nightly", None)
    assert (follower.current.number, follower.problem) == ("2", "")


def test_a_registry_that_does_not_answer_is_told(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nobody = Registry(files.project_root(), NAME)
    nobody.client = tracking.Client(MlflowClient(f"http://127.0.0.1:{free_port()}"))  # type: ignore[assignment]
    follower._find = Production(nobody).named
    follower.look()
    assert follower.current.number == "1"
    assert follower.problem.startswith("MLflow at ") and " does not answer: " in follower.problem


def test_a_version_that_answers_with_nonsense_is_not_taken(follower: Follower) -> None:
    network = follower.current._python_model.model
    for parameter in network.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(RegistryError, match="which are not probabilities"):
        served_version.warm(follower.current)


def test_the_old_version_leaves_memory_after_a_swap(project: Registered, follower: Follower) -> None:
    old = weakref.ref(follower.current._python_model.model)
    project.promote("2")
    follower.look()
    gc.collect()
    assert (follower.current.number, old()) == ("2", None)


def test_latency_and_metrics_count_what_was_asked(follower: Follower) -> None:
    with serving(follower) as address:
        for body in (png(8, 8), png(8, 8), b"no picture"):
            httpx.post(f"{address}/predict", content=body)
        told = httpx.get(f"{address}/latency").json()
        families = {f.name: f for f in text_string_to_metric_families(httpx.get(f"{address}/metrics").text)}
    assert (told["answers"], told["requests"], told["under_way"]) == (2, {"200": 2, "400": 1}, 0)
    assert 0 < told["p50_ms"] <= told["p95_ms"] <= told["p99_ms"]
    counted = {s.labels["status"]: s.value for s in families["regraft_requests"].samples if s.name.endswith("_total")}
    assert counted == {"200": 2, "400": 1}
    assert families["regraft_version"].samples[0].value == 1
