"""The streamed answer of one call: its tap, its head, and what is written into it that is not the upstream's.

Once the head has been sent, whatever ends the call is told within the stream: `response` is what the call returns.
"""

import asyncio
from typing import Generic

from proxy.core.errors import GatewayError
from proxy.core.protocol import NOTHING_SEEN, C, SeenAnswer, StreamTap
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.exchange.attempts import Way
from proxy.exchange.ends import STREAM_HEADERS
from proxy.exchange.flight import Flight
from proxy.exchange.parts import Parts
from proxy.exchange.stream import Stream


class Streamed(Generic[C]):
    """What a call that asks for a stream has of it."""

    __slots__ = ("_call", "_context", "_flight", "_parts", "_way", "response", "tap")

    def __init__(self, parts: Parts[C], context: Context, flight: Flight, way: Way, call: C) -> None:
        self._parts = parts
        self._context = context
        self._flight = flight
        self._way = way
        self._call = call
        self.tap: StreamTap | None = None
        """Of the answer that is passed on, or of the head that went out early."""
        self.response: Response | None = None
        """The answer, once its head has been sent."""

    def open(self) -> tuple[Stream, StreamTap]:
        """Return the stream that passes on the answer, and its tap; those that an early head went out on, where one did."""
        tap, stream = self.tap, self._flight.stream
        if tap is None or stream is None:
            tap = self.tap = self._parts.protocol.new_tap(self._call)
            chunked = self._context.request.takes_chunks
            holds_end = self._parts.billing.is_shared
            stream = self._flight.open_stream(tap, self._begin, chunked=chunked, on_answer=self._way.let_go, holds_end=holds_end)
        tap.counts_text = self._way.target.model.estimated_by is not None
        return stream, tap

    def begin_early(self) -> None:
        """Send the head before the first event, which takes long: a proxy in front may wait no longer."""
        stream, _ = self.open()
        if not stream.begun:
            stream.keep_alive()

    def _begin(self, first: bytes) -> asyncio.Transport | None:
        """Send the client's head and the first bytes of its body; return its transport."""
        context = self._context
        context.headers.update(STREAM_HEADERS)
        context.first_byte_at = self._parts.clock.monotonic()
        bounds = context.bounds
        fields = "" if bounds is None else bounds.rates.fields(context.first_byte_at)
        self.response = context.begin_stream(first, fields)
        if self.tap is not None and self.tap.begun:
            self._way.let_go()
        return context.request.connection.transport

    def tell(self, error: GatewayError) -> None:
        """Tell of an error in the stream that has begun."""
        self._context.code = error.code
        self._flight.write(self._parts.protocol.error_event(error))

    def settled(self) -> None:
        """Show the answer as complete: its settlement stands."""
        if self._flight.stream is not None:
            self._flight.stream.release_end()

    def forfeited(self, error: GatewayError) -> None:
        """End the answer as cut: whether its settlement stands is not known, or another one does."""
        self.tell(error)
        transport = self._context.request.connection.transport
        if transport is not None:
            transport.close()  # with what has been written, and without the last chunk

    def is_said(self) -> bool:
        """Return whether anything of an answer has been told, so that no other may follow. An early head tells nothing of it."""
        return self.tap is not None and self.tap.begun

    def seen(self) -> SeenAnswer:
        """Return the facts so far that a settlement needs."""
        return NOTHING_SEEN if self.tap is None else self.tap.seen()

    def begin_anew(self) -> None:
        """Make ready for another answer, after one that has passed nothing on. A head that went out early stays."""
        if self.tap is None:
            return
        if self.response is None:
            self.tap = None
            self._flight.drop_stream()
        elif self.tap.error is not None:
            self.tap = self._parts.protocol.new_tap(self._call)
            self._flight.renew_stream(self.tap)
