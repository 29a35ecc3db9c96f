"""Cheap clients: raw HTTP/1.1 on asyncio protocols; answers are counted, not parsed."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

from tests.bench.jobs import Target
from tests.bench.upstream import CONTENT, STAMP_DIGITS

_OK = b"HTTP/1.1 200"
_WHOLE_JSON = (b"}", b"0\r\n\r\n")
"""The ends of a whole answer. A small one arrives in one read, or head and body in one each: an inner brace never ends a read."""
_WHOLE_STREAM = b"0\r\n\r\n"

_HEAD = """\
POST {path} HTTP/1.1
Host: 127.0.0.1:{port}
Accept-Encoding: gzip, deflate
Connection: keep-alive
Authorization: Bearer {key}
Accept: application/json
Content-Type: application/json
User-Agent: OpenAI/Python 3.57.0
X-Stainless-Lang: python
X-Stainless-Package-Version: 3.57.0
X-Stainless-OS: Linux
X-Stainless-Arch: x64
X-Stainless-Runtime: CPython
X-Stainless-Runtime-Version: 3.11.7
X-Stainless-Async: false
X-Stainless-Retry-Count: 0
X-Stainless-Read-Timeout: 600
Content-Length: {length}

"""
"""The head that the `openai` package 3.57 sends; unlike there, the body is in the same write, as with most other clients."""


@dataclass(slots=True)
class Tally:
    """The counters of all clients; they count while it is open."""

    is_open: bool = False
    answers: int = 0
    failed: int = 0
    chunks: int = 0
    reads: int = 0
    joined: int = 0
    delays: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def has_counted(self) -> bool:
        """Return True if there is anything to report, even if all failed."""
        return self.answers > 0 or self.chunks > 0 or self.failed > 0


def request(target: Target, body: bytes, turn: int) -> bytes:
    """Return the bytes of a request, with the key whose turn it is."""
    key = target.keys[turn % len(target.keys)]
    head = _HEAD.format(path=target.path, port=target.port, key=key, length=len(body))
    return head.replace("\n", "\r\n").encode() + body


class Client(asyncio.Protocol):
    """One connection. `ask` may be called again once an answer has ended."""

    def __init__(self, asked: bytes, tally: Tally) -> None:
        self._asked = asked
        self._tally = tally
        self._since = 0.0
        self._is_first = True
        self.busy = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self._tally.failed += 1
        if not self.gone.done():
            self.gone.set_result(None)

    def ask(self) -> None:
        """Send the request."""
        self.busy = self._is_first = True
        self._since = time.monotonic()
        self.transport.write(self._asked)

    def leave(self) -> None:
        """Close; a request in progress does not count as a failure."""
        self.busy = False
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_first:
            self._is_first = False
            if not data.startswith(_OK):
                self._tally.failed += 1
                self.leave()

    def ended(self) -> None:
        """Count a whole answer."""
        self.busy = False
        if self._tally.is_open:
            self._tally.answers += 1

    def waited(self) -> None:
        """Record the time since the request was sent."""
        if self._tally.is_open:
            self._tally.waits.append((time.monotonic() - self._since) * 1000)


class JsonClient(Client):
    """Sends the next request when an answer has ended, until stopped."""

    stopping = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.busy and data.endswith(_WHOLE_JSON):
            self.waited()
            self.ended()
            if not self.stopping:
                self.ask()


class StreamClient(Client):
    """Reads streams and counts their chunks; if sampled, reads their time stamps too."""

    def __init__(self, asked: bytes, tally: Tally, *, sampled: bool = True, stalls: bool = False, again: bool = False) -> None:
        super().__init__(asked, tally)
        self._sampled = sampled
        self._stalls = stalls
        self.again = again
        self.began = False

    def ask(self) -> None:
        self.began = False
        super().ask()

    def data_received(self, data: bytes) -> None:
        if self._is_first:
            super().data_received(data)
        chunks = data.count(CONTENT)
        if chunks:
            self._take(data, chunks)
        if self.busy and data.endswith(_WHOLE_STREAM):
            self.ended()
            if self.again:
                self.ask()

    def _take(self, data: bytes, chunks: int) -> None:
        if not self.began:
            self.began = True
            self.waited()
            if self._stalls:
                self.transport.pause_reading()
        tally = self._tally
        if tally.is_open:
            tally.chunks += chunks
            tally.reads += 1
            tally.joined += chunks > 1
            if self._sampled:
                self._read_stamps(data)

    def _read_stamps(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        place = data.find(CONTENT)
        while place >= 0:
            begin = place + len(CONTENT)
            stamp = data[begin : begin + STAMP_DIGITS]
            if stamp.isdigit() and len(stamp) == STAMP_DIGITS:  # a stamp that was cut in two is skipped
                self._tally.delays.append((now_ns - int(stamp)) / 1e6)
            place = data.find(CONTENT, begin)
