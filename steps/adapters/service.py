"""The champion over HTTP: a picture's bytes in, label and probabilities out; MLflow's scoring protocol beside it.

The event loop reads bodies and writes answers; parsing, decoding and the network run in a bounded pool of threads.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

from steps.adapters import images
from steps.adapters.champion import Follower, Served
from steps.adapters.gauges import Gauges
from steps.core import invocations
from steps.errors import RequestError

JSON = "application/json"
BARE = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is curl's own for --data-binary
Work = Callable[[Served, bytes, str], dict[str, Any]]


@dataclass(frozen=True)
class Limits:
    """What one request, and all that are under way together, may ask for."""

    body: int  # bytes
    pixels: int  # of one picture
    rows: int  # pictures in one request to /invocations
    waiting: int  # requests under way; one more is told to come back
    workers: int  # threads that decode and compute
    patience: float  # seconds until a body has to be here


class Service:
    """The routes over one follower. Not shared between event loops."""

    def __init__(self, follower: Follower, limits: Limits) -> None:
        self.follower, self.limits, self.gauges = follower, limits, Gauges()
        self.pool = ThreadPoolExecutor(limits.workers, "answer")
        self.under_way = 0

    async def predict(self, request: Request) -> Response:
        """Answer one picture, whose bytes are the body."""
        return await self._timed("/predict", request, self._predict)

    async def invoke(self, request: Request) -> Response:
        """Answer as MLflow's scoring server does: JSON with base64 text, or the bytes of one picture."""
        return await self._timed("/invocations", request, self._invoke)

    async def health(self) -> dict[str, Any]:
        """Say who answers and, where an old version goes on answering, why; 200 as long as anybody does."""
        problem = self.follower.problem
        return {"status": "degraded" if problem else "ok", "problem": problem or None, **await self.version()}

    async def version(self) -> dict[str, Any]:
        """Say which version answers, since when (seconds since 1970), and its classes."""
        served = self.follower.current
        return {"version": served.name, "since": round(self.follower.since, 3), "classes": served.classes}

    async def latency(self) -> dict[str, Any]:
        """Return percentiles and counts."""
        return {**self.gauges.latency(), "under_way": self.under_way}

    async def metrics(self) -> Response:
        """Return Prometheus' text."""
        text = self.gauges.prometheus(self.follower.current.number, bool(self.follower.problem))
        return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)

    async def _timed(self, route: str, request: Request, work: Work) -> Response:
        start, status = time.perf_counter(), 500
        try:
            answer = JSONResponse(await self._admitted(request, work))
            status = answer.status_code
            return answer
        except HTTPException as refusal:
            status = refusal.status_code
            raise
        finally:
            self.gauges.observe(route, status, time.perf_counter() - start)

    async def _admitted(self, request: Request, work: Work) -> dict[str, Any]:
        if self.under_way >= self.limits.waiting:
            raise HTTPException(503, f"{self.under_way} requests are under way already", {"Retry-After": "1"})
        self.under_way += 1
        try:
            kind, body = _kind(request), await self._body(request)
            return await asyncio.get_running_loop().run_in_executor(self.pool, self._worked, work, body, kind)
        finally:
            self.under_way -= 1

    async def _body(self, request: Request) -> bytes:
        """Read the body as it comes; it is refused as soon as it is, or says that it will be, too long."""
        body = bytearray()
        self._measure(int(request.headers.get("content-length", 0)))
        try:
            async with asyncio.timeout(self.limits.patience):
                async for part in request.stream():
                    body += part
                    self._measure(len(body))
        except TimeoutError:
            raise HTTPException(408, f"the body was not here within {self.limits.patience:g} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection ended before the body did") from None
        if not body:
            raise HTTPException(400, "the body is empty; expected the bytes of an image file")
        return bytes(body)

    def _measure(self, length: int) -> None:
        if length > self.limits.body:
            raise HTTPException(413, f"a body of {length} bytes or more; at most {self.limits.body}")

    def _worked(self, work: Work, body: bytes, kind: str) -> dict[str, Any]:
        """Run in a thread: the version is picked once, so that an answer and its version agree."""
        served = self.follower.current
        try:
            return work(served, body, kind)
        except (images.UndecodableError, RequestError) as error:
            raise HTTPException(400, str(error)) from None

    def _predict(self, served: Served, body: bytes, kind: str) -> dict[str, Any]:
        if kind not in BARE and not kind.startswith("image/"):
            raise HTTPException(
                415, f"{kind} is no image; send the file's bytes as the body: curl --data-binary @photo.jpg"
            )
        answer = self._answer(served, body)
        return {
            "label": answer["label"],
            "probability": answer["probability"],
            "probabilities": dict(zip(served.classes, answer["probabilities"], strict=True)),
            "abstain": answer["abstain"],
            "version": served.name,
        }

    def _invoke(self, served: Served, body: bytes, kind: str) -> dict[str, Any]:
        if kind.startswith("image/") or kind == "application/octet-stream":
            return {"predictions": [self._answer(served, body)], "version": served.name}
        if kind != JSON:
            raise HTTPException(415, f"{kind or 'no content type'}; expected {JSON}, or image/... with a file's bytes")
        pictures = invocations.pictures(_parsed(body))
        if len(pictures) > self.limits.rows:
            raise HTTPException(413, f"{len(pictures)} rows; at most {self.limits.rows} in one request")
        answers = [self._row(served, row, picture) for row, picture in enumerate(pictures)]
        return {"predictions": answers, "version": served.name}

    def _row(self, served: Served, row: int, picture: bytes) -> dict[str, Any]:
        try:
            return self._answer(served, picture)
        except images.UndecodableError as error:
            raise HTTPException(400, f"row {row}: {error}") from None
        except HTTPException as error:
            raise HTTPException(error.status_code, f"row {row}: {error.detail}") from None

    def _answer(self, served: Served, picture: bytes) -> dict[str, Any]:
        width, height = images.size(picture)
        if width * height > self.limits.pixels:
            raise HTTPException(422, f"{width}x{height} pixels; at most {self.limits.pixels} in all")
        return served.answer(picture)


def _kind(request: Request) -> str:
    """Return the body's media type in lower case; HTTPException for one that is packed or not in UTF-8."""
    packed = request.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise HTTPException(415, f"content-encoding {packed}; send the bytes as they are")
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    charset = rest.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() == JSON and charset not in ("", "utf-8", "utf8"):
        raise HTTPException(415, f"{rest.strip()}; JSON is read as UTF-8")
    return kind.strip().lower()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from None


def application(follower: Follower, limits: Limits) -> FastAPI:
    """Return the app; the follower watches, and the threads live, as long as it does."""
    service = Service(follower, limits)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        follower.start()
        yield
        follower.stop()
        service.pool.shutdown(cancel_futures=True)

    app = FastAPI(title="regraft", docs_url=None, redoc_url=None, lifespan=life)  # those pages would load from a CDN
    for path, route in {"/predict": service.predict, "/invocations": service.invoke}.items():
        app.add_api_route(path, route, methods=["POST"], response_model=None)
    for path, told in {"/health": service.health, "/ping": service.health, "/version": service.version,
                       "/latency": service.latency, "/metrics": service.metrics}.items():  # fmt: skip
        app.add_api_route(path, told, methods=["GET"], response_model=None)
    return app
