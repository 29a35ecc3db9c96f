"""The middle of the hot path: splices the upstream's answer to a client's connection, without a task or a queue.

A `Flight` sees everything that can end a call: the upstream's end, a client that leaves, and the end of the process. Its deadline
bounds all awaits on the upstream; to end a call early is to let it expire. The bytes are passed by its `Stream` (`stream.py`).
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from proxy.clock import Clock
from proxy.core.protocol import StreamTap
from proxy.core.settlement import Outcome
from proxy.edge.peer import Client
from proxy.exchange.abandonment import Abandonment
from proxy.exchange.deadline import Deadline
from proxy.exchange.heartbeat import Heartbeats
from proxy.exchange.stream import Begin, Stream
from proxy.live.settings import Live
from proxy.telemetry.metrics import Metrics
from proxy.upstream.http1.pool import Answer, UpstreamFailure

_CLIENT_GONE = Outcome.CLIENT_GONE
"""An alias: Python 3.11 looks a member up by a method of the enum's metaclass and calls a property through C, 0.1 µs each."""


class Relay:
    """All calls under way. Decides how they go on when their client leaves or the process ends."""

    def __init__(self, live: Live, metrics: Metrics, clock: Clock) -> None:
        self.loop = asyncio.get_running_loop()
        self.heartbeats = Heartbeats(self.loop, live)
        self.abandonment = Abandonment(live, clock)
        self._live = live
        self._flights: set[Flight] = set()
        self._drains: Counter[int] = Counter()
        """Number of drained calls, by account."""
        self._is_cut = False
        self._metrics = metrics

    def __len__(self) -> int:
        return len(self._flights)

    def depart(self, connection: Client, account_id: int = 0, *, stoppable: bool = True) -> "Flight":
        """Begin a call for this connection's client. It ends when its ``with`` block is left, or by `land`.

        Args: stoppable: whether the upstream stops, and bills no more, if nobody reads on.
        """
        flight = Flight(self, connection, account_id, stoppable=stoppable)
        if self._is_cut:
            flight.cause = Outcome.INTERRUPTED
        self._flights.add(flight)
        connection.watcher = flight
        return flight

    def land(self, flight: "Flight") -> None:
        """Forget a call that has ended."""
        self._flights.discard(flight)
        flight.connection.watcher = None
        if flight.stream is not None or flight.timer is not None:
            flight.close()
        if flight.drains:
            flight.drains = False
            self._count_drains(flight, -1)

    def cut(self) -> None:
        """End all calls now, and later ones as they depart: the process has no more time."""
        self._is_cut = True
        for flight in self._flights:
            flight.expire(flight.cause or Outcome.INTERRUPTED, 0)

    def drain(self, flight: "Flight") -> None:
        """Read on after a client left, to learn the usage. Seconds are bounded and, for stoppable calls, their number too."""
        policy = self._live.now.billing
        if not flight.stoppable:
            flight.expire(Outcome.CLIENT_GONE, policy.drain_after_seconds)
            return
        if policy.disconnect == "cancel" or not self._has_room(flight):
            flight.is_crowded_out = policy.disconnect != "cancel"
            flight.expire(Outcome.CLIENT_GONE, 0)
            return
        flight.drains = True
        self._count_drains(flight, 1)
        flight.expire(Outcome.CLIENT_GONE, policy.drain_after_seconds)

    def _has_room(self, flight: "Flight") -> bool:
        """Return whether one more call may be drained. One account gets at most half, so that it cannot use up all."""
        most = self._live.now.billing.drains_max
        return self._drains.total() < most and self._drains[flight.account_id] < (most + 1) // 2

    def _count_drains(self, flight: "Flight", change: int) -> None:
        self._drains[flight.account_id] += change
        if not self._drains[flight.account_id]:
            del self._drains[flight.account_id]
        self._metrics.draining_streams.set(self._drains.total())


