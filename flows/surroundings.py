"""What a process inherits from its machine: login name, home folder, proxies. Set before any library reads it."""

import os
import pwd
from importlib.util import find_spec
from pathlib import Path
from urllib.request import getproxies

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOGIN = ("LOGNAME", "USER", "LNAME", "USERNAME")  # in the order of `getpass.getuser`


def complete(state: Path) -> None:
    """Complete the environment of this process; `state` is the project's `.regraft`. What the user has set is kept."""
    _name_user()
    _house(state)
    _ask_loopback_directly()
    _drop_useless_proxies()


def _name_user() -> None:
    """Name a user without an entry in passwd (`docker run --user 54321`): DVC, torch and the ledger ask for a name."""
    if any(os.environ.get(name) for name in LOGIN):
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.update(dict.fromkeys(("LOGNAME", "USER"), f"uid {os.getuid()}"))


def _house(state: Path) -> None:
    """Keep in the project what libraries write to the home folder, if there is none or it cannot be written."""
    if not os.environ.get("HOME"):
        try:
            os.environ["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            os.environ["HOME"] = str(state)
    if not os.access(os.environ["HOME"], os.W_OK) and os.access(state, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(state / "matplotlib"))


def _ask_loopback_directly() -> None:
    """Exempt this machine from the proxies: Prefect's temporary server and a local MLflow are on it.

    Libraries differ in which spelling they prefer, so both get the exceptions of both.
    """
    given = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    exempt = dict.fromkeys([*(host.strip() for host in given.split(",") if host.strip()), *LOOPBACK])
    if "*" in exempt:  # no proxy for anything; beside other names libraries take it for a host
        exempt = {"*": None}
    os.environ.update(dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(exempt)))


def _drop_useless_proxies() -> None:
    """Unset SOCKS proxies if no installed client speaks SOCKS: httpx fails on their sight, whatever it asks for."""
    if find_spec("socksio") or find_spec("socks"):
        return
    for scheme, proxy in getproxies().items():
        if proxy.lower().startswith("socks"):
            for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
                os.environ.pop(name, None)
