"""A Prefect server with a password, a proxy path, a certificate: used, or refused with the setting that helps."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLOUD_API_URL,
    temporary_settings,
)

from flows import orchestration
from steps.errors import RequestError
from tests.conftest import BIN, free_port, wait_for


@pytest.fixture(scope="module")
def guarded(isolated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a Prefect server that wants `ada:secret`; yield its host and port."""
    port, home = free_port(), tmp_path_factory.mktemp("guarded")
    environment = {**isolated, "PREFECT_HOME": str(home), "PREFECT_SERVER_API_AUTH_STRING": "ada:secret"}
    command = [str(BIN / "prefect"), "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/health")
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def trouble(address: str, secret: str = "") -> str:
    with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: secret or None}):
        return orchestration.trouble()


@pytest.mark.parametrize(
    ("address", "secret", "answer"),
    [
        ("http://{}/api", "ada:secret", ""),
        ("http://{}/api/", "ada:secret", ""),
        ("http://ada:secret@{}/api", "", ""),
        ("http://ada:secret@{}/api/", "", ""),
        ("http://{}/api", "", "HTTP 401 Unauthorized: it wants a user and password: set PREFECT_API_AUTH_STRING="),
        ("http://{}/api", "ada:wrong", "HTTP 401 Unauthorized: it wants a user and password"),
        ("http://{}", "ada:secret", "HTTP 404 Not Found: no Prefect API is there: the address of one ends in /api"),
    ],
)
def test_a_server_with_a_password_is_used_or_named_with_the_setting(
    guarded: str, address: str, secret: str, answer: str
) -> None:
    found = trouble(address.format(guarded), secret)
    assert found.startswith(answer) and bool(found) == bool(answer)


@pytest.mark.parametrize("where", ["env", "dotenv", "profile"])
def test_the_address_is_read_wherever_prefect_reads_it(
    guarded: str, isolated: dict[str, str], tmp_path: Path, where: str
) -> None:
    home, here = tmp_path / "home", tmp_path / "project"
    (home / ".prefect").mkdir(parents=True)
    here.mkdir()
    address = f"http://{guarded}/api"
    if where == "dotenv":
        (here / ".env").write_text(f"PREFECT_API_URL={address}\n")
    if where == "profile":
        profile = f'active = "work"\n\n[profiles.work]\nPREFECT_API_URL = "{address}"\n'
        (home / ".prefect/profiles.toml").write_text(profile)
    code = (
        "from pathlib import Path; from flows import project; project.settle(Path.cwd());"
        "from flows import orchestration as o; print(o.address(), o.trouble()[:8], o.origin(), sep='|')"
    )
    environment = {**isolated, "HOME": str(home), "PYTHONPATH": str(Path(orchestration.__file__).parents[1])}
    environment |= {"PREFECT_API_URL": address} if where == "env" else {}
    done = subprocess.run(
        [str(BIN / "python"), "-c", code], cwd=here, env=environment, capture_output=True, text=True, check=True
    )
    found, answer, origin = done.stdout.strip().split("|")
    assert (found, answer) == (address, "HTTP 401")
    assert origin.startswith("unset PREFECT_API_URL" if where == "env" else "change PREFECT_API_URL in Prefect's")


class Cloud(BaseHTTPRequestHandler):
    """Whatever is asked for wants a key."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_prefect_cloud_wants_a_key() -> None:
    with HTTPServer(("127.0.0.1", 0), Cloud) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}/api"
        settings = {PREFECT_CLOUD_API_URL: host, PREFECT_API_URL: f"{host}/accounts/a", PREFECT_API_KEY: "old"}
        with temporary_settings(settings):
            assert orchestration.trouble().endswith("set PREFECT_API_KEY")
        server.shutdown()


def test_a_certificate_of_ones_own_is_named_with_the_setting(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    with HTTPServer(("127.0.0.1", 0), Cloud) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = trouble(f"https://127.0.0.1:{server.server_port}/api")
        server.shutdown()
    assert found.startswith("its certificate is not trusted here") and "PREFECT_API_SSL_CERT_FILE" in found


def test_a_server_that_accepts_and_never_answers_is_given_up_after_one_stated_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orchestration, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert trouble(f"http://127.0.0.1:{silent.getsockname()[1]}/api") == "no answer within 1 s"
        silent.settimeout(1)
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):  # asked once
            silent.accept()


def test_what_is_no_address_is_refused_and_no_server_is_none() -> None:
    assert "protocol" in trouble("nonsense") and trouble("") == ""
    with (
        temporary_settings({PREFECT_API_URL: f"http://ada:secret@127.0.0.1:{free_port()}/api"}),
        pytest.raises(RequestError, match=r"^no Prefect server answers at http://ada@.*`make ui` starts one") as no,
    ):
        orchestration.refuse()
    assert "secret" not in str(no.value) and os.environ.get("PREFECT_API_AUTH_STRING") is None
