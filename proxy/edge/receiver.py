"""Cuts the bytes of a client's connection into requests: with aiohttp's parser, or without it if a head is repeated.

The parser has state of its own, so it is bypassed only while it is known to hold nothing: between two requests, each of which was
counted to its last byte.
"""

from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from proxy.core.errors import BadRequestError
from proxy.core.repetition import LESSONS_MAX
from proxy.edge.aiohttp_private import ServerProtocol
from proxy.edge.repetition import Repetition, repetition_of
from proxy.edge.request import Request, RequestHead, Whole

_FILLED_BYTES_MAX = 65_536
"""A body up to this size never needs to pause its sender, however slowly it is read."""
HEAD_BYTES_MAX = 65_536
"""Limit on a request line and all headers together. The parser limits each and their number: it would keep 3 MB a connection, also of
clients without a key, for as long as the call lasts."""


class HeadTooLargeError(BadHttpMessage):
    """A head is longer than `HEAD_BYTES_MAX`."""


class _Malformed(NamedTuple):
    """Stands in the place of a request that cannot be read, as the parser's own message does."""

    exc: HeadTooLargeError


class Receiver(ServerProtocol):
    """The receiving half of a connection. To wait for a request, set `waiter`, as aiohttp's protocol does; then take it."""

    __slots__ = (
        "_arriving",
        "_filling",
        "_has_overflowed",
        "_head_bytes",
        "_lessons",
        "_measures_heads",
        "_missing",
        "_recognised",
        "_repetition",
    )

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._arriving: StreamReader | None = None
        """The last body that began."""
        self._repetition: Repetition | None = None
        """The last head, if it can be recognised."""
        self._lessons = LESSONS_MAX
        self._recognised: Request | None = None
        """A new request whose head was recognised."""
        self._missing: int | None = 0
        """Bytes of the last request that are still to come; None, for good, once the count is lost."""
        self._filling: StreamReader | None = None
        """The body that receives them, if the parser was bypassed."""
        self._head_bytes = 0
        """Bytes that the parser holds of a head that has not come whole; those that came with the end of a request do not count."""
        self._measures_heads = False
        """True, for good, once so much came together that a head in it may be too long."""
        self._has_overflowed = False
        """True once a head was too long: nothing more is parsed."""

    def _take_request(self) -> Any:
        """Return the next request, or the parser's message of malformed HTTP."""
        request, self._recognised = self._recognised, None
        if request is not None:
            return request
        message, content = self._take_message()
        if not isinstance(message, RawRequestMessage):
            return message
        if self._measures_heads and _head_bytes(message) > HEAD_BYTES_MAX:
            self._has_overflowed = True
            return _Malformed(HeadTooLargeError("head"))
        length = int(message.headers.get("Content-Length", 0))  # the parser accepts digits only
        head = None if self._repetition is None else self._repetition.take_head(message)
        return self._begun(head or RequestHead(message), length, content)

    def _begun(self, head: RequestHead, content_length: int, content: StreamReader | Whole) -> Request:
        return Request(head, content_length, content, self)  # type: ignore[arg-type]  # `Connection` adds the rest of a `Peer`

    def _take_message(self) -> tuple[Any, StreamReader]:
        message, content = self.messages.popleft()
        if self.parser is not None:
            self.parser.message_consumed()
        if self.buffer_paused and len(self.messages) <= self.messages_resume_max:
            self.resume_reading_if_drained()
        return message, content

    # what the loop calls

    def data_received(self, data: bytes) -> None:
        """Begin a request, with a recognised or a parsed head, or continue the body of the last one."""
        if self._filling is not None:
            data = self._fill(self._filling, data)
            if not data:
                return
        waiter = self.waiter
        is_waiting = self._missing == 0 and waiter is not None and not waiter.done() and not self.is_closing
        if not (is_waiting and self._recognise(data)):
            self._parse(data)

    def _recognise(self, data: bytes) -> bool:
        """Begin a request without the parser if its head equals the last one; return True if so. The parser must hold nothing."""
        repetition, waiter = self._repetition, self.waiter
        found = None if repetition is None else repetition.find(data)
        if repetition is None or found is None or waiter is None:
            return False
        begin, length = found
        missing = begin + length - len(data)
        if missing < 0 or (missing and length > _FILLED_BYTES_MAX):
            return False  # another request follows, or the body may have to be paused
        content: StreamReader | Whole
        if missing:
            self._filling = self._arriving = content = StreamReader(self, self.read_buffer_bytes, loop=self.loop)
            content.feed_data(data[begin:])
        else:
            content = Whole(data[begin:])
        self._missing = missing
        self._lessons = LESSONS_MAX
        self.request_count += 1
        self._recognised = self._begun(repetition.head, length, content)
        waiter.set_result(None)
        return True

    def _fill(self, content: StreamReader, data: bytes) -> bytes:
        """Continue the body of a recognised request; return the bytes after it."""
        assert self._missing is not None
        piece, rest = data[: self._missing], data[self._missing :]
        self._missing -= len(piece)
        content.feed_data(piece)
        if not self._missing:
            self._filling = None
            content.feed_eof()
        return rest

    def _parse(self, data: bytes) -> None:
        """Parse, and tell a waiting handler if its body is malformed: aiohttp lets it wait until its deadline."""
        if self._has_overflowed:
            return
        requests_before = self.request_count
        body, paused = self._arriving, self.reading_paused
        body_bytes = -1 if body is None or body.is_eof() else body.total_bytes
        super().data_received(data)
        requests = self.request_count - requests_before
        self._follow(data, requests)
        self._count_head(data, is_head=not requests and not paused and (body is None or body_bytes in (-1, body.total_bytes)))
        if not self.messages:
            return
        message, payload = self.messages[-1]
        if not isinstance(message, RawRequestMessage):
            if self._arriving is not None and not self._arriving.is_eof():
                self._arriving.set_exception(BadRequestError("The body of the request is malformed HTTP"))
            self._arriving = None
        elif payload is not EMPTY_PAYLOAD:
            self._arriving = payload

    def _count_head(self, data: bytes, *, is_head: bool) -> None:
        """Refuse a head that is too long before it is whole, or the headers after a body; a whole head is measured when it is its turn.

        Args: is_head: whether all of it is part of what is not whole yet: it began no request, and continued no body.
        """
        if self._head_bytes + len(data) > HEAD_BYTES_MAX:
            self._measures_heads = True
        if not is_head:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX and not self.upgraded and not self.is_closing:
            self._has_overflowed = True
            if self._arriving is not None and not self._arriving.is_eof():
                self._arriving.set_exception(BadRequestError("The headers after the body are too long"))
                return
            self.messages.append((_Malformed(HeadTooLargeError("head")), EMPTY_PAYLOAD))
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(None)

    def _follow(self, data: bytes, requests: int) -> None:
        """Count the missing bytes of a request that the parser was given, and remember its head."""
        if not data and not requests:
            return  # the parser only continued with buffered bytes
        missing, self._missing = self._missing, None
        if missing is None:
            return
        if missing:
            self._missing = missing - len(data) if missing >= len(data) else None
            return
        self._repetition = None
        if not self._lessons:
            return
        self._lessons -= 1
        message = self.messages[-1][0] if requests == 1 and not self.upgraded else None
        repetition = repetition_of(message, data) if isinstance(message, RawRequestMessage) else None
        found = None if repetition is None else repetition.find(data)
        if found is not None and sum(found) >= len(data):
            self._repetition = repetition
            self._missing = sum(found) - len(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume only if paused. aiohttp's own resumes parser and transport after every read of a body: 12 µs."""
        if self.reading_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._arriving is not None and not self._arriving.is_eof():
            self._arriving.set_exception(ConnectionResetError("the client left"))  # or a discarding reader would wait on


def _head_bytes(message: RawRequestMessage) -> int:
    return len(message.path) + sum(len(name) + len(value) for name, value in message.raw_headers)
