"""Who may ask: a bearer token if one is set, a known host on loopback; and the path that a proxy puts in front."""

import hmac
import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

VARIABLE = "REGRAFT_TOKEN"
OPEN = {"/health", "/ping"}  # probes carry no token; what they answer names no secret
PORT = re.compile(r":\d+$")
LOCAL = {"localhost", "127.0.0.1", "[::1]"}
OTHER_HOST = (
    "the host {name!r} is not this service; it answers on loopback. Behind a proxy: let it send 'Host: localhost' "
    f"(nginx: `proxy_set_header Host localhost;`), or set {VARIABLE}"
)

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Admission:
    """ASGI middleware in front of the routes.

    On loopback the header Host must name this machine: otherwise any page in a browser could, by a name of its own that
    resolves to 127.0.0.1 (DNS rebinding), read answers that are meant for local programs. Browsers always send the
    header, and know no token: without the one or with the other (a proxy's probes, a proxy that passes its own name
    on), the request is none of theirs.
    """

    def __init__(self, app: App, host: str, token: str = "", prefix: str = "") -> None:
        """Serve for a listening address; `token`: required as `Authorization: Bearer`; `prefix`: a path to ignore."""
        self.app, self.token, self.prefix = app, token, prefix.rstrip("/")
        self.hosts = LOCAL | {host} if is_loopback(host) and not token else set[str]()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(self.prefix) if self.prefix else scope["path"]
        scope["path"] = path.rstrip("/") or "/"
        refusal = self._refusal(scope["path"], Headers(scope=scope))
        return await (refusal or self.app)(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        name = PORT.sub("", headers.get("host", "").strip().lower())
        if name and self.hosts and name not in self.hosts:
            return JSONResponse({"detail": OTHER_HOST.format(name=name)}, 421)
        kind, _, given = headers.get("authorization", "").partition(" ")
        right = kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("latin-1"), os.fsencode(self.token)
        )
        if self.token and path not in OPEN and not right:
            detail = "send the header 'Authorization: Bearer TOKEN' with the token of this service"
            return JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})
        return None


def token() -> str:
    """Return the token that requests must carry; "" if none is set."""
    return os.environ.get(VARIABLE, "").strip()


def is_loopback(host: str) -> bool:
    """Return whether a listening address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
