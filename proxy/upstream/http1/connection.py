"""One connection to an upstream, and the answer that it carries.

Rule: a connection serves one exchange at a time, and another only if the last answer ended where its framing said. Received bytes go to
the answer's sink within `data_received`; nothing is queued once there is a sink.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from proxy.upstream.failures import Phase, UpstreamBrokenError, UpstreamFailure, UpstreamTimeoutError
from proxy.upstream.http1.answer import Answer, Shortcut
from proxy.upstream.http1.framing import Framing, FramingError
from proxy.upstream.http1.head import HeadError, HeadReader

_JOIN_BYTES_MAX = 64 * 1024
_STEP_SECONDS_MIN = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of calls to one upstream. `first_byte_seconds` is for the whole head, `idle_seconds` from piece to piece."""

    connect_seconds: float = 10.0
    first_byte_seconds: float = 600.0
    idle_seconds: float = 300.0
    idle_connections_max: int = 256
    keepalive_seconds: float = 30.0
    head_bytes_max: int = 64 * 1024
    connections_max: int = 10_000


class Home(Protocol):
    """Owner of connections: it is told when one opens, may serve again, or is gone."""

    def opened(self, connection: "Connection") -> None: ...
    def vacant(self, connection: "Connection") -> bool:
        """Return whether the connection may stay open."""

    def gone(self, connection: "Connection") -> None: ...


class ConnectionDiedError(UpstreamBrokenError):
    """The connection ended before one byte of the answer: a reused one was perhaps closed while the request was sent."""


