"""aiohttp's low-level server with what it lacks: our errors for malformed HTTP, a deadline for clients that read nothing, a clean end.

`web.Application` costs about a fifth more CPU a request and hides the order of shutdown; here is one coroutine a request and no more.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from proxy import ids
from proxy.clock import Clock
from proxy.core.errors import BadRequestError, GatewayError, HeadersTooLargeError, InternalError
from proxy.relay import Watcher

logger = logging.getLogger(__name__)

HEADER_LINE_BYTES_MAX = 16_384
HEADERS_MAX = 100
LINGER_SECONDS = 5.0
"""How long the rest of a refused body is read and thrown away, so that the client gets to see the refusal."""

SERVER_NAME = "llm-proxy"
CROSS_ORIGIN_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "x-request-id, retry-after, retry-after-ms, x-should-retry, idempotent-replayed",
}
"""What lets a page of any origin read an answer. Never credentials: cookies mean nothing here."""

RequestCoroutine = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Request(web.BaseRequest):
    """One request. aiohttp would answer ``GET / HTTP/2.0`` in that very version, which nobody speaks here."""

    @property
    def version(self) -> HttpVersion:
        return self._version if self.version_known else HttpVersion11

    @property
    def version_known(self) -> bool:
        return self._version == HttpVersion11 or self._version == HttpVersion10


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ("_arriving", "_clock", "_stall_handle", "_stall_seconds", "watcher")

    def __init__(self, manager: "Server", *, clock: Clock, stall_seconds: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._stall_handle: asyncio.TimerHandle | None = None
        self._arriving: StreamReader | None = None
        """The body that was last begun."""
        self.watcher: Watcher | None = None

    @property
    def lost(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    def close_if_idle(self) -> None:
        """Close unless a request is being answered or has begun to arrive."""
        if self._waiter is not None and not self._waiter.done():
            self.force_close()  # close() would leave the transport open, and a next request on it unanswered

    def data_received(self, data: bytes) -> None:
        """Parse; tell a handler that waits for a body which turned out to be malformed. aiohttp lets it wait until its deadline."""
        super().data_received(data)
        if not self._messages:
            return
        message, payload = self._messages[-1]
        if isinstance(getattr(message, "exc", None), HttpProcessingError):
            if self._arriving is not None and not self._arriving.is_eof():
                self._arriving.set_exception(BadRequestError("The body of the request is malformed HTTP"))
            self._arriving = None
        elif payload is not EMPTY_PAYLOAD:
            self._arriving = payload

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume what was paused. aiohttp's own does it after every read of a body, with a parser's and the kernel's turn: 12 µs."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_for_stall()
        if self.watcher is not None:
            self.watcher.client_paused()

    def resume_writing(self) -> None:
        self._cancel_stall()
        super().resume_writing()
        if self.watcher is not None:
            self.watcher.client_resumed()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._cancel_stall()
        super().connection_lost(exc)
        if self.watcher is not None:
            self.watcher.client_lost()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the client
    ) -> web.StreamResponse:
        """Answer what never reached a handler. aiohttp's own answer is text/plain and quotes the offending header: a key, perhaps."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client left: nobody to answer, nothing to repair
        if exc is not None and status >= 500:
            logger.error("a request failed outside its handler", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        error = _error_for(status, exc)
        request_id = ids.request_id(self._clock.now_ms())
        response = web.Response(body=orjson.dumps(error.body()), status=error.status, headers=CROSS_ORIGIN_HEADERS)
        response.content_type = "application/json"
        response.headers.update({"x-request-id": request_id, "Server": SERVER_NAME, "Connection": "close"})
        response.force_close()
        logger.info("refused malformed HTTP with %d %s, request %s", error.status, error.code, request_id)
        return response

    def log_exception(self, *_args: Any, **kw: Any) -> None:
        """Log a failure that aiohttp has closed the connection for."""
        fault = kw.get("exc_info")
        if not isinstance(fault, GatewayError):  # a malformed rest of a body that nobody wanted
            logger.error("a connection failed", exc_info=fault)

    def _cancel_stall(self) -> None:
        if self._stall_handle is not None:
            self._stall_handle.cancel()
            self._stall_handle = None

    def _watch_for_stall(self) -> None:
        """End a client that reads nothing for `stall_seconds`: what is buffered for it would never leave otherwise."""
        if self.transport is not None:
            waiting = self.transport.get_write_buffer_size()
            self._stall_handle = self._loop.call_later(self._stall_seconds, self._drop_unless_below, waiting)

    def _drop_unless_below(self, waiting_bytes: int) -> None:
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() < waiting_bytes:  # slow, but it reads
            self._watch_for_stall()
        else:
            self.transport.abort()


class Server(web.Server):
    """The factory of connections, and the way to end them."""

    def __init__(self, handler: RequestCoroutine, *, clock: Clock, keepalive_seconds: float, stall_seconds: float) -> None:
        super().__init__(
            handler,
            request_factory=self._request,
            access_log=None,
            auto_decompress=False,  # 2 MB of gzip would cost seconds of CPU
            keepalive_timeout=keepalive_seconds,  # also the deadline of a request's head
            lingering_time=LINGER_SECONDS,
            max_line_size=HEADER_LINE_BYTES_MAX,
            max_field_size=HEADER_LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        self._clock = clock
        self._stall_seconds = stall_seconds

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, clock=self._clock, stall_seconds=self._stall_seconds, **self._kwargs)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> Request:
        return Request(message, payload, protocol, writer, task, self._loop)

    def close_idle(self) -> None:
        """Close the connections that wait for a next request."""
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.close_if_idle()


def _error_for(status: int, exc: BaseException | None) -> GatewayError:
    if status >= 500:
        return InternalError("Internal error")
    if isinstance(exc, LineTooLong):
        return HeadersTooLargeError(f"A request line or header is longer than {HEADER_LINE_BYTES_MAX} bytes")
    if isinstance(exc, HttpProcessingError) and exc.message == "Too many headers received":  # aiohttp has no class for it
        return HeadersTooLargeError(f"The request has more than {HEADERS_MAX} headers")
    return BadRequestError("Malformed HTTP request")
