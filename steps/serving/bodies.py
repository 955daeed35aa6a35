"""Reading of request bodies: each is bounded in length and time, and all together in bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

AGAIN = {"Retry-After": "1"}


@dataclass(frozen=True)
class ServiceLimits:
    """Limits on one request, and on all running requests together."""

    body: int  # bytes of one request
    bodies: int  # bytes of all requests, including those that are still arriving
    pixels: int  # of one picture
    request_pixels: int  # of all pictures of one request
    rows: int  # pictures in one request to /invocations
    connections: int  # open connections, idle or not; any more are refused
    waiting: int  # admitted requests; any more are asked to retry later
    workers: int  # threads that decode and compute
    patience: float  # seconds for a connection's headers to arrive, and then for the body
    deadline: float  # seconds from then to the answer


class Bodies:
    """Reads bodies and counts their bytes. For one event loop's thread."""

    def __init__(self, limits: ServiceLimits) -> None:
        self.limits, self.held, self.reading = limits, 0, 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Yield a request's body; free its bytes afterwards. HTTPException if it is refused."""
        body = bytearray()
        self.reading += 1
        try:
            await self._read(request, body)
        except BaseException:
            self.held -= len(body)
            raise
        finally:
            self.reading -= 1
        whole = bytes(body)
        body.clear()
        try:
            yield whole
        finally:
            self.held -= len(whole)

    async def _read(self, request: Request, body: bytearray) -> None:
        self._measure(int(request.headers.get("content-length", 0)))
        try:
            async with asyncio.timeout(self.limits.patience):
                async for chunk in request.stream():
                    body += chunk
                    self.held += len(chunk)
                    self._measure(len(body))
        except TimeoutError:
            raise HTTPException(408, f"the body was not here within {self.limits.patience:g} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection ended before the body did") from None
        if not body:
            raise HTTPException(400, "the body is empty; expected the bytes of an image file")

    def _measure(self, length: int) -> None:
        """Refuse a body that is, or declares itself, too long, and one that does not fit at present."""
        if length > self.limits.body:
            raise HTTPException(413, f"a body of {length} bytes or more; at most {self.limits.body}")
        if self.held > self.limits.bodies:
            raise HTTPException(503, f"the requests under way hold {self.limits.bodies} bytes already", AGAIN)
