"""An answer, and its head as bytes. aiohttp's own response objects carry three header dicts and a writer: 9 µs a request."""

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from msgspec import Struct

SERVER_NAME = "llm-proxy"

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Response(Struct, eq=False):
    """One answer: a status, header fields and a body. A body of None is streamed, and the head has been sent already."""

    status: int
    headers: dict[str, str]
    body: bytes | None
    fields: str = ""
    """Further fields as they are sent, each after a line break: of our own making, so nobody looks for line breaks in them."""


class HeadWriter:
    """Builds heads of answers. Their first lines are cached for a second for each status."""

    def __init__(self) -> None:
        self._second = -1
        self._starts: dict[tuple[str, int], str] = {}

    def head(self, version: str, status: int, headers: Mapping[str, str], now_ms: int, fields: str = "") -> bytes:
        """Return a head, from its status line to its empty line; ``Server`` and ``Date`` (RFC 9110, 6.6.1) are added.

        Raises:
            ValueError: a field holds a line break. The message does not quote it: it may hold a secret.
        """
        if now_ms // 1000 != self._second:
            self._second = now_ms // 1000
            self._starts.clear()
        start = self._starts.get((version, status))
        if start is None:
            date = formatdate(self._second, usegmt=True)  # such as Sun, 06 Nov 1994 08:49:37 GMT
            start = f"{version} {status} {_REASONS.get(status, '')}\r\nServer: {SERVER_NAME}\r\nDate: {date}"
            self._starts[version, status] = start
        head = start
        for name, value in headers.items():
            head += f"\r\n{name}: {value}"
        if head.count("\n") != len(headers) + 2 or head.count("\r") != len(headers) + 2:
            raise ValueError("a header field holds a line break")
        return f"{head}{fields}\r\n\r\n".encode("latin-1")
