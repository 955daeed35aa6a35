"""uvicorn with two limits that it lacks: on idle connections, and on the number of connections.

uvicorn waits for a request's headers forever, and `limit_concurrency` refuses requests, not idle connections.
"""

import asyncio
import json
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from steps.serving.bodies import ServiceLimits

DETAIL = json.dumps({"detail": "too many connections are open already"})
FULL = (
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(DETAIL)}\r\n\r\n{DETAIL}"
).encode()


class Connection(H11Protocol):
    """A connection that is closed if there are too many, or if no request arrives in time."""

    patience: float
    most: int
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection, or wait for its first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(FULL)
            transport.close()
        else:
            self._expect()

    def on_response_complete(self) -> None:
        """Wait for the next request, also on a connection that still sends the rest of a refused body, byte by byte."""
        super().on_response_complete()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self._cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._cancel()
        self._timer = self.loop.call_later(self.patience, self._give_up)

    def _cancel(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # a request under way has limits of its own
            self.timeout_keep_alive_handler()


def configured(app: FastAPI, limits: ServiceLimits, grace: int, **more: Any) -> uvicorn.Config:
    """Return `uvicorn.Server`'s configuration; `grace`: seconds that running requests get when it is stopped."""

    class Bounded(Connection):
        patience, most = limits.patience, limits.connections

    return uvicorn.Config(
        app,
        http=Bounded,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
        **more,
    )
