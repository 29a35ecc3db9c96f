"""An answer whose head has arrived: its body is read whole, or spliced to a sink."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.upstream.failures import UpstreamBrokenError, UpstreamFailure
from proxy.upstream.http1.head import Head

STREAM_SLICE_BYTES = 16 * 1024
BODY_SLICE_BYTES = 64 * 1024
"""The most of an answer that is passed on in a turn of the loop: of a stream, whose events are judged one by one, and of a body that is
only collected. A socket that is never empty yields 256 kB at a time, 32 times in a row; as many line ends took half a second."""
_WAITING_BYTES_MAX = STREAM_SLICE_BYTES
"""Bytes that may wait for `read` or `splice` before reading stops."""

Shortcut = Callable[[bytes], bool]
"""Takes a received piece if it is one whole chunk of a known shape; returns whether it did."""


class Sink(Protocol):
    """Receiver of the body, called from the event loop as the bytes come. It must not raise or block."""

    def feed(self, payload: bytes, framed: bytes | None) -> Shortcut | None:
        """Take a piece. `framed`: the same payload as whole chunks of chunked coding, as received.

        Returns: a shortcut that is offered the next pieces first, for as long as it takes them.
        """

    def end(self, failure: UpstreamFailure | None) -> None:
        """Take the end, once. None: the body is complete."""


class Carrier(Protocol):
    """The connection of an answer, as far as the answer needs it."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class Answer:
    """An upstream's answer after its head: `read`, `splice` or `abort` it. At its end its connection becomes free."""

    __slots__ = ("_carrier", "_ended", "_failure", "_head", "_sink", "_waiting", "_waiting_bytes", "slice_bytes", "status")

    def __init__(self, carrier: Carrier, head: Head) -> None:
        self.status = head.status
        self.slice_bytes = STREAM_SLICE_BYTES
        """The most that is passed on in one turn of the loop."""
        self._head = head
        self._carrier: Carrier | None = carrier
        self._sink: Sink | None = None
        self._waiting: list[tuple[bytes, bytes | None]] = []
        self._waiting_bytes = 0
        self._ended = False
        self._failure: UpstreamFailure | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the first field of that lower-case name, or None."""
        return self._head.field(name)

    def at_hand(self) -> bytes | None:
        """Take and return the body if all of it has arrived; None: it is incomplete, or broken."""
        if not self._ended or self._failure is not None or self._sink is not None:
            return None
        waiting, self._waiting = self._waiting, []
        return waiting[0][0] if len(waiting) == 1 else b"".join([payload for payload, _ in waiting])

    async def read(self, bytes_max: int) -> bytes:
        """Return the whole body. Cancelled, it aborts the answer.

        Raises:
            UpstreamBrokenError: the body was cut, or is larger than `bytes_max`.
            UpstreamTimeoutError: no byte came for too long.
        """
        collector = _Collector(self, bytes_max)
        self.slice_bytes = BODY_SLICE_BYTES
        try:
            self.splice(collector)
            return await collector.whole
        finally:
            self.abort()

    def splice(self, sink: Sink) -> None:
        """Pass the body to `sink`: the part that is here within this call, the rest as it comes."""
        assert self._sink is None, "an answer is read once"
        self._sink = sink
        if self._waiting_bytes > _WAITING_BYTES_MAX:
            self.resume()
        waiting, self._waiting = self._waiting, []
        for payload, framed in waiting:
            sink.feed(payload, framed)
        if self._ended:
            sink.end(self._failure)

    def pause(self) -> None:
        """Stop reading from the upstream. The idle limit does not run meanwhile."""
        if self._carrier is not None:
            self._carrier.pause()

    def resume(self) -> None:
        """Resume reading."""
        if self._carrier is not None:
            self._carrier.resume()

    def abort(self) -> None:
        """Close the connection, unless the body has ended. The sink is not called again."""
        if self._carrier is not None:
            carrier, self._carrier = self._carrier, None
            carrier.abort()

    def deliver(self, payload: bytes, framed: bytes | None) -> Shortcut | None:
        """Take a piece from the connection, and return the sink's shortcut for the next ones. Without a sink the piece waits."""
        if self._sink is not None:
            return self._sink.feed(payload, framed)
        self._waiting.append((payload, framed))
        self._waiting_bytes += len(payload)
        if self._waiting_bytes > _WAITING_BYTES_MAX:
            self.pause()
        return None

    def end(self, failure: UpstreamFailure | None) -> None:
        """Take the end from the connection, which no longer belongs to this answer."""
        self._carrier = None
        self._ended = True
        self._failure = failure
        if self._sink is not None:
            self._sink.end(failure)


class _Collector:
    """The sink of `Answer.read`."""

    __slots__ = ("_answer", "_bytes_left", "_pieces", "whole")

    def __init__(self, answer: Answer, bytes_max: int) -> None:
        self._answer = answer
        self._bytes_left = bytes_max
        self._pieces: list[bytes] = []
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def feed(self, payload: bytes, framed: bytes | None) -> None:  # noqa: ARG002 - the sink's signature
        self._bytes_left -= len(payload)
        if self._bytes_left >= 0:
            self._pieces.append(payload)
        elif not self.whole.done():
            self._answer.abort()
            self.whole.set_exception(UpstreamBrokenError("upstream: the answer is larger than may be read"))

    def end(self, failure: UpstreamFailure | None) -> None:
        if self.whole.done():
            return
        if failure is not None:
            self.whole.set_exception(failure)
        else:
            self.whole.set_result(b"".join(self._pieces))
