"""An answer, and its head as bytes. aiohttp's own response objects carry three header dicts and a writer: 9 µs a request."""

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from msgspec import Struct

SERVER_NAME = "llm-proxy"

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Response(Struct, eq=False):
    """One answer: a status, header fields and a body. Where the body is None it has been streamed, and its head has left already."""

    status: int
    headers: dict[str, str]
    body: bytes | None


def render_head(version: str, status: int, headers: Mapping[str, str], date: str) -> bytes:
    """Return a head, from its status line to its empty line; ``Server`` and ``Date`` (RFC 9110, 6.6.1) are added.

    Raises:
        ValueError: a field would end its line. It is not quoted: it may hold anything.
    """
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if fields.count("\n") != len(headers) or fields.count("\r") != len(headers):
        raise ValueError("a header field holds a line break")
    return f"{version} {status} {_REASONS.get(status, '')}\r\nServer: {SERVER_NAME}\r\nDate: {date}\r\n{fields}\r\n".encode("latin-1")


class HttpDate:
    """The time as HTTP writes it, ``Sun, 06 Nov 1994 08:49:37 GMT``, worked out once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def at(self, now_ms: int) -> str:
        second = now_ms // 1000
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text