class Flight:
    """One call: watches the client's connection, and relays the upstream's answer to it while it streams."""

    __slots__ = (
        "_answer",
        "_relay",
        "account_id",
        "cause",
        "connection",
        "deadline",
        "drains",
        "is_crowded_out",
        "stoppable",
        "stream",
        "timer",
    )

    def __init__(self, relay: Relay, connection: Client, account_id: int, *, stoppable: bool = True) -> None:
        self._relay = relay
        self.stoppable = stoppable
        self.account_id = account_id
        self._answer: Answer | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.stream: Stream | None = None
        """The stream to the client, once it is open."""
        self.connection = connection
        self.deadline = Deadline(relay.loop)
        self.cause: Outcome | None = None
        """The reason why this side ended, or will end, the call."""
        self.drains = False
        self.is_crowded_out = False
        """True if it would have been drained, but too many were."""

    def __enter__(self) -> None:
        self.deadline.__enter__()

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, traceback: object) -> None:
        """Land: from here on the client can no longer change the call. Raises: TimeoutError: the deadline ended it."""
        self._relay.land(self)
        self.deadline.__exit__(kind, fault, traceback)

    def has_client_left(self) -> bool:
        return self.cause is _CLIENT_GONE or self.connection.is_lost()

    def is_over(self) -> bool:
        """Return whether the call is over before the upstream is asked."""
        return self.cause is not None or self.connection.is_lost()

    def expire(self, cause: Outcome, after_seconds: float) -> None:
        """Let the call's deadline expire after so many seconds, unless the call lands first."""
        self.cause = cause
        self.deadline.expire_in(after_seconds)

    # the client's side

    def client_paused(self) -> None:
        if self._answer is not None:
            self._answer.pause()

    def client_resumed(self) -> None:
        if self._answer is not None:
            self._answer.resume()

    def client_lost(self) -> None:
        if self.stream is not None:
            self.stream.forget_client()
        if self.cause is None:
            self._relay.drain(self)
        if self._answer is not None:
            self._answer.resume()

    # the upstream's side

    def open_stream(
        self, tap: StreamTap, begin: Begin, *, chunked: bool, on_answer: Callable[[], None] | None = None, holds_end: bool = False
    ) -> Stream:
        """Return the stream that will pass on the answer's body.

        Args: begin: sends the client's head with the first bytes of the body; on_answer, holds_end: as `Stream` has them.
        """
        done: asyncio.Future[UpstreamFailure | None] = self._relay.loop.create_future()
        stream = self.stream = Stream(tap, begin, done, chunked=chunked, on_answer=on_answer, holds_end=holds_end)
        if self.connection.is_lost():
            stream.forget_client()
        self._relay.heartbeats.watch(stream)
        return stream

    async def splice(self, answer: Answer, stream: Stream) -> UpstreamFailure | None:
        """Relay the answer's body to its end; return its failure, or None."""
        self._answer = answer
        try:
            answer.splice(stream)
            if self.connection.writing_paused:
                answer.pause()
            return await stream.done
        finally:
            answer.abort()
            self._answer = None

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run ``action`` after so many seconds, unless the call lands first."""
        self.timer = self._relay.loop.call_later(seconds, action)

    def call_off(self) -> None:
        """Let the action of `call_later` not happen, if it has not."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def close(self) -> None:
        """Stop what runs by time: nothing is sent of itself any more."""
        self.call_off()
        if self.stream is not None:
            self._relay.heartbeats.forget(self.stream)

    def renew_stream(self, tap: StreamTap) -> None:
        """Let the stream, whose head is out, pass on another answer through a tap of its own."""
        if self.stream is not None:
            self.stream.renew(tap, self._relay.loop.create_future())

    def drop_stream(self) -> None:
        """Forget a stream that has passed nothing on: another answer is to be asked for."""
        if self.stream is not None:
            self._relay.heartbeats.forget(self.stream)
            self.stream = None

    def write(self, piece: bytes) -> None:
        """Send bytes of our own after the stream's, if one has begun and the client is still there."""
        if self.stream is not None:
            self.stream.write(piece)

    def sent_bytes(self) -> int:
        """Return how many bytes of a stream's body were sent."""
        return 0 if self.stream is None else self.stream.sent_bytes
