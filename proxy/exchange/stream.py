"""The body of a stream: upstream bytes go through the tap to the client's transport, within the call that delivers them."""

import asyncio

from proxy.core.chat.tap import is_told
from proxy.core.protocol import EventTooLargeError, StreamTap
from proxy.upstream.http1.framing import PLAIN_CHUNKS
from proxy.upstream.http1.pool import Shortcut, UpstreamBrokenError, UpstreamFailure

_CRLF = b"\r\n"
_NO_CHUNK = b"", 0


class Stream:
    """The sink of a streamed answer. At the body's end `done` gets its failure, or None."""

    __slots__ = ("_after", "_around_bytes", "_before", "_chunked", "_done", "_tap", "_transport", "sent_bytes")

    def __init__(
        self, tap: StreamTap, transport: asyncio.Transport | None, done: "asyncio.Future[UpstreamFailure | None]", *, chunked: bool
    ) -> None:
        """Write to `transport`, in chunked coding if `chunked`, else as it is. None: the client has left."""
        self._tap = tap
        self._transport = transport
        self._done = done
        self._chunked = chunked
        self._before = self._after = b""
        self._around_bytes = 0
        self.sent_bytes = 0
        """Bytes of the body that the client was sent, without framing."""

    def feed(self, payload: bytes, framed: bytes | None) -> Shortcut | None:
        """Pass on one piece of the body, in the upstream's own framing if the tap took nothing out."""
        tap = self._tap
        try:
            passed = tap.feed(payload)
        except EventTooLargeError as fault:
            self._finish(UpstreamBrokenError(str(fault)))
            return None
        if tap.error is not None:
            self.write(passed)
            self._finish(None)
        elif framed is None or passed is not payload or not self._chunked:
            self.write(passed)
        elif self._transport is not None:
            self.sent_bytes += len(passed)
            self._transport.write(framed)
            return self._shortcut()
        return None

    def repeat(self, received: bytes) -> bool:
        """Pass on a piece that is one chunk with the last event again, except for its text; return whether it was one.

        Nearly all pieces are. For them only this, `Connection.data_received` and the transport run. `removeprefix` and `removesuffix`
        parse no arguments, so they cost a third of `startswith` and `endswith`.
        """
        line, size = PLAIN_CHUNKS.get(len(received), _NO_CHUNK)
        text = received.removeprefix(line).removeprefix(self._before).removesuffix(self._after)
        if len(text) + self._around_bytes != size or self._transport is None or not is_told(text):
            return False
        self._tap.content_events += 1
        self.sent_bytes += size
        self._transport.write(received)
        return True

    def end(self, failure: UpstreamFailure | None) -> None:
        self.write(self._tap.finish(clean=failure is None))
        self._finish(failure)

    def write(self, piece: bytes) -> None:
        """Send bytes of the body to the client, framed, if it is still there."""
        if piece and self._transport is not None:
            self.sent_bytes += len(piece)
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    def forget_client(self) -> None:
        """Stop writing; the upstream is still read."""
        self._transport = None

    def _shortcut(self) -> Shortcut | None:
        shape = self._tap.shape()
        if shape is None:
            return None
        before, after = shape
        self._before, self._after = before, after + _CRLF
        self._around_bytes = len(before) + len(after)
        return self.repeat

    def _finish(self, failure: UpstreamFailure | None) -> None:
        if not self._done.done():
            self._done.set_result(failure)
