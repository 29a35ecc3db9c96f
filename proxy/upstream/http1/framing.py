"""Body framing of HTTP/1.1: the end of a body, and the payload in its bytes (RFC 9112, sections 6 and 7). Pure: bytes in, bytes out.

A framing takes each received piece and returns its payload. For a chunked body it also returns the bytes that framed the payload, if
they are whole plain chunks, so that they can be sent on unchanged.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

_SIZE_DIGITS_MAX = 15
_LINE_BYTES_MAX = 1024
_TRAILER_BYTES_MAX = 16 * 1024
_HEX = b"0123456789abcdefABCDEF"
_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)
_CRLF = b"\r\n"
_PLAIN_BYTES_MAX = 2048


def _plain_chunks() -> Iterator[tuple[int, tuple[bytes, int]]]:
    for size in range(1, _PLAIN_BYTES_MAX):
        line = b"%x\r\n" % size
        yield len(line) + size + len(_CRLF), (line, size)


PLAIN_CHUNKS: Final[Mapping[int, tuple[bytes, int]]] = dict(_plain_chunks())
"""Length of a whole chunk → its size line, in lower-case digits without zeros, and its size: the number need not be parsed."""


class FramingError(Exception):
    """The upstream broke the framing of its body; the connection cannot be used further."""


class Framing(Protocol):
    """One way of delimiting a body."""

    done: bool
    surplus: bool
    """Bytes came after the end of the body: the connection must not be used again."""

    def feed(self, received: bytes) -> tuple[bytes, bytes | None]:
        """Return the payload of the received bytes, and the bytes that frame it if those are whole chunks.

        Raises:
            FramingError: the bytes are not such a body.
        """

    def ends_with_connection(self) -> bool:
        """Return whether an EOF here is the proper end of the body."""


class Counted:
    """A body with a known length."""

    __slots__ = ("_left", "done", "surplus")

    def __init__(self, length_bytes: int) -> None:
        self._left = length_bytes
        self.done = length_bytes == 0
        self.surplus = False

    def feed(self, received: bytes) -> tuple[bytes, None]:
        if len(received) > self._left:
            self.surplus = True
            received = received[: self._left]
        self._left -= len(received)
        self.done = self._left == 0
        return received, None

    def ends_with_connection(self) -> bool:
        return False


class UntilClose:
    """A body that ends with its connection."""

    __slots__ = ("done", "surplus")

    def __init__(self) -> None:
        self.done = False
        self.surplus = False

    def feed(self, received: bytes) -> tuple[bytes, None]:
        return received, None

    def ends_with_connection(self) -> bool:
        return True


class Chunked:
    """A chunked body. Strict: a size is hex digits only, lines end in CRLF; extensions and trailers are skipped."""

    __slots__ = ("_held", "_left", "_state", "_trailer_bytes", "done", "surplus")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0
        self._held = b""
        self._trailer_bytes = 0
        self.done = False
        self.surplus = False

    def feed(self, received: bytes) -> tuple[bytes, bytes | None]:
        # Nearly every piece of a stream is exactly one chunk.
        if self._state == _SIZE and not self._held:
            known = PLAIN_CHUNKS.get(len(received))
            if known is not None:
                line, size = known
                payload = received.removeprefix(line).removesuffix(_CRLF)
                if len(payload) == size:
                    return payload, received
            eol = received.find(b"\r\n", 1, _SIZE_DIGITS_MAX + 2)
            if eol > 0 and received.endswith(b"\r\n") and not (digits := received[:eol]).strip(_HEX):
                size = int(digits, 16)
                if size and eol + size + 4 == len(received):
                    return received[eol + 2 : -2], received
        return self._walk(received)

    def ends_with_connection(self) -> bool:
        return False

    def _walk(self, received: bytes) -> tuple[bytes, bytes | None]:
        """Parse line by line. `plain` means that `received[:framed_to]` frames the payload, chunk by chunk."""
        plain = self._state == _SIZE and not self._held
        if self._held:
            received, self._held = self._held + received, b""
        payload: list[bytes] = []
        position = framed_to = 0
        size = len(received)
        while position < size and not self.done:
            if self._state == _DATA:
                piece = received[position : position + self._left]
                payload.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            end = self._line_end(received, position)
            if end < 0:
                break
            line = received[position:end]
            position = end + 2
            plain = self._take_line(line) and plain
            if self._state == _SIZE and not line:
                framed_to = position
        # A payload that is cut inside a chunk, or after its data, is not framed by these bytes alone.
        whole = plain and bool(payload) and self._state in (_SIZE, _TRAILER, _DONE)
        self.surplus = self.done and position < size
        return b"".join(payload), received[:framed_to] if whole else None

    def _line_end(self, received: bytes, begin: int) -> int:
        """Return the position of the line's CRLF. If it has not come, hold the line's beginning and return -1."""
        limit = 0 if self._state == _DATA_END else _LINE_BYTES_MAX
        end = received.find(b"\r\n", begin, begin + limit + 2)
        if end >= 0:
            return end
        rest = received[begin:]
        if len(rest) > limit + 1 or (limit == 0 and rest != b"\r"):
            raise FramingError("a chunk is not followed by CRLF" if limit == 0 else "a line of the chunked framing is too long")
        self._held = rest
        return -1

    def _take_line(self, line: bytes) -> bool:
        """Go on to the next state; return whether the line may be sent on unchanged."""
        if self._state == _DATA_END:
            self._state = _SIZE
            return True
        if self._state == _TRAILER:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > _TRAILER_BYTES_MAX:
                raise FramingError("the trailers are too long")
            if not line:
                self._state = _DONE
                self.done = True
            return True
        digits, semicolon, extension = line.partition(b";")
        if not digits or len(digits) > _SIZE_DIGITS_MAX or digits.strip(_HEX):
            raise FramingError("a chunk's size is no hexadecimal number")
        if b"\n" in extension or b"\r" in extension or b"\0" in extension:
            raise FramingError("a chunk's extension holds a control character")
        self._left = int(digits, 16)
        self._state = _DATA if self._left else _TRAILER
        # Extensions end here, hop by hop; those of the last chunk are not in the framed bytes anyway.
        return not semicolon or not self._left
