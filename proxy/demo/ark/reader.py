"""A parser of HTTP/1.1 requests, as strict as Envoy's: two lengths, or a length and chunks, are refused.

It is not a library's parser because the stand-in must see a request's head before its body, and nothing may be answered on its behalf.
"""

from dataclasses import dataclass

HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 128 * 1024 * 1024
_CHUNK_LINE_BYTES_MAX = 1024


class MalformedRequestError(Exception):
    """The request is not HTTP/1.1, or exceeds a limit of this parser."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request line and its headers, in their order, names in lower case. `body_bytes` is None for a chunked body."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body_bytes: int | None
    expects_continue: bool
    closes: bool


class Reader:
    """Parses a sequence of requests. Feed it received bytes, call `head()`, then `body()`, which also moves on to the next request."""

    __slots__ = ("_body", "_buffer", "_head")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: Head | None = None
        self._body = bytearray()

    def feed(self, received: bytes) -> None:
        self._buffer += received
        if len(self._buffer) > HEAD_BYTES_MAX + BODY_BYTES_MAX:
            raise MalformedRequestError("more bytes than a request may have")

    def head(self) -> Head | None:
        """Return the head of the current request, or None while it is incomplete."""
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_BYTES_MAX:
                    raise MalformedRequestError("head too long")
                return None
            self._head = _parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        return self._head

    def body(self) -> bytes | None:
        """Return the body, or None while it is incomplete."""
        head = self.head()
        if head is None:
            return None
        if head.body_bytes is None:
            return self._chunked_body()
        if len(self._buffer) < head.body_bytes:
            return None
        body = bytes(self._buffer[: head.body_bytes])
        del self._buffer[: head.body_bytes]
        self._head = None
        return body

    def _chunked_body(self) -> bytes | None:
        while (end := self._buffer.find(b"\r\n", 0, _CHUNK_LINE_BYTES_MAX)) >= 0:
            size = _chunk_size(bytes(self._buffer[:end]))
            if size == 0:
                return self._end_of_chunks(end)
            if len(self._buffer) < end + 2 + size + 2:
                return None
            if self._buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise MalformedRequestError("a chunk that does not end where it says")
            self._body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 4 + size]
            if len(self._body) > BODY_BYTES_MAX:
                raise MalformedRequestError("body too long")
        if len(self._buffer) >= _CHUNK_LINE_BYTES_MAX:
            raise MalformedRequestError("a chunk without a size")
        return None

    def _end_of_chunks(self, end: int) -> bytes | None:
        """Return the body after its last chunk, or None until the trailers are complete. Trailers are dropped."""
        stop = self._buffer.find(b"\r\n\r\n", end)
        if stop < 0:
            return None
        del self._buffer[: stop + 4]
        body, self._body, self._head = bytes(self._body), bytearray(), None
        return body


def _chunk_size(line: bytes) -> int:
    digits = line.split(b";", 1)[0].strip()
    if not digits or digits.strip(b"0123456789abcdefABCDEF"):
        raise MalformedRequestError("a chunk's size that is no number")
    return int(digits, 16)


def _parse_head(raw: bytes) -> Head:
    lines = raw.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise MalformedRequestError("no request line")
    headers = tuple([_parse_header(line) for line in lines[1:]])
    named = dict(headers)
    return Head(
        method=words[0],
        target=words[1],
        headers=headers,
        body_bytes=_body_bytes(headers),
        expects_continue=named.get("expect", "").lower() == "100-continue",
        closes=named.get("connection", "").lower() == "close" or words[2] == "HTTP/1.0",
    )


def _parse_header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise MalformedRequestError("no header line")
    return name.lower(), value.strip(" \t")


def _body_bytes(headers: tuple[tuple[str, str], ...]) -> int | None:
    lengths = [value for name, value in headers if name == "content-length"]
    codings = [value.lower() for name, value in headers if name == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise MalformedRequestError("two framings of one body")
    if codings:
        if codings != ["chunked"]:
            raise MalformedRequestError("an unknown transfer coding")
        return None
    if not lengths:
        return 0
    if not (lengths[0].isascii() and lengths[0].isdigit()) or int(lengths[0]) > BODY_BYTES_MAX:
        raise MalformedRequestError("a length that is no number or too long")
    return int(lengths[0])
