"""One client's connection and its requests: aiohttp's protocol and parser, with a request cycle of our own.

aiohttp makes a task, a request, a writer and a response object for each request: 14 µs of CPU, where this takes 5. It also lacks our
errors for malformed HTTP, and a deadline for clients that read nothing.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from proxy import ids
from proxy.clock import Clock
from proxy.core.errors import BadRequestError, GatewayError, HeadersTooLargeError
from proxy.core.networks import UNIX, UNKNOWN, canonical
from proxy.edge.peer import Watcher
from proxy.edge.receiver import HEAD_BYTES_MAX, HeadTooLargeError, Receiver
from proxy.edge.request import Body, Request
from proxy.edge.response import HeadWriter, Response
from proxy.edge.unread import Unread

logger = logging.getLogger(__name__)

HEADER_LINE_BYTES_MAX = 16_384
HEADERS_MAX = 100
LINGER_SECONDS = 5.0
"""Time limit for reading and discarding the rest of a refused body, so that the client can see the refusal."""
_JOIN_BYTES_MAX = 65_536
"""Head and body are joined into one write up to this size; beyond it copying costs more than a second write."""
JSON_TYPE = "application/json"
CROSS_ORIGIN_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "x-request-id, retry-after, retry-after-ms, x-should-retry, idempotent-replayed, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
}
"""Headers that let a page of any origin read an answer. Never with credentials: cookies mean nothing here."""


RequestCoroutine = Callable[[Request], Awaitable[Response]]


class Connection(Receiver):
    """Reads one request after the other, and answers each before the next."""

    __slots__ = (
        "_answer",
        "_clock",
        "_heads",
        "_peer_address",
        "_stall_handle",
        "_stall_seconds",
        "_unread",
        "watcher",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        answer: RequestCoroutine,
        clock: Clock,
        heads: HeadWriter,
        unread: Unread,
        stall_seconds: float,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._answer = answer
        self._clock = clock
        self._heads = heads
        self._unread = unread
        self._stall_seconds = stall_seconds
        self._stall_handle: asyncio.TimerHandle | None = None
        self.watcher: Watcher | None = None
        self._peer_address: str | None = None

    def is_lost(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    @property
    def is_new(self) -> bool:
        """True until it sends its first request."""
        return self.request_count == 0 and not self.is_lost()

    def limit(self, *, keepalive_seconds: float, stall_seconds: float) -> None:
        """Change the limits: the keepalive limit at once, the stall limit from the next stall on."""
        self.keepalive_seconds = keepalive_seconds
        self._stall_seconds = stall_seconds
        if self.keepalive_handle is not None:
            self.keepalive_handle.cancel()
            self.keepalive_handle = None
            self._wait_for_next()

    @property
    def is_loopback(self) -> bool:
        here = None if self.transport is None else self.transport.get_extra_info("sockname")
        return isinstance(here, tuple) and (here[0].startswith("127.") or here[0] == "::1")

    @property
    def peer_address(self) -> str:
        if self._peer_address is None:
            self._peer_address = _peer_address(self.transport)
        return self._peer_address

    def force_close(self) -> None:
        """Close, even if sent bytes are still buffered."""
        transport = self.transport
        super().force_close()
        if transport is not None:
            self._see_off(transport)

    def close_if_idle(self) -> None:
        """Close unless a request is being answered. A request with an incomplete head has not begun."""
        if self.waiter is not None and not self.waiter.done():
            self.force_close()  # close() would leave the transport open, and a next request on it unanswered

    def send_head(self, request: Request, status: int, headers: Mapping[str, str], first: bytes, fields: str = "") -> None:
        if request.takes_chunks:
            self._send(request, status, {**headers, "Transfer-Encoding": "chunked"}, first, fields)
        else:
            request.closing = True
            self._send(request, status, headers, first, fields)

    # the request cycle

    async def start(self) -> None:
        """Answer requests until the connection ends. aiohttp's protocol runs this as the connection's task."""
        try:
            await self._answer_all()
        except ConnectionError:
            pass  # the client left, or must see that its answer is incomplete
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            logger.exception("a connection failed outside of all that answers failures")
        if not self.is_force_closed:
            self.task = None
            if self.transport is not None:
                self.transport.close()
                self._see_off(self.transport)

    async def _answer_all(self) -> None:
        while not self.is_force_closed:
            if not self.messages and self._missing is None:
                self.data_received(b"")  # aiohttp miscounts, and may hold back bytes as if other requests waited
            if not self.messages:
                self.waiter = self.loop.create_future()
                try:
                    await self.waiter
                finally:
                    self.waiter = None
            else:
                await asyncio.sleep(0)  # ten thousand requests fit into one piece, and few handlers wait for anything
            request = self._next_request()
            if request is None:
                return await self._linger()
            try:
                response = await self._answer(request)
            finally:
                self._end_request()
            self._finish(request, response)
            if self.writing_paused or not request.content.is_eof():
                with self._unread.waiting(request.head.credential, len(response.body or b"")) as has_room:
                    await (self._let_finish(request.content) if has_room else self._drop())
            if self.upgraded:
                self._decline_upgrade()
            if request.closing or self.is_closing:
                return None
            self._wait_for_next()
        return None

    def _next_request(self) -> Request | None:
        """Begin the next request; None if it was malformed, and has been refused."""
        request = self._take_request()
        if not isinstance(request, Request):
            self._refuse(request)
            return None
        self.request_in_progress = True
        self.current_request = request
        return request

    def _end_request(self) -> None:
        self.current_request = None
        self.request_in_progress = False
        if self.shutdown_waiter is not None:
            self.shutdown_waiter.set_result(None)

    def _finish(self, request: Request, response: Response) -> None:
        """Send a whole answer, or the end of a streamed one."""
        body = response.body
        if body is not None:
            if response.status not in (204, 304):
                response.headers["Content-Length"] = str(len(body))
            self._send(request, response.status, response.headers, b"" if request.method == "HEAD" else body, response.fields)
        elif request.takes_chunks and self.transport is not None:
            self.transport.write(b"0\r\n\r\n")

    def _send(self, request: Request, status: int, headers: Mapping[str, str], body: bytes, fields: str = "") -> None:
        if self.transport is None:
            return
        version = "HTTP/1.1"
        if not request.takes_chunks:
            version = "HTTP/1.0"
            headers = {**headers, "Connection": "close" if request.closing else "keep-alive"}
        elif request.closing:
            headers = {**headers, "Connection": "close"}
        head = self._heads.head(version, status, headers, self._clock.now_ms(), fields)
        if len(body) <= _JOIN_BYTES_MAX:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    async def _let_finish(self, content: Body) -> None:
        """Wait until the write buffer has drained, and discard the rest of an unread body."""
        try:
            if self.writing_paused:
                await self.drain()
            if not content.is_eof():
                async with asyncio.timeout(LINGER_SECONDS):
                    while not content.is_eof():
                        await content.readany()
        except TimeoutError:
            self.is_closing = True
        except (ConnectionError, GatewayError, HttpProcessingError):
            await self._linger()  # gone or malformed: nothing more can be read

    async def _drop(self) -> None:
        """End a connection whose answer nobody reads, beside too many of that kind."""
        logger.warning("dropped a connection: too many answers of its key are not read")
        self.is_closing = True
        if self.transport is not None:
            self.transport.abort()

    async def _linger(self) -> None:
        """Half-close, and discard what the client still sends: after a full close it might see a reset instead of the answer.

        RFC 9112, 9.6. It ends as an idle connection does: when it is lost, or when the process stops.
        """
        self.is_closing = True  # nothing is parsed any more
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write_eof()
        self.resume_transport_reading()
        self.waiter = self.loop.create_future()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await self.waiter
        except TimeoutError:
            pass
        finally:
            self.waiter = None

    def _decline_upgrade(self) -> None:
        """Continue in HTTP/1.1 after a request that asked for another protocol: the bytes after it are the next request."""
        if self.parser is None or self.messages:
            return
        self.parser.set_upgraded(False)
        self.upgraded = False
        tail, self.upgraded_tail = self.upgraded_tail, b""
        if tail:
            self.data_received(tail)
        if self.buffer_paused:
            self.resume_reading_if_drained()

    def _wait_for_next(self) -> None:
        """Set the deadline for the next request's head. Each connection has one timer, which checks the time when it fires."""
        self.keepalive_deadline = self.loop.time() + self.keepalive_seconds
        if self.keepalive_handle is None:
            self.keepalive_handle = self.loop.call_at(self.keepalive_deadline, self.process_keepalive)

    def _refuse(self, message: Any) -> None:
        """Answer malformed HTTP. aiohttp's own answer is text/plain and quotes the offending header, which may hold a key."""
        error = _error_for(message.exc)
        request_id = ids.request_id(self._clock.now_ms())
        headers = {**CROSS_ORIGIN_HEADERS, "Content-Type": JSON_TYPE, "x-request-id": request_id, "Connection": "close"}
        body = orjson.dumps(error.body())
        if self.transport is not None:
            headers["Content-Length"] = str(len(body))
            self.transport.write(self._heads.head("HTTP/1.1", error.status, headers, self._clock.now_ms()) + body)
        logger.info("refused malformed HTTP with %d %s, request %s", error.status, error.code, request_id)

    # what the loop calls

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

    # clients that read nothing

    def _see_off(self, transport: asyncio.Transport) -> None:
        """Abort a closed connection if its buffer does not drain: otherwise it would wait for its client for ever.

        The stall timer does not run below the transport's high-water mark.
        """
        if waiting := transport.get_write_buffer_size():
            self.loop.call_later(self._stall_seconds, self._abort_unless_below, transport, waiting)

    def _abort_unless_below(self, transport: asyncio.Transport, waiting_bytes: int) -> None:
        if transport.get_write_buffer_size() < waiting_bytes:
            self._see_off(transport)
        else:
            transport.abort()

    def _cancel_stall(self) -> None:
        if self._stall_handle is not None:
            self._stall_handle.cancel()
            self._stall_handle = None

    def _watch_for_stall(self) -> None:
        """Abort the connection if the client reads nothing for `stall_seconds`: its buffer would never drain."""
        if self.transport is not None:
            waiting = self.transport.get_write_buffer_size()
            self._stall_handle = self.loop.call_later(self._stall_seconds, self._drop_unless_below, waiting)

    def _drop_unless_below(self, waiting_bytes: int) -> None:
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() < waiting_bytes:  # slow, but it reads
            self._watch_for_stall()
        else:
            self.transport.abort()


def _peer_address(transport: asyncio.BaseTransport | None) -> str:
    """Return the address of the other end. By the socket's family: of a connection that was reset no address can be had."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return UNKNOWN
    if sock.family == socket.AF_UNIX:
        return UNIX
    peer = transport.get_extra_info("peername") if transport is not None else None
    return canonical(peer[0]) if isinstance(peer, tuple) else UNKNOWN


def _error_for(fault: BaseException | None) -> GatewayError:
    if isinstance(fault, HeadTooLargeError):
        return HeadersTooLargeError(f"The request's line and headers are together longer than {HEAD_BYTES_MAX} bytes")
    if isinstance(fault, LineTooLong):
        return HeadersTooLargeError(f"A request line or header is longer than {HEADER_LINE_BYTES_MAX} bytes")
    if isinstance(fault, HttpProcessingError) and fault.message == "Too many headers received":  # aiohttp has no class for it
        return HeadersTooLargeError(f"The request has more than {HEADERS_MAX} headers")
    return BadRequestError("Malformed HTTP request")
