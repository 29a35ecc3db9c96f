"""The body of a stream: upstream bytes go through the tap to the client's transport, within the call that delivers them.

The client's head waits for the first event that has data: until then an error of the upstream's can still have a status of its own.
"""

import asyncio
from collections.abc import Callable

from proxy.core.chat.event_bytes import is_told
from proxy.core.protocol import EventTooLargeError, StreamTap
from proxy.upstream.http1.framing import PLAIN_CHUNKS
from proxy.upstream.http1.pool import Shortcut, UpstreamBrokenError, UpstreamFailure

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients of server-sent events skip (WHATWG HTML, "interpreting an event stream")."""

END_SECONDS = 1.0
"""How long the upstream's body may go on after the event that ended its answer, where that one waits for the settlement."""
_END = b"[DONE]"
_EMPTY_LINES = b"\n\n", b"\r\n\r\n", b"\r\r"

Begin = Callable[[bytes], asyncio.Transport | None]
"""Sends the head of the client's answer and the first bytes of its body, framed, in one piece. None: the client has left."""

_CRLF = b"\r\n"
_NO_CHUNK = b"", 0
_COMMENTS_BYTES_MAX = 65_536
"""Comments that wait for the first event; further ones are dropped."""


class Stream:
    """The sink of a streamed answer. At the body's end `done` gets its failure, or None."""

    __slots__ = (
        "_after",
        "_around_bytes",
        "_before",
        "_begin",
        "_chunked",
        "_comments",
        "_end",
        "_flows",
        "_holds_end",
        "_late",
        "_on_answer",
        "_tap",
        "_transport",
        "begun",
        "done",
        "sent_bytes",
    )

    def __init__(
        self,
        tap: StreamTap,
        begin: Begin,
        done: "asyncio.Future[UpstreamFailure | None]",
        *,
        chunked: bool,
        on_answer: Callable[[], None] | None = None,
        holds_end: bool = False,
    ) -> None:
        """Write to the transport that `begin` returns, in chunked coding if `chunked`, else as it is.

        Args:
            on_answer: called with the first event of an answer whose head went out before.
            holds_end: keep back the event that shows the answer as complete, until `release_end`.
        """
        self._holds_end = holds_end
        self._end = b""
        self._late: asyncio.TimerHandle | None = None
        self._on_answer = on_answer
        self._flows = False
        """True once an event has been passed on, and not only a head."""
        self._tap = tap
        self._begin: Begin | None = begin
        self._transport: asyncio.Transport | None = None
        self._chunked = chunked
        self._comments = b""
        self._before = self._after = b""
        self._around_bytes = 0
        self.done = done
        self.begun = False
        """True once the client's head has been sent."""
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
        if tap.whole and self._holds_end:
            passed = self._keep_end(passed)
        if tap.error is not None:
            self._pass(passed)
            self._finish(None)
        elif framed is None or passed is not payload or not self._chunked or not self._flows:
            self._pass(passed)
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

    def _repeat_counted(self, received: bytes) -> bool:
        """Do as `repeat`, and count the bytes of the text."""
        sent_before = self.sent_bytes
        if not self.repeat(received):
            return False
        self._tap.text_bytes += self.sent_bytes - sent_before - self._around_bytes
        return True

    def end(self, failure: UpstreamFailure | None) -> None:
        last = self._tap.finish(clean=failure is None)
        self._pass(self._keep_end(last) if self._tap.whole and self._holds_end else last)
        self._finish(failure)

    def release_end(self) -> None:
        """Send the event that was kept back, if the answer had one."""
        end, self._end = self._end, b""
        self.write(end)

    def write(self, piece: bytes) -> None:
        """Send bytes of the body to the client, framed, if its answer has begun and it is still there."""
        if piece and self._transport is not None:
            self.sent_bytes += len(piece)
            self._transport.write(self._framed(piece))

    def keep_alive(self) -> None:
        """Begin the answer if it has not begun, or fill a silence. Only whole events have been sent, so this stands between two."""
        if not self.begun:
            self._open(KEEP_ALIVE)
        elif self._transport is not None and not self._transport.get_write_buffer_size():
            self.write(KEEP_ALIVE)

    def renew(self, tap: StreamTap, done: "asyncio.Future[UpstreamFailure | None]") -> None:
        """Pass on another answer, after one of which nothing was passed on but comments."""
        self._tap, self.done = tap, done
        self._comments = b""

    def forget_client(self) -> None:
        """Stop writing, and begin nothing; the upstream is still read."""
        self._transport = self._begin = None

    def _keep_end(self, passed: bytes) -> bytes:
        """Keep back the last event of what the tap passed, if it ends the answer; return what comes before it."""
        if self._end:
            self._end += passed  # the second half of its line end
            return b""
        at = passed.rfind(_END)
        if at < 0:
            return passed
        begin = max((found + len(line) for line in _EMPTY_LINES if (found := passed.rfind(line, 0, at)) >= 0), default=0)
        self._end = passed[begin:]
        self._late = self.done.get_loop().call_later(END_SECONDS, self._finish, None)
        if begin or self.begun or self._comments:
            return passed[:begin]
        return KEEP_ALIVE  # the head goes out: its answer has come

    def _pass(self, piece: bytes) -> None:
        """Send what the tap passed; comments wait for the first event that has data, which begins the client's answer."""
        if self.begun:
            if self._tap.begun and not self._flows:
                self._flow()
            self.write(piece)
        elif self._tap.begun and (piece or self._comments):
            self._open(self._comments + piece)
        elif len(self._comments) + len(piece) <= _COMMENTS_BYTES_MAX:
            self._comments += piece

    def _open(self, piece: bytes) -> None:
        begin, self._begin, self._comments = self._begin, None, b""
        if begin is not None:
            self.begun = True
            self._flows = self._tap.begun
            self.sent_bytes += len(piece)
            self._transport = begin(self._framed(piece))

    def _flow(self) -> None:
        self._flows = True
        if self._on_answer is not None:
            self._on_answer()

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece

    def _shortcut(self) -> Shortcut | None:
        shape = self._tap.shape()
        if shape is None:
            return None
        before, after = shape
        self._before, self._after = before, after + _CRLF
        self._around_bytes = len(before) + len(after)
        return self._repeat_counted if self._tap.counts_text else self.repeat

    def _finish(self, failure: UpstreamFailure | None) -> None:
        if self._late is not None:
            self._late.cancel()
        if not self.done.done():
            self.done.set_result(failure)
