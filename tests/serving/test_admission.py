"""Who may ask the service: tokens, hosts on loopback, and the path of a proxy."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from steps.serving.admission import Admission, is_loopback


async def routes(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse(scope["path"])(scope, receive, send)


@pytest.fixture
def ask() -> Iterator[Any]:
    def asked(path: str, host: str = "127.0.0.1", token: str = "", prefix: str = "", **headers: str) -> httpx.Response:
        import asyncio

        async def get() -> httpx.Response:
            transport = httpx.ASGITransport(app=Admission(routes, host, token, prefix))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(get())

    yield asked


@pytest.mark.parametrize(
    ("host", "named", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("127.0.0.1", "localhost:8000", 200),
        ("::1", "[::1]:8000", 200),
        ("localhost", "LOCALHOST", 200),
        ("127.0.0.1", "evil.example:8000", 421),
        ("127.0.0.1", "127.0.0.1.evil.example", 421),
        ("127.0.0.1", "", 200),  # no browser: HTTP/1.0, as HAProxy's probes
        ("0.0.0.0", "birds.example", 200),
        ("192.168.1.5", "birds.example", 200),
    ],
)
def test_on_loopback_the_host_is_this_machine(ask: Any, host: str, named: str, status: int) -> None:
    assert ask("/version", host, Host=named).status_code == status


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/predict", "Bearer s3cret", 200),
        ("/predict", "bearer  s3cret", 200),
        ("/predict", "Bearer s3cre", 401),
        ("/predict", "Basic s3cret", 401),
        ("/predict", "s3cret", 401),
        ("/predict", "", 401),
        ("/metrics", "", 401),
        ("/openapi.json", "", 401),
        ("/health", "", 200),
        ("/ping/", "", 200),
        ("/health/../metrics", "", 401),
    ],
)
def test_with_a_token_all_but_the_probes_ask_for_it(ask: Any, path: str, given: str, status: int) -> None:
    answer = ask(path, token="s3cret", Authorization=given)
    assert answer.status_code == status
    assert status == 200 or (answer.headers["www-authenticate"] == "Bearer" and "detail" in answer.json())


def test_with_a_token_a_proxy_may_pass_its_own_name_on_and_without_one_is_told_how(ask: Any) -> None:
    assert ask("/predict", token="s3cret", Host="birds.example", Authorization="Bearer s3cret").status_code == 200
    assert ask("/predict", token="s3cret", Host="birds.example").status_code == 401
    detail = ask("/predict", Host="birds.example").json()["detail"]
    assert "proxy_set_header Host localhost" in detail and "REGRAFT_TOKEN" in detail


@pytest.mark.parametrize("given", ["grün", "ключ"])
def test_a_token_may_have_letters_of_any_language(ask: Any, given: str) -> None:
    header = f"Bearer {given}".encode().decode("latin-1")  # the bytes that a client sends, as httpx takes them
    assert ask("/predict", token=given, Authorization=header.encode("latin-1")).status_code == 200
    assert ask("/predict", token=given, Authorization="Bearer ?").status_code == 401


@pytest.mark.parametrize("path", ["/birds/health", "/birds/health/", "/health", "/health/"])
def test_the_path_of_a_proxy_and_a_slash_at_the_end_are_ignored(ask: Any, path: str) -> None:
    assert ask(path, prefix="/birds/").text == "/health"


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.de", False)],
)
def test_which_addresses_are_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
