"""The stand-in itself: listens, passes each call to a script or to the default behaviour, and records all calls."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs

from proxy.clock import Clock, SystemClock
from proxy.demo.ark.behaviour import Behaviour, Settings
from proxy.demo.ark.call import Call
from proxy.demo.ark.connection import Connection
from proxy.demo.ark.reader import Head
from proxy.demo.ark.script import Ask, Script, Step
from proxy.tasks import TaskGroup

PREFIX = "/api/v3"
_BACKLOG = 4096

When = Literal["body", "head"]


@dataclass(slots=True)
class _Planned:
    """A script that waits for its call. `times` None: for every call."""

    script: Script
    path: str
    method: str | None
    when: When
    times: int | None

    def fits(self, call: Call, when: When) -> bool:
        if self.when != when or self.method not in (None, call.method):
            return False
        return call.path.startswith(self.path[:-1]) if self.path.endswith("*") else call.path == self.path


class StandIn:
    """Ark on a loopback port: ``async with StandIn() as ark: ...``, or `open()` and `close()`.

    Attributes:
        calls: the calls that arrived, oldest first, at most the last `calls_max`.
        chat, images, videos: the default behaviour of each family, with attributes that change it.
        open_connections, connections_accepted, closed_by_peer: counters; the last counts connections that the peer closed while
            an answer was being played.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        ssl_context: ssl.SSLContext | None = None,
        calls_max: int = 10_000,
    ) -> None:
        self.host = host
        self.port = port
        self.calls: list[Call] = []
        self.connections_accepted = 0
        self.closed_by_peer = 0
        self._clock = clock or SystemClock()
        self._ssl_context = ssl_context
        self._calls_max = calls_max
        self._calls_seen = 0
        self._behaviour = Behaviour(settings or Settings(), self._clock, lambda: self.origin)
        self.chat = self._behaviour.chat
        self.images = self._behaviour.images
        self.videos = self._behaviour.videos
        self._planned: list[_Planned] = []
        self._planned_connections: deque[Sequence[Step]] = deque()
        self._connections: dict[int, Connection] = {}
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._faults: list[BaseException] = []
        self._tasks = TaskGroup("ark")
        self._server: asyncio.Server | None = None

    # Opening and closing.

    async def open(self) -> Self:
        """Listen. After `stop_listening()`, listen again on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._accept, self.host, self.port, ssl=self._ssl_context, backlog=_BACKLOG, start_serving=True
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def stop_listening(self) -> None:
        """Refuse new connections; open ones stay open."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        """Stop listening and reset open connections.

        Raises:
            BaseException: the first one that a `Check` or a script function raised.
        """
        self.stop_listening()
        for connection in list(self._connections.values()):
            connection.reset()
        await self._tasks.cancel()
        await self.wait_until(lambda: not self._connections)
        if self._faults:
            raise self._faults[0]

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def origin(self) -> str:
        return f"{'https' if self._ssl_context else 'http'}://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        return self.origin + PREFIX

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    # Scripting.

    def enqueue(
        self, script: Script, path: str = "/chat/completions", *, method: str | None = None, times: int | None = 1, when: When = "body"
    ) -> None:
        """Play the script for the next `times` calls (None: all) of a path, after the scripts that were enqueued before it.

        The script replaces authentication too.

        Args:
            path: without ``/api/v3``; a ``*`` at the end matches any path with that prefix.
            when: "head" plays it when the head has arrived, before the body, and then closes the connection.
        """
        self._planned.append(_Planned(script, path, method, when, times))

    def enqueue_connection(self, steps: Sequence[Step]) -> None:
        """Play the steps, usually `Reset()`, on the next accepted connection, before anything is read from it."""
        self._planned_connections.append(steps)

    @property
    def unplayed(self) -> int:
        """Number of scripts that still wait for a call, without those that are for every call."""
        return sum(planned.times or 0 for planned in self._planned) + len(self._planned_connections)

    def forget_scripts(self) -> None:
        self._planned.clear()
        self._planned_connections.clear()

    def drop_idle(self, *, reset: bool = False) -> int:
        """Close idle keep-alive connections, as a server does after a while, and return how many."""
        idle = [connection for connection in self._connections.values() if connection.is_idle]
        for connection in idle:
            if reset:
                connection.reset()
            else:
                connection.close()
        return len(idle)

    # Watching.

    def calls_to(self, path: str, method: str | None = None) -> list[Call]:
        """Return the recorded calls of a path (a prefix, with ``*`` at its end), oldest first."""
        return [call for call in self.calls if _Planned((), path, method, "body", 1).fits(call, "body")]

    async def wait_until(self, predicate: Callable[[], bool], timeout_seconds: float = 10.0) -> None:
        """Wait until the predicate holds. It is checked after each call, each change of a call and each connection.

        Raises:
            TimeoutError: it did not hold in time.
        """
        if predicate():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (predicate, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_seconds):
                await future
        finally:
            self._waiting.remove(entry)

    async def wait_for_calls(
        self, count: int, path: str = "*", *, method: str | None = None, timeout_seconds: float = 10.0
    ) -> list[Call]:
        """Return the calls of a path once there are `count` of them."""
        await self.wait_until(lambda: len(self.calls_to(path, method)) >= count, timeout_seconds)
        return self.calls_to(path, method)

    async def wait_closed_by_peer(self, count: int = 1, timeout_seconds: float = 10.0) -> None:
        """Wait until the peer has closed `count` connections in the middle of an answer, counted from the start."""
        await self.wait_until(lambda: self.closed_by_peer >= count, timeout_seconds)

    async def wait_ended(self, call: Call, timeout_seconds: float = 10.0) -> Call:
        """Wait until the answer of a call has ended, in any way (see `call.state`), and return the call."""
        await self.wait_until(lambda: call.state not in ("arrived", "playing"), timeout_seconds)
        return call

    # Callbacks of connections (`connection.Owner`).

    def opened(self, connection: Connection) -> Sequence[Step] | None:
        self._connections[connection.number] = connection
        self.changed()
        return self._planned_connections.popleft() if self._planned_connections else None

    def closed(self, connection: Connection, call: Call | None) -> None:
        self._connections.pop(connection.number, None)
        if call is not None:
            self.closed_by_peer += call.state == "closed_by_peer"
        self.changed()

    def arrived(self, connection: Connection, head: Head, body: bytes | None) -> tuple[Call, Sequence[Step]] | None:
        when: When = "head" if body is None else "body"
        if body is None and not any(planned.when == "head" for planned in self._planned):
            return None
        call = self._call(connection, head, body or b"")
        planned = self._take(call, when)
        if body is None and planned is None:
            return None
        self._record(call)
        return call, self._steps(call, planned)

    def perform(self, call: Call) -> Sequence[Step]:
        return self._behaviour.answer(call)

    def changed(self) -> None:
        for predicate, future in self._waiting:
            if not future.done() and predicate():
                future.set_result(None)

    def failed(self, fault: BaseException) -> None:
        self._faults.append(fault)

    def _accept(self) -> Connection:
        self.connections_accepted += 1
        return Connection(self.connections_accepted, self, self._tasks)

    def _call(self, connection: Connection, head: Head, body: bytes) -> Call:
        path, _, query = head.target.partition("?")
        request_id = self._behaviour.ids.request_id()
        headers = dict(head.headers)
        return Call(
            number=self._calls_seen + 1,
            connection=connection.number,
            at=self._clock.monotonic(),
            method=head.method,
            target=head.target,
            path=path.removeprefix(PREFIX) if path.startswith(PREFIX + "/") else path,
            query=parse_qs(query, keep_blank_values=True) if query else {},
            headers=headers,
            raw_headers=head.headers,
            body=body,
            request_id=request_id,
            client_request_id=headers.get("x-client-request-id") or self._behaviour.ids.client_request_id(request_id),
        )

    def _record(self, call: Call) -> None:
        self._calls_seen += 1
        if self._calls_max:
            self.calls.append(call)
            del self.calls[: -self._calls_max]
        self.changed()

    def _take(self, call: Call, when: When) -> _Planned | None:
        planned = next((planned for planned in self._planned if planned.fits(call, when)), None)
        if planned is not None and planned.times is not None:
            planned.times -= 1
            if planned.times == 0:
                self._planned.remove(planned)
        return planned

    def _steps(self, call: Call, planned: _Planned | None) -> Sequence[Step]:
        if planned is None:
            return self._behaviour.answer(call)
        return [Ask(planned.script)] if callable(planned.script) else planned.script
