"""The champion over HTTP: a picture's bytes in, label and probabilities out; also MLflow's scoring protocol.

The event loop reads bodies and writes answers; parsing, decoding and the network run in a bounded pool of threads.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from python_multipart.multipart import parse_options_header

from steps.errors import RequestError, UndecodableError
from steps.images import decoding
from steps.serving import invocations, uploads
from steps.serving.bodies import AGAIN, Bodies, ServiceLimits
from steps.serving.gauges import Gauges
from steps.serving.prediction import Prediction
from steps.serving.served_version import Follower, Served

JSON, FORM = "application/json", "multipart/form-data"
BARE = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is curl's own for --data-binary


@dataclass(frozen=True)
class Asked:
    """A request whose body has arrived; its answer is due by `until` (`time.monotonic`)."""

    kind: str  # media type
    boundary: bytes  # of a form's fields; empty otherwise
    body: bytes
    until: float


WAYS = {
    "/predict": "send a picture's bytes as the body: curl --data-binary @photo.jpg http://HOST:PORT/predict",
    "/invocations": "send JSON with base64 pictures, or a picture's bytes as image/...",
}
Payload = dict[str, object]  # JSON of an HTTP answer
Work = Callable[[Served, Asked], Payload]


class Service:
    """The routes over one follower. Not shared between event loops."""

    def __init__(self, follower: Follower, limits: ServiceLimits) -> None:
        self.follower, self.limits, self.gauges, self.bodies = follower, limits, Gauges(), Bodies(limits)
        self.pool = ThreadPoolExecutor(limits.workers, "answer")
        self.seated: set[Future[Payload]] = set()  # running in a thread, or waiting for one

    async def predict(self, request: Request) -> Response:
        """Answer one picture, whose bytes are the body."""
        return await self._timed("/predict", request, self._predict)

    async def invoke(self, request: Request) -> Response:
        """Answer as MLflow's scoring server does: JSON with base64 text, or the bytes of one picture."""
        return await self._timed("/invocations", request, self._invoke)

    async def health(self) -> Payload:
        """Report which version answers and, if it is an old one, why; 200 as long as any version answers."""
        problem = self.follower.problem
        return {"status": "degraded" if problem else "ok", "problem": problem or None, **await self.version()}

    async def version(self) -> Payload:
        """Report which version answers, since when (seconds since 1970), and its classes."""
        served = self.follower.current
        return {"version": served.name, "since": round(self.follower.since, 3), "classes": served.classes}

    async def latency(self) -> Payload:
        """Return percentiles and counts."""
        now = {"under_way": len(self.seated), "reading": self.bodies.reading, "held_bytes": self.bodies.held}
        return {**self.gauges.latency(), **now}

    async def metrics(self) -> Response:
        """Return Prometheus' text."""
        text = self.gauges.prometheus(self.follower.current.number, bool(self.follower.problem))
        return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)

    def stop(self) -> None:
        """Stop following the champion and drop queued work; does not wait for running requests."""
        self.follower.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def _timed(self, route: str, request: Request, work: Work) -> Response:
        start, status = time.perf_counter(), 500
        try:
            answer = JSONResponse(await self._admitted(request, work))
            status = answer.status_code
            return answer
        except HTTPException as refusal:
            status = refusal.status_code
            raise
        except asyncio.CancelledError:  # the grace period is over
            status = 503
            raise HTTPException(status, "the service is being stopped", AGAIN) from None
        finally:
            self.gauges.observe(route, status, time.perf_counter() - start)

    async def _admitted(self, request: Request, work: Work) -> Payload:
        """Answer once the body has arrived: only complete requests take a seat."""
        kind, boundary = _kind(request)
        self._refuse_where_full()
        async with self.bodies.body(request) as body:
            self._refuse_where_full()
            asked = Asked(kind, boundary, body, time.monotonic() + self.limits.deadline)
            answer = self.pool.submit(self._worked, work, asked)
            self.seated.add(answer)
            answer.add_done_callback(self.seated.discard)  # an abandoned request sits until its thread is free
            return await asyncio.wrap_future(answer)

    def _refuse_where_full(self) -> None:
        if len(self.seated) >= self.limits.waiting:
            raise HTTPException(503, f"{len(self.seated)} requests are under way already", AGAIN)

    def _worked(self, work: Work, asked: Asked) -> Payload:
        """Run in a thread: the version is picked once, so that an answer and its version agree."""
        served = self.follower.current
        try:
            return work(served, asked)
        except RequestError as error:
            raise HTTPException(400, str(error)) from None

    def _predict(self, served: Served, asked: Asked) -> Payload:
        [answer] = self._answers(served, asked, {"": _picture(asked)})
        return {
            "label": answer["label"],
            "probability": answer["probability"],
            "probabilities": dict(zip(served.classes, answer["probabilities"], strict=True)),
            "abstain": answer["abstain"],
            **({"unfamiliar": answer["unfamiliar"]} if "unfamiliar" in answer else {}),
            "version": served.name,
        }

    def _invoke(self, served: Served, asked: Asked) -> Payload:
        if asked.kind.startswith("image/") or asked.kind == "application/octet-stream":
            return {"predictions": self._answers(served, asked, {"": asked.body}), "version": served.name}
        if asked.kind != JSON:
            kind = asked.kind or "no content type"
            raise HTTPException(415, f"{kind}; expected {JSON}, or image/... with a file's bytes")
        pictures = invocations.pictures(invocations.parsed(asked.body, self.limits.rows))
        if len(pictures) > self.limits.rows:
            raise HTTPException(413, f"{len(pictures)} rows; at most {self.limits.rows} in one request")
        named = {f"row {row}: ": picture for row, picture in enumerate(pictures)}
        return {"predictions": self._answers(served, asked, named), "version": served.name}

    def _answers(self, served: Served, asked: Asked, pictures: dict[str, bytes]) -> list[Prediction]:
        """Answer the pictures one after another; the keys of `pictures` are the names that a refusal uses.

        All headers are read before the first picture is decoded, so a request is refused as a whole or not at all,
        except for decoding errors and the deadline.
        """
        total, answers = 0, list[Prediction]()
        for name, picture in pictures.items():
            if time.monotonic() > asked.until:
                raise HTTPException(503, self._late(0, len(pictures)), AGAIN)
            with _about(name):
                total += self._pixels(picture)
        if total > self.limits.request_pixels:
            message = f"{total} pixels in {len(pictures)} pictures; at most {self.limits.request_pixels} in one request"
            raise HTTPException(422, message)
        for name, picture in pictures.items():
            if time.monotonic() > asked.until:
                raise HTTPException(503, self._late(len(answers), len(pictures)), AGAIN)
            with _about(name):
                answers.append(served.answer(picture))
                self.gauges.answered(answers[-1].get("unfamiliar", False))
        return answers

    def _pixels(self, picture: bytes) -> int:
        width, height = decoding.size(picture)
        if width * height > self.limits.pixels:
            raise HTTPException(422, f"{width}x{height} pixels; at most {self.limits.pixels} in all")
        return width * height

    def _late(self, done: int, asked: int) -> str:
        progress = f"{done} of {asked} pictures were answered in the {self.limits.deadline:g} s that a request has"
        return f"{progress}, including the time in the queue; ask for fewer at a time, or later"


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Name the row in a refusal."""
    try:
        yield
    except UndecodableError as error:
        raise HTTPException(400, f"{name}{error}") from None
    except HTTPException as error:
        raise HTTPException(error.status_code, f"{name}{error.detail}") from None


def _picture(asked: Asked) -> bytes:
    """Return the bytes of the picture in a body: the whole of it, or the file of a form."""
    if asked.kind == FORM:
        return uploads.picture(asked.boundary, asked.body)
    if asked.kind in BARE or asked.kind.startswith("image/"):
        return asked.body
    raise HTTPException(
        415, f"{asked.kind} is not an image; send the file's bytes as the body: curl --data-binary @photo.jpg"
    )


def _kind(request: Request) -> tuple[str, bytes]:
    """Return the body's media type in lower case, and a form's boundary.

    Raises HTTPException if the body is compressed, not in UTF-8, or a form without a boundary.
    """
    packed = request.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise HTTPException(415, f"content-encoding {packed}; send the bytes as they are")
    named, options = parse_options_header(request.headers.get("content-type", ""))
    kind, charset = named.decode("latin-1").strip().lower(), options.get(b"charset", b"utf-8").decode("latin-1")
    if kind == JSON and charset.lower() not in ("", "utf-8", "utf8"):
        raise HTTPException(415, f"charset={charset}; JSON is read as UTF-8")
    boundary = options.get(b"boundary", b"")
    if kind == FORM and not boundary:
        raise HTTPException(415, f"{FORM} without a boundary")
    return kind, boundary


async def _not_so(request: Request, error: Exception) -> Response:
    """Describe what a route expects when called with another method: a browser that opens /predict sends GET."""
    wanted = ", ".join(sorted((getattr(error, "headers", None) or {}).get("Allow", "").split(", ")))
    path = request.url.path
    how = f"; {WAYS[path]}" if path in WAYS else ""
    detail = f"{request.method} {path} is not answered, {wanted} is{how}"
    return JSONResponse({"detail": detail}, 405, {"Allow": wanted})


async def _failed(_: Request, __: Exception) -> Response:
    """Answer as JSON if the version failed on a valid picture; the log has the traceback."""
    return JSONResponse({"detail": "the version failed on this picture; the service's log has the reason"}, 500)


def application(service: Service) -> FastAPI:
    """Return the app; the follower and the threads live as long as it does."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.follower.start()
        yield
        service.stop()

    app = FastAPI(title="regraft", docs_url=None, redoc_url=None, lifespan=life)  # those pages would load from a CDN
    app.add_exception_handler(405, _not_so)
    app.add_exception_handler(Exception, _failed)
    for path, route in {"/predict": service.predict, "/invocations": service.invoke}.items():
        app.add_api_route(path, route, methods=["POST"], response_model=None)
    for path, handler in {
        "/health": service.health,
        "/ping": service.health,
        "/version": service.version,
        "/latency": service.latency,
        "/metrics": service.metrics,
    }.items():
        app.add_api_route(path, handler, methods=["GET", "HEAD"], response_model=None)
    return app
