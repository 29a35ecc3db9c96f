"""The head of an answer: status, fields, how its body ends, and whether the connection may serve again. Pure."""

import re

import httptools

from proxy.upstream.framing import Chunked, Counted, Framing, UntilClose

_LENGTH = re.compile(rb"[0-9]{1,15}")
_START = b"HTTP/1."


class HeadError(Exception):
    """What the upstream sent is no head of an HTTP/1.1 answer, or contradicts itself."""


class Head:
    """One parsed head. Field names are lower case."""

    __slots__ = ("fields", "framing", "keep_alive", "status")

    def __init__(self, raw: bytes) -> None:
        """Parse a head, from its status line to its empty line.

        Raises:
            HeadError: it is malformed, has both a length and a transfer coding (RFC 9112, 6.3: perhaps an attack), has two lengths, or
                switches protocols.
        """
        self.fields: list[tuple[bytes, bytes]] = []
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as fault:
            # llhttp's reasons are fixed phrases; no byte of the answer is in them.
            raise HeadError(f"its head is no HTTP: {fault}") from fault
        self.status: int = parser.get_status_code()
        self.framing: Framing = self._framing()
        self.keep_alive = bool(parser.should_keep_alive()) and not self.framing.ends_with_connection()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field from the parser."""
        self.fields.append((name.lower(), value))

    @property
    def interim(self) -> bool:
        return self.status < 200

    def field(self, name: bytes) -> bytes | None:
        """Return the first field of that name, or None."""
        for found, value in self.fields:
            if found == name:
                return value
        return None

    def _framing(self) -> Framing:
        """Choose as RFC 9112, 6.3 does, for the answer to a POST."""
        lengths = [value for name, value in self.fields if name == b"content-length"]
        codings = [value for name, value in self.fields if name == b"transfer-encoding"]
        if lengths and codings:
            raise HeadError("it has both Content-Length and Transfer-Encoding")
        if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
            raise HeadError("its Content-Length is not one number")
        if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
            raise HeadError("its Transfer-Encoding is not chunked alone")
        if self.status == 101:
            raise HeadError("it switches protocols, unasked")
        if self.interim or self.status in (204, 304):
            return Counted(0)
        if codings:
            return Chunked()
        return Counted(int(lengths[0])) if lengths else UntilClose()


class HeadReader:
    """Collects bytes until a final head is whole; interim heads (1xx) are skipped, within the same limit of bytes."""

    __slots__ = ("_bytes_max", "_held")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = bytearray()

    @property
    def begun(self) -> bool:
        return bool(self._held)

    def feed(self, received: bytes) -> tuple[Head, bytes] | None:
        """Return the head and the bytes after it, or None while it is not whole.

        Raises:
            HeadError: it is malformed, or larger than `bytes_max`.
        """
        if not self._held and received.startswith(b"HTTP/1.") and 0 < (end := received.find(b"\r\n\r\n")) <= self._bytes_max:
            head = Head(received[: end + 4])  # whole, and in one piece, as nearly all are
            if not head.interim:
                return head, received[end + 4 :]
        scan_from = max(0, len(self._held) - 3)
        self._held += received
        while True:
            if not self._held.startswith(_START[: len(self._held)]):
                raise HeadError("it does not begin like an HTTP/1 answer")
            end = self._held.find(b"\r\n\r\n", scan_from)
            if (end if end >= 0 else len(self._held)) > self._bytes_max:
                raise HeadError(f"its head is larger than {self._bytes_max} bytes")
            if end < 0:
                if self._held.find(b"\n\n", scan_from) >= 0:
                    raise HeadError("its head has bare line feeds")
                return None
            head = Head(bytes(self._held[: end + 4]))
            if not head.interim:
                return head, bytes(self._held[end + 4 :])
            # What is skipped stays counted, so that interim heads cannot come for ever.
            self._bytes_max -= end + 4
            del self._held[: end + 4]
            scan_from = 0
