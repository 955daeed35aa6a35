"""uvicorn with the limits that it lacks: on idle connections and their number, on heads, on chunks, on slow readers.

uvicorn waits for a request's headers and for the reader of its answers forever, `limit_concurrency` refuses requests,
not idle connections, and neither the head of a request nor the parts of its body are bounded. httptools parses: h11
is written in Python, and bodies in chunks of one byte would keep the event loop from everything else.
"""

import asyncio
import json
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steps.serving.admission import App
from steps.serving.bodies import ServiceLimits

MAX_HEAD = 2**16  # bytes of a request's first line and headers, as in h11
MAX_CHUNKS = 1000  # of one body, beyond those of LEAST_CHUNK bytes
LEAST_CHUNK = 64  # bytes; a chunk of one byte costs six on the wire, and a call each


def _answer(status: str, detail: str, more: str = "") -> bytes:
    text = json.dumps({"detail": detail})
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\n{more}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()


FULL = _answer("503 Service Unavailable", "too many connections are open already", "Retry-After: 1\r\n")
NO_HTTP = _answer("400 Bad Request", "this is not an HTTP request")
LONG_HEAD = _answer("431 Request Header Fields Too Large", f"more than {MAX_HEAD} bytes of headers")
TINY_CHUNKS = _answer("400 Bad Request", f"a body in chunks of less than {LEAST_CHUNK} bytes; send a Content-Length")


class Connection(HttpToolsProtocol):
    """A connection that is closed if there are too many, if no request arrives or no answer is read in time."""

    limits: ServiceLimits
    _timer: asyncio.TimerHandle | None = None  # until the next request is here
    _unread: asyncio.TimerHandle | None = None  # until what was sent is read
    _head: int | None = 0  # bytes of the head that is arriving; None once it is whole
    _arriving: int = 0  # bytes of what is being parsed
    _chunks: int = 0  # of the body that is arriving
    _bytes: int = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection, or wait for its first request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._close(FULL)
        else:
            self._expect()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; refuse a head that does not end."""
        self._unset_keepalive_if_required()
        while data and not self.transport.is_closing():
            data = self._parse(data)

    def _parse(self, data: bytes) -> bytes:
        """Parse; return what has to be parsed again: a request that wishes for another protocol, without its wish."""
        self._arriving = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            return self._without_wish(data[end.args[0] :])
        except httptools.HttpParserError:
            self._close(NO_HTTP)
            return b""
        if self._head is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._close(LONG_HEAD)
        return b""

    def _without_wish(self, rest: bytes) -> bytes:
        """Return a request without its header Upgrade, and what followed its head, for a new parser.

        Java's own client wishes for HTTP/2 (h2c) with each request. A server may ignore that (RFC 9110, 7.8), but the
        parser takes the body for the other protocol.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self._close(NO_HTTP)
            return b""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        kept = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade")
        return b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self.url, version, kept, rest)

    def on_message_begin(self) -> None:
        """Begin to count; what arrived together with it is not counted, as it may end another request's body."""
        super().on_message_begin()
        self._head, self._chunks, self._bytes = -self._arriving, 0, 0

    def on_headers_complete(self) -> None:
        """Wait for the body; a request that wishes for another protocol comes again without its wish."""
        self._head = None
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._head = None
        self._bytes += len(body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Refuse a body in chunks too small to be honest; count a head: after the last, empty chunk come trailers."""
        self._head = -self._arriving
        self._chunks += 1
        if self._chunks > MAX_CHUNKS + self._bytes // LEAST_CHUNK and not self.transport.is_closing():
            self._close(TINY_CHUNKS)

    def on_message_complete(self) -> None:
        """Wait for the next request's head."""
        self._head = None
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, also on a connection that still sends the rest of a refused body, byte by byte."""
        super().on_response_complete()
        self._expect()

    def pause_writing(self) -> None:
        """Stop answering a client that does not read; hang up if it goes on so."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        _cancel(self._unread)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if its client never reads what was sent."""
        super().timeout_keep_alive_handler()
        self._await_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        _cancel(self._timer)
        _cancel(self._unread)
        super().connection_lost(exc)

    def _close(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()
        self._await_reader()

    def _expect(self) -> None:
        _cancel(self._timer)
        self._timer = self.loop.call_later(self.limits.patience, self._give_up)

    def _await_reader(self) -> None:
        _cancel(self._unread)
        self._unread = self.loop.call_later(self.limits.patience, self.transport.abort)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # a request under way has limits of its own
            self.timeout_keep_alive_handler()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()


def configured(app: App, limits: ServiceLimits, grace: int, **more: Any) -> uvicorn.Config:
    """Return `uvicorn.Server`'s configuration; `grace`: seconds that running requests get when it is stopped."""
    bounded = type("Bounded", (Connection,), {"limits": limits})
    return uvicorn.Config(
        app,
        http=bounded,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
        **more,
    )