class Connection(asyncio.Protocol):
    """The protocol of one connection: idle, awaiting a head, or carrying a body."""

    __slots__ = (
        "_answer",
        "_expected",
        "_framing",
        "_head",
        "_heads",
        "_home",
        "_keep_alive",
        "_later",
        "_limits",
        "_loop",
        "_loss",
        "_paused",
        "_rests",
        "_sent",
        "_shortcut",
        "_since",
        "_step",
        "_timer",
        "_transport",
        "_writing_paused",
        "used",
    )

    def __init__(self, home: Home, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._home = home
        self._limits = limits
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._expected: asyncio.Future[Answer] | None = None
        self._heads = HeadReader(limits.head_bytes_max)
        self._head: HeadReader | None = None
        """The same object while an answer's head is awaited, else None."""
        self._answer: Answer | None = None
        self._framing: Framing | None = None
        self._shortcut: Shortcut | None = None
        """The shortcut that is offered the next piece: only between two chunks, and only from one piece to the next."""
        self._sent: Callable[[], None] | None = None
        """Told once the request has left this process."""
        self._writing_paused = False
        self._keep_alive = False
        self._paused = False
        self._rests = False
        """It reads nothing more in this turn of the loop."""
        self._later: deque[bytes] = deque()
        """Received, and passed on in the next turns of the loop, a slice in each. Meanwhile nothing is read."""
        self._loss: tuple[Exception | None] | None = None
        """The fault, or none, with which the connection was lost before all of those were passed on."""
        self._since = loop.time()
        # One timer a connection, never re-armed by an event: it checks the stamp when it fires, at least once in the shortest limit.
        self._step = max(_STEP_SECONDS_MIN, min(limits.first_byte_seconds, limits.idle_seconds, limits.keepalive_seconds))
        self._timer: asyncio.TimerHandle | None = None
        self.used = False
        """True once it has carried an answer."""

    def is_reusable(self) -> bool:
        """Return whether this idle connection is open and was used recently enough."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self._loop.time() - self._since < self._limits.keepalive_seconds

    def asked_seconds(self) -> float:
        """Return how long ago it was asked, for one that has not answered."""
        return self._loop.time() - self._since

    def ask(self, head: bytes, body: bytes, sent: Callable[[], None] | None = None) -> "asyncio.Future[Answer]":
        """Send a request; the future holds the answer once its head is here. A caller that stops waiting must `give_up`.

        Args: sent: called once all but what a write buffer may hold of the request has been sent, or the connection is gone.

        It raises:
            ConnectionDiedError: the connection ended before one byte of an answer.
            UpstreamBrokenError, UpstreamTimeoutError
        """
        expected: asyncio.Future[Answer] = self._loop.create_future()
        self._expected = expected
        self._head = self._heads
        self._heads.restart()
        self._since = self._loop.time()
        if self._transport is None or self._transport.is_closing():
            self._fail(ConnectionDiedError("upstream: the connection was lost before the request left"))
        else:
            self._send(self._transport, head, body)
        if sent is not None:
            self._sent = sent
            if not self._writing_paused:
                self._tell_sent()
        return expected

    def give_up(self, expected: "asyncio.Future[Answer]") -> None:
        """Close the connection if it still belongs to that call. A complete answer has given it back, perhaps to another call."""
        if self._expected is expected:
            self.abort()
        elif expected.done() and not expected.cancelled() and expected.exception() is None:
            expected.result().abort()

    def pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._since = self._loop.time()
            if self._later or self._loss is not None:
                self._rest()
            elif not self._rests:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once, and tell only the home."""
        self._expected = self._answer = self._framing = self._shortcut = self._head = None
        self._later.clear()
        if self._transport is not None:
            self._transport.abort()
        if self._loss is not None:
            self._loss = None
            self._depart()

    def shut(self) -> None:
        """Close because the process ends, and tell the call that still waits."""
        self._fail(UpstreamBrokenError("upstream: the connection was closed from this side"))

    # what the loop calls

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._tell_sent()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._timer = self._loop.call_later(self._step, self._look_at_time)
        self._home.opened(self)

    def data_received(self, received: bytes) -> None:
        shortcut = self._shortcut
        if shortcut is not None:
            if shortcut(received):
                self._since = self._loop.time()
                return
            self._shortcut = None
        if self._later:
            self._later.append(received)  # TLS hands on what it had decrypted, paused or not
            return
        framing = self._framing
        answer = self._answer
        if framing is None or answer is None:
            self._receive_head(received)
            return
        self._since = self._loop.time()
        self._feed(framing, answer, received)

    def eof_received(self) -> None:
        if self._later:
            return  # the transport closes itself, and `connection_lost` waits
        framing = self._framing
        if framing is not None and framing.ends_with_connection():
            self._finish(framing)
        else:
            self._fail(self._death("the upstream closed the connection"))

    def connection_lost(self, fault: Exception | None) -> None:
        if self._later:
            self._loss = (fault,)
            return
        framing = self._framing
        if framing is not None and framing.ends_with_connection() and fault is None:
            self._finish(framing)
        else:
            self._fail(self._death(f"the connection was lost ({type(fault).__name__ if fault else 'closed'})"))
        self._depart()

    # steps

    def _depart(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._transport = None
        self._tell_sent()
        self._home.gone(self)

    def _tell_sent(self) -> None:
        sent, self._sent = self._sent, None
        if sent is not None:
            sent()

    def _send(self, transport: asyncio.Transport, head: bytes, body: bytes) -> None:
        if len(body) <= _JOIN_BYTES_MAX:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def _receive_head(self, received: bytes) -> None:
        reader, expected = self._head, self._expected
        if reader is None or expected is None or expected.done():
            # Bytes on an idle connection would be mistaken for the next answer; or no call waits any more.
            self.abort()
            return
        try:
            found = reader.feed(received)
        except HeadError as fault:
            self._fail(UpstreamBrokenError(f"upstream: {fault}"))
            return
        if found is None:
            return
        head, rest = found
        self._expected = self._head = None
        self._since = self._loop.time()
        self._keep_alive = head.keep_alive
        framing = self._framing = head.framing
        answer = self._answer = Answer(self, head)
        expected.set_result(answer)
        if rest or framing.done:
            self._feed(framing, answer, rest)

    def _feed(self, framing: Framing, answer: Answer, received: bytes) -> None:
        if len(received) > answer.slice_bytes:
            received = self._first_slice(received, answer.slice_bytes)
        try:
            payload, framed = framing.feed(received)
        except FramingError as fault:
            self._fail(UpstreamBrokenError(f"upstream: {fault}"))
            return
        if payload:
            shortcut = answer.deliver(payload, framed)
            self._shortcut = shortcut if framed is received and not self._later else None
        if framing.done and self._framing is framing:
            self._finish(framing)

    def _first_slice(self, received: bytes, size: int) -> bytes:
        """Keep all but the first slice for the next turns of the loop: what it costs to follow a piece depends on who wrote it."""
        self._later.extendleft(received[begin : begin + size] for begin in reversed(range(size, len(received), size)))
        self._rest()
        return received[:size]

    def _rest(self) -> None:
        """Let all others have their turn before this connection goes on."""
        if self._transport is not None and not self._rests:
            self._rests = True
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Pass on the next slice, or read on."""
        self._rests = False
        framing, answer = self._framing, self._answer
        if self._paused or self._transport is None:
            return
        if self._later and framing is not None and answer is not None:
            self._rest()
            self._since = self._loop.time()
            slices = [self._later.popleft()]
            while self._later and sum(map(len, slices)) + len(self._later[0]) <= answer.slice_bytes:
                slices.append(self._later.popleft())  # cut before it was known that the body is only collected
            self._feed(framing, answer, b"".join(slices))
        elif self._loss is not None:
            (fault,), self._loss = self._loss, None
            self.connection_lost(fault)
        else:
            self._transport.resume_reading()

    def _finish(self, framing: Framing) -> None:
        """End a complete body: free the connection before telling the answer, since its sink may send another request at once."""
        answer, self._answer, self._framing = self._answer, None, None
        self.used = True
        transport = self._transport
        if transport is not None:
            is_clean = self._keep_alive and not framing.surplus and not self._later and not transport.is_closing()
            if is_clean and not transport.get_write_buffer_size():
                self.resume()
                self._since = self._loop.time()
                if not self._home.vacant(self):
                    transport.abort()
            else:
                self.abort()
        if answer is not None:
            answer.end(None)

    def _fail(self, failure: UpstreamFailure) -> None:
        """Close, and tell the waiting call, if any."""
        expected, answer = self._expected, self._answer
        self.abort()
        if expected is not None and not expected.done():
            expected.set_exception(failure)
        if answer is not None:
            answer.end(failure)

    def _death(self, how: str) -> UpstreamBrokenError:
        if self._head is not None and not self._head.begun:
            return ConnectionDiedError(f"upstream: {how} before an answer")
        return UpstreamBrokenError(f"upstream: {how} within an answer")

    def _look_at_time(self) -> None:
        now = self._loop.time()
        phase: Phase | None = None
        if self._answer is not None:
            phase, seconds = "idle", self._limits.idle_seconds
        elif self._expected is not None:
            phase, seconds = "first_byte", self._limits.first_byte_seconds
        else:
            seconds = self._limits.keepalive_seconds
        left = self._step if self._paused else self._since + seconds - now
        if left > 0:
            self._timer = self._loop.call_later(min(left, self._step), self._look_at_time)
        elif phase is None:
            self.abort()
        else:
            self._fail(UpstreamTimeoutError(phase, seconds))
