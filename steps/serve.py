"""Serve: the version in production, over HTTP, until stopped. No stage: it follows what the registry says now."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from steps.adapters import champion, params, registry, tracking
from steps.adapters.champion import Follower, Served
from steps.adapters.production import Named, Production, aliased
from steps.adapters.service import Limits, application
from steps.errors import RequestError

# A registry that is gone must be said within seconds, not after MLflow's minutes of patience.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Place(NamedTuple):
    """Where to listen, and the seconds that requests under way get when the service is stopped."""

    host: str
    port: int
    grace: int


def serve(
    root: Path, alias: str, version: str | None, every: float, place: Place, limits: Limits, say: Callable[[str], None]
) -> None:
    """Answer requests until SIGTERM or SIGINT; what is under way then is finished.

    Raises RequestError where the version or alias does not exist or the address is taken, RegistryError where the
    version cannot be loaded or is not what was signed.
    """
    import torch
    import uvicorn

    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)
    listener = _bound(place.host, place.port)
    follower = _follower(root, alias, version, every)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // limits.workers))
    settings = uvicorn.Config(
        application(follower, limits), log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=place.grace,
    )  # fmt: skip
    listener.listen(limits.waiting)  # from here on whoever comes waits for an answer, and is not turned away
    host, port = listener.getsockname()[:2]
    served = follower.current
    say(f"version {served.number} ({served.digest[:12]}) answers on http://{_in_url(host)}:{port}/predict")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when all is finished
    with suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listener])


def _follower(root: Path, alias: str, version: str | None, every: float) -> Follower:
    name, mlflow = str(params.read(root)["register"]["model_name"]), tracking.client()
    if alias == registry.CHAMPION and not version:
        production = Production(mlflow, name, root)

        def load_decided(number: str) -> Served:
            return champion.load(mlflow, name, number, production.package_of(number))

        return Follower(load_decided(production.champion()), production.named, load_decided, every)
    _, number = registry.resolve(mlflow, f"models:/{name}/{version}" if version else f"models:/{name}@{alias}")
    load, find = partial(champion.load, mlflow, name), partial(aliased, mlflow, name, alias)
    return Follower(load(number), (lambda: Named(version)) if version else find, load, every)


def _bound(host: str, port: int) -> socket.socket:
    """Take the address before the seconds of loading; nobody listens on it yet."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise RequestError(f"cannot listen on {host}, port {port}: {error.strerror}; --host and --port") from None
    return listener


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
