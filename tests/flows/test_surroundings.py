"""What a machine leaves out of the environment is completed; what the user has set is kept."""

import getpass
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
import requests

from flows.surroundings import complete
from tests.conftest import REPOSITORY

PROXY = "http://127.0.0.1:9"
ASKED_DIRECTLY = ("http://127.0.0.1:4200/api", "http://localhost:5000", "http://[::1]:4200")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give this process an environment of its own, without proxies."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.clear()
    os.environ.update(kept)
    return kept


PROXIES: list[dict[str, str]] = [
    {"HTTP_PROXY": PROXY},
    {"http_proxy": PROXY, "https_proxy": PROXY},
    {"ALL_PROXY": PROXY},
    {"all_proxy": "socks5://127.0.0.1:9"},
    {"HTTP_PROXY": "socks5h://127.0.0.1:9", "ALL_PROXY": "SOCKS5://127.0.0.1:9"},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "corp.example, .intra"},
    {"HTTP_PROXY": PROXY, "no_proxy": "corp.example,.intra", "NO_PROXY": "other.example"},
]


@pytest.mark.parametrize("given", PROXIES, ids=str)
def test_loopback_is_never_asked_through_a_proxy(
    environment: dict[str, str], given: Mapping[str, str], tmp_path: Path
) -> None:
    os.environ.update(given)
    complete(tmp_path)
    with httpx.Client() as client:  # Prefect's library
        for address in ASKED_DIRECTLY:
            assert client._transport_for_url(httpx.URL(address)) is client._transport
    for address in ASKED_DIRECTLY:  # MLflow's
        assert not requests.utils.get_environ_proxies(address)
    kept = {host.strip() for name in ("no_proxy", "NO_PROXY") for host in given.get(name, "").split(",")} - {""}
    assert kept <= set(os.environ["NO_PROXY"].split(",")) == set(os.environ["no_proxy"].split(","))


def test_no_proxy_at_all_stays_so(environment: dict[str, str], tmp_path: Path) -> None:
    os.environ.update({"HTTP_PROXY": PROXY, "no_proxy": "*"})
    complete(tmp_path)
    assert not requests.utils.get_environ_proxies("http://elsewhere.example")


def test_other_hosts_still_go_through_the_proxy(environment: dict[str, str], tmp_path: Path) -> None:
    os.environ.update({"HTTP_PROXY": PROXY, "NO_PROXY": "corp.example"})
    complete(tmp_path)
    assert requests.utils.get_environ_proxies("http://elsewhere.example")["http"] == PROXY
    assert not requests.utils.get_environ_proxies("http://corp.example")


@pytest.mark.parametrize(
    ("given", "name"),
    [({}, "uid 54321"), ({"HOME": "/"}, "uid 54321"), ({"USER": "ada"}, "ada"), ({"LOGNAME": "ada"}, "ada")],
    ids=str,
)
def test_a_user_without_a_name_or_a_home_gets_both(tmp_path: Path, given: Mapping[str, str], name: str) -> None:
    code = (
        "import getpass, os, sys; from pathlib import Path; os.getuid = lambda: 54321;"
        "from flows.surroundings import complete; complete(Path(sys.argv[1]));"
        "print(getpass.getuser(), Path.home(), os.environ.get('MPLCONFIGDIR'), sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={"PATH": os.environ["PATH"], **given},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    user, home, _ = done.stdout.strip().split("|")
    assert (user, home) == (name, given.get("HOME", str(tmp_path)))


def test_a_named_user_is_left_alone(environment: dict[str, str], tmp_path: Path) -> None:
    before = getpass.getuser(), os.environ.get("HOME")
    complete(tmp_path)
    assert (getpass.getuser(), os.environ.get("HOME")) == before
