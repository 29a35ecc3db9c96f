"""The HTTP/1.1 client for the hot path: POST to one upstream, over a pool of kept connections.

Rule: no request is sent twice, with one exception. A kept connection that dies at once, before one byte of the answer, was most likely
closed by the upstream while idle, so the request is sent once more, over a new one. One that dies later was working on the request.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import urlsplit

import aiohappyeyeballs

from proxy.tasks import TaskGroup
from proxy.upstream.failures import (
    UnconfirmedError,
    UpstreamBrokenError,
    UpstreamFailure,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from proxy.upstream.http1.answer import Answer, Shortcut, Sink
from proxy.upstream.http1.connection import Connection, ConnectionDiedError, Limits
from proxy.upstream.http1.upload import REPEATABLE_BYTES_MAX, Upload
from proxy.upstream.tunnel import Proxy, open_tunnel, unreached_through

__all__ = [
    "Answer",
    "Limits",
    "Pool",
    "Shortcut",
    "Sink",
    "UnconfirmedError",
    "Upload",
    "UpstreamBrokenError",
    "UpstreamFailure",
    "UpstreamTimeoutError",
    "UpstreamUnreachableError",
]

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_SECOND_ADDRESS_AFTER_SECONDS = 0.25
_HANDSHAKE_SECONDS_MIN = 0.001
_OPENINGS_DRAIN_SECONDS = 1.0
DIED_IDLE_SECONDS = 1.0
"""A connection that was closed while idle shows it within a round trip, which takes less than this. What dies later may have
worked, and may be charged: a proxy on the way that gave up after a minute of thinking looks the same otherwise."""
_AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple]  # type: ignore[type-arg]


class Pool:
    """Connections to one upstream. `close` it at the end."""

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        limits: Limits,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        """Make a client of `base_url`, such as ``https://host/api/v3``; `headers` go with every request (``Authorization``).

        Args: proxy: what connections go through; None: they lead to the upstream directly.

        Raises:
            ValueError: the URL is not an http(s) URL, or a header holds a line break.
        """
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"no http or https URL: {base_url!r}")
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._ssl = (ssl_context or default_ssl_context()) if url.scheme == "https" else None
        self._proxy = proxy
        self._dialled = (self._host, self._port) if proxy is None else (proxy.host, proxy.port)
        self._path = url.path.rstrip("/")
        self._limits = limits
        self._fields = _rendered(
            {
                "Host": url.netloc.rpartition("@")[2],
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
                **headers,
            }
        )
        self._begins: dict[str, bytes] = {}
        """Path → start of a request's head; the paths are the code's own, so they are few."""
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._dialling = 0
        self._openings = TaskGroup("wire")
        self._lookups = TaskGroup("lookup")
        self._lookup: asyncio.Task[list[_AddressInfo] | OSError | UnicodeError] | None = None
        self._closed = False
        self._all_gone: asyncio.Future[None] | None = None

    @property
    def open_connections(self) -> int:
        """Return how many connections are open, idle ones included."""
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        """Return how many of them are idle."""
        return len(self._idle)

    async def ask(self, path: str, upload: Upload, headers: Mapping[str, str] = _NO_HEADERS) -> Answer:
        """POST the body to ``{base path}{path}`` and return the answer when its head is here. If cancelled, close the connection.

        Raises:
            UpstreamUnreachableError: no request was sent.
            UpstreamTimeoutError: no connection, or no head, in time.
            UpstreamBrokenError: the connection was cut, or the answer is not HTTP.
        """
        begin = self._begins.get(path)
        if begin is None:
            begin = self._begins[path] = b"POST %b HTTP/1.1\r\n%b" % (_line_part(self._path + path), self._fields)
        body, upload.body = upload.body, b""
        head = b"%b%bContent-Length: %d\r\n\r\n" % (begin, _rendered(headers) if headers else b"", len(body))
        if len(body) > REPEATABLE_BYTES_MAX:
            asking = self._ask_once(head, body, upload)
            del body
            return await asking
        connection = self._kept()
        while True:
            may_have_died = connection is not None
            if connection is None:
                connection = await self._dial_for(upload, body)
            upload.is_asked = True
            expected = connection.ask(head, body)
            try:
                return await expected
            except ConnectionDiedError:
                if not may_have_died or connection.asked_seconds() > DIED_IDLE_SECONDS:
                    raise
                connection = None
            except BaseException:
                connection.give_up(expected)
                raise

    async def _ask_once(self, head: bytes, body: bytes, upload: Upload) -> Answer:
        """Send a large body over a new connection, which cannot have died while idle, and keep nothing of it."""
        connection = await self._dial_for(upload, body)
        upload.is_asked = True
        expected = connection.ask(head, body, upload.sent)
        del body
        try:
            return await expected
        except BaseException:
            connection.give_up(expected)
            raise

    async def close(self) -> None:
        """Close all connections, and wait until they are gone. Calls under way end as broken; new ones are refused."""
        self._closed = True
        await self._lookups.cancel()
        if await self._openings.drain(_OPENINGS_DRAIN_SECONDS):
            await self._openings.cancel()
        for connection in tuple(self._connections):
            connection.shut()
        if self._connections:
            if self._all_gone is None:
                self._all_gone = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_gone)

    def retire(self) -> None:
        """Keep no connection from now on: another pool takes over. Calls under way, and callers that still ask here, are served."""
        self._limits = replace(self._limits, idle_connections_max=0)
        for connection in tuple(self._idle):
            connection.abort()

    # calls from a connection

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)

    def vacant(self, connection: Connection) -> bool:
        if self._closed or len(self._idle) >= self._limits.idle_connections_max:
            return False
        self._idle.append(connection)
        return True

    def gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._all_gone is not None and not self._connections and not self._all_gone.done():
            self._all_gone.set_result(None)

    # steps

    def _kept(self) -> Connection | None:
        """Return the kept connection used last: it is the likeliest to live, and the others may expire."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable():
                return connection
            connection.abort()
        return None

    async def _dial_for(self, upload: Upload, body: bytes) -> Connection:
        """Dial; where that fails, give the body back: nothing of it was sent, and it may be sent elsewhere."""
        try:
            return await self._dial()
        except UpstreamFailure:
            upload.body = body
            raise

    async def _dial(self) -> Connection:
        self._refuse_if_closed()
        if len(self._connections) + self._dialling >= self._limits.connections_max:
            raise UpstreamUnreachableError(f"upstream: {self._limits.connections_max} connections are open already")
        self._dialling += 1
        try:
            connection = await self._connect(asyncio.get_running_loop())
        except TimeoutError as fault:
            if self._proxy is None:
                raise UpstreamTimeoutError("connect", self._limits.connect_seconds) from fault
            raise unreached_through(self._proxy, self._limits.connect_seconds) from fault
        except (OSError, UnicodeError) as fault:
            through = "" if self._proxy is None else f" through {self._proxy}"
            raise UpstreamUnreachableError(f"upstream: cannot connect{through}: {fault}") from fault
        finally:
            self._dialling -= 1
        try:
            self._refuse_if_closed()
        except UpstreamUnreachableError:
            connection.abort()
            raise
        return connection

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UpstreamUnreachableError("upstream: the client is closed")

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        """Connect, and do the handshake. If the caller is cancelled, the handshake goes on, and its connection joins the idle ones."""
        deadline = loop.time() + self._limits.connect_seconds
        async with asyncio.timeout_at(deadline):
            made = await aiohappyeyeballs.start_connection(
                await self._addresses(loop), happy_eyeballs_delay=_SECOND_ADDRESS_AFTER_SECONDS, interleave=1
            )
            if self._proxy is not None:
                await open_tunnel(self._proxy, made, self._host, self._port)
        opening = self._openings.spawn(self._open(loop, made, max(deadline - loop.time(), _HANDSHAKE_SECONDS_MIN)), "open")
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._adopt)
            raise
        if isinstance(opened, Exception):
            raise opened
        return opened

    async def _open(self, loop: asyncio.AbstractEventLoop, made: socket.socket, handshake_seconds: float) -> Connection | OSError:
        """Turn a connected socket into a connection, or return the error.

        It runs in a task of its own, which no caller's cancel reaches. Cancelled in the turn before it takes the socket over, uvloop's
        `create_connection` closes the descriptor under the socket object and never calls `connection_lost` (0.22.1).
        """
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            _, connection = await loop.create_connection(
                lambda: Connection(self, self._limits, loop),
                sock=made,
                ssl=self._ssl,
                server_hostname=self._host if self._ssl else None,
                ssl_handshake_timeout=handshake_seconds if self._ssl else None,
            )
        except ConnectionAbortedError as fault:
            # Both loops report a handshake that took too long like this.
            made.close()
            return TimeoutError(str(fault))
        except OSError as fault:
            made.close()
            return fault
        except BaseException:
            made.close()
            raise
        return connection

    def _adopt(self, opening: asyncio.Task[Connection | OSError]) -> None:
        """Keep a connection whose caller left while it opened."""
        if opening.cancelled() or opening.exception() is not None:
            return
        opened = opening.result()
        if isinstance(opened, Connection) and not self.vacant(opened):
            opened.abort()

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[_AddressInfo]:
        """Resolve the host that is dialled; a literal address does not go through the resolver's threads.

        All waiting calls share one lookup. The loop has four threads for lookups: while the resolver does not answer, lookups that no
        call waits for any more would queue up, and be made one after the other long after it answers again.
        """
        try:
            return list(socket.getaddrinfo(*self._dialled, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        except socket.gaierror:
            pass
        if self._lookup is None or self._lookup.done():
            self._lookup = self._lookups.spawn(self._resolve(loop), self._dialled[0])
        found = await asyncio.shield(self._lookup)
        if isinstance(found, Exception):
            raise found
        return found

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[_AddressInfo] | OSError | UnicodeError:
        try:
            return list(await loop.getaddrinfo(*self._dialled, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as fault:
            return fault


def default_ssl_context() -> ssl.SSLContext:
    """Return a context that verifies an upstream by the system's authorities. Making one costs 20 ms: several pools may share it."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _rendered(headers: Mapping[str, str]) -> bytes:
    return b"".join(b"%b: %b\r\n" % (_line_part(name), _line_part(value)) for name, value in headers.items())


def _line_part(text: str) -> bytes:
    """Return text for a request's head.

    Raises:
        ValueError: the text would end the line, or is not Latin-1. It is not quoted in the error, as it may be a key.
    """
    if "\r" in text or "\n" in text or "\0" in text:
        raise ValueError("a header or path holds a line break")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("a header or path holds characters beyond Latin-1") from None
