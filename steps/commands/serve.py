"""Serve the version in production over HTTP until stopped. Not a stage: it follows what the registry says now."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steps.errors import RequestError
from steps.registry import ledger
from steps.registry.model_registry import CHAMPION, Registry
from steps.registry.production import Named, Production, aliased
from steps.runtime.compute import processors
from steps.serving import admission, served_version
from steps.serving.admission import Admission
from steps.serving.bodies import ServiceLimits
from steps.serving.served_version import Follower, Served

if TYPE_CHECKING:
    from steps.serving.service import Service

log = logging.getLogger("regraft")
# An unreachable registry must be reported within seconds, not after MLflow's timeout of minutes.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Place(NamedTuple):
    """The address to listen on, the seconds that running requests get at the end, and the path of a proxy."""

    host: str
    port: int
    grace: int
    prefix: str


def serve(
    root: Path,
    alias: str,
    version: str | None,
    every: float,
    place: Place,
    limits: ServiceLimits,
    say: Callable[[str], None],
) -> None:
    """Answer requests until SIGTERM or SIGINT; running requests then have the grace period to finish.

    Raises RequestError if the version or alias does not exist or the address is taken, RegistryError if the version
    cannot be loaded or is not what was signed.
    """
    import torch
    import uvicorn

    from steps.serving.server import configured
    from steps.serving.service import Service, application

    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)
    listener = _bound(place.host, place.port)
    service = Service(_follower(root, alias, version, every), limits)
    torch.set_num_threads(max(1, processors() // limits.workers))
    guarded = Admission(application(service), place.host, admission.token(), place.prefix)
    server = uvicorn.Server(configured(guarded, limits, place.grace))
    with _taking(place.host, place.port):  # until one listens, another service can be bound to it, too
        listener.listen(limits.waiting)  # from here on, clients wait for an answer and are not refused
    if not guarded.token and not admission.is_loopback(place.host):
        log.warning(
            "whoever reaches port %d may ask: set %s, and requests must carry it", place.port, admission.VARIABLE
        )
    say(_ready(service.follower.current, *listener.getsockname()[:2]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it again when everything is finished
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    if service.seated:
        _leave(service, place.grace)


def _ready(served: Served, host: str, port: int) -> str:
    """Announce version and address. `serve` itself holds no version: the first would stay in memory for good."""
    return f"version {served.number} ({served.digest[:12]}) answers on http://{_in_url(host)}:{port}/predict"


def _leave(service: "Service", grace: int) -> None:
    """Exit although threads still compute: Python itself would wait for them, however long their pictures take."""
    log.warning("requests left unfinished: %d; the grace of %d s was over", len(service.seated), grace)
    service.follower.current.package.files.remove()
    sys.stdout.flush()
    os._exit(0)


def _follower(root: Path, alias: str, version: str | None, every: float) -> Follower:
    registry = Registry(root)
    if alias == CHAMPION and not version:
        production = Production(registry)

        def load_decided(number: str) -> Served:
            return served_version.load(registry, number, production.package_of(number))

        return Follower(load_decided(production.champion()), production.named, load_decided, every)
    _, number = registry.resolve(f"models:/{registry.name}{f'/{version}' if version else f'@{alias}'}")
    find = partial(aliased, registry, alias)

    def load(number: str) -> Served:
        return served_version.load(registry, number, ledger.package_of(registry, number))

    return Follower(load(number), (lambda: Named(version)) if version else find, load, every)


def _bound(host: str, port: int) -> socket.socket:
    """Bind the address before the seconds of loading; nobody listens on it yet."""
    with _taking(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Names the protocol: only then does asyncio switch off Nagle's algorithm, which costs 40 ms per answer
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    return listener


@contextmanager
def _taking(host: str, port: int) -> Iterator[None]:
    """Turn the system's refusal of an address into a RequestError."""
    try:
        yield
    except UnicodeError:  # a name with an empty or overlong part, before any look-up
        raise RequestError(f"cannot listen on {host}: it is not the name of a host; --host") from None
    except OSError as error:
        raise RequestError(f"cannot listen on {host}, port {port}: {error.strerror}; --host and --port") from None


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
