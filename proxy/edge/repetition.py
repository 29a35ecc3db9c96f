"""What of a request's head repeats on its connection."""

import re

from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.core.repetition import SHAPE_BYTES_MAX
from proxy.edge.request import RequestHead

_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,15})\r\n", re.IGNORECASE)


_END = b"\r\n\r\n"


_DIGITS_MAX = 15


class Repetition:
    """The bytes of a head that may come again: what stands before the digits of its ``Content-Length``, and behind them."""

    __slots__ = ("_after", "_after_bytes", "_before", "_before_bytes", "_learnt_from", "head")

    def __init__(self, message: RawRequestMessage, head: RequestHead, before: bytes, after: bytes) -> None:
        """Where nothing is ``after``, the head announces no body."""
        self.head = head
        self._learnt_from: RawRequestMessage | None = message
        self._before = before
        self._before_bytes = len(before)
        self._after = after
        self._after_bytes = len(after)

    def take_head(self, message: RawRequestMessage) -> RequestHead | None:
        """Return the head, once, for the request that it was learnt from: there need not be another."""
        if self._learnt_from is not message:
            return None
        self._learnt_from = None
        return self.head

    def find(self, received: bytes) -> tuple[int, int] | None:
        """Return where the body begins and how long it is, if this head is what was received begins with; else None."""
        begin = self._before_bytes
        if received[:begin] != self._before:
            return None
        if not self._after:
            return begin, 0
        digits, _, _ = received[begin : begin + _DIGITS_MAX].partition(b"\r")
        end = begin + len(digits)
        body = end + self._after_bytes
        if not digits.isdigit() or received[end:body] != self._after:
            return None
        return body, int(digits)


def repetition_of(message: RawRequestMessage, received: bytes) -> Repetition | None:
    """Return how a head would be recognised when it comes again, or None where anything about it is out of the ordinary.

    Args:
        message: what the parser, which had nothing left of an earlier request, made of it.
        received: what the parser was given, from the first byte of the head on. The parser forgives line ends and folded lines that
            could be read in another way; so only a head of which no byte leaves a choice is taken.
    """
    raw = received[: received.find(_END) + len(_END)]
    lines = raw.count(b"\r\n")
    if (
        len(raw) > SHAPE_BYTES_MAX
        or message.chunked
        or message.upgrade
        or not raw.startswith(f"{message.method} {message.path} HTTP/1.1\r\n".encode("utf-8", "surrogateescape"))
        or lines != len(message.raw_headers) + 2
        or not lines == raw.count(b"\r") == raw.count(b"\n")
    ):
        return None
    head = RequestHead(message)
    lengths = message.headers.getall("Content-Length", [])
    if not lengths:
        return Repetition(message, head, raw, b"")
    found = _LENGTH.search(raw)
    if found is None or lengths != [found[1].decode()]:
        return None
    fields = CIMultiDict(message.headers)
    del fields["Content-Length"]  # each request has its own
    head.headers = CIMultiDictProxy(fields)
    return Repetition(message, head, raw[: found.start(1)], raw[found.end(1) :])
