"""Recognises a request's head that repeats on its connection."""

import re

from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.core.repetition import SHAPE_BYTES_MAX
from proxy.edge.request import RequestHead

_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,15})\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"
_DIGITS_MAX = 15


class Repetition:
    """The bytes of a head that may come again: those before the digits of its ``Content-Length`` and those after them."""

    __slots__ = ("_after", "_after_bytes", "_before", "_before_bytes", "_learnt_from", "head")

    def __init__(self, message: RawRequestMessage, head: RequestHead, before: bytes, after: bytes) -> None:
        """If ``after`` is empty, the head announces no body."""
        self.head = head
        self._learnt_from: RawRequestMessage | None = message
        self._before = before
        self._before_bytes = len(before)
        self._after = after
        self._after_bytes = len(after)

    def take_head(self, message: RawRequestMessage) -> RequestHead | None:
        """Return the head, once, for the request that it was learnt from: it needs no second one."""
        if self._learnt_from is not message:
            return None
        self._learnt_from = None
        return self.head

    def find(self, received: bytes) -> tuple[int, int] | None:
        """Return the body's offset and length if the received bytes begin with this head; else None."""
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
    """Return the `Repetition` that recognises this head, or None if anything about it is unusual.

    Args:
        message: the parsed head. The parser must have held nothing of an earlier request.
        received: the bytes that the parser was given, from the first byte of the head on. The parser tolerates odd line ends and
            folded lines, which can be read in more than one way; so only an unambiguous head is accepted.
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
