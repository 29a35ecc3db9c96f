"""The head of an answer: status, fields, body framing, and whether the connection may serve again. Pure.

One regular expression checks the whole head (RFC 9112, 4 and 5), and only requested fields are parsed: 1.2 µs a head, where a parser
with a callback for each field took 3. Most answers of a connection have the same fields: once their names and order are known, an
expression made for them finds the length at once, in a third of the instructions.
"""

import re
from functools import lru_cache

from proxy.core.repetition import LESSONS_MAX, SHAPE_BYTES_MAX
from proxy.upstream.http1.framing import Chunked, Counted, Framing, UntilClose

# Only simple repeats are possessive: before Python 3.11.5 a possessive group matches nothing that it should (gh-106052).
_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\x01-\x09\x0b\x0c\x0e-\xff]*+)?"  # the reason may be missing, with its space or without
    rb"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\x01-\x09\x0b\x0c\x0e-\xff]*+)*\r\n\r\n"  # no CR, LF or NUL; a negated set takes longer
)
_VALUE = rb"[\x01-\x09\x0b\x0c\x0e-\xff]*+"
_FRAMING = re.compile(rb"\n(content-length|transfer-encoding|connection):([^\r]*)")
_LENGTH_DIGITS_MAX = 15
_START, _END = b"HTTP/1.", b"\r\n\r\n"


class HeadError(Exception):
    """The received bytes are not the head of an HTTP/1.1 answer, or contradict themselves."""


class Shape:
    """Names and order of the fields of a head, only for a 200 whose body has a length."""

    __slots__ = ("keep_alive", "match", "names")

    def __init__(self, pattern: bytes, names: frozenset[bytes], *, keep_alive: bool) -> None:
        self.match = re.compile(pattern).match
        """Matches a head of this shape at the start of the received bytes; its group is the length."""
        self.names = names
        """In lower case."""
        self.keep_alive = keep_alive


_shape = lru_cache(maxsize=64)(Shape)


class Head:
    """One parsed head."""

    __slots__ = ("_lower", "_names", "_raw", "framing", "keep_alive", "status")

    def __init__(self, raw: bytes) -> None:
        """Parse a head, from its status line to its empty line.

        Raises:
            HeadError: it is malformed, has both a length and a transfer coding (RFC 9112, 6.3: perhaps an attack), has two lengths, or
                switches protocols.
        """
        match = _HEAD.fullmatch(raw)
        if match is None:
            raise HeadError("its head is no HTTP/1")
        self._raw = raw
        self._lower = raw.lower()
        self._names: frozenset[bytes] | None = None
        self.status = int(match[2])
        length = coding = None
        wishes: list[bytes] = []
        for name, padded in _FRAMING.findall(self._lower):
            value = padded.strip(b" \t")
            if name == b"content-length":
                length = value if length is None else b"two"
            elif name == b"transfer-encoding":
                coding = value if coding is None else b"two"
            else:
                wishes.append(value)
        wish = b",".join(wishes)
        self.framing: Framing = self._framed_by(length, coding)
        stays = b"close" not in wish if match[1] == b"1" else wish == b"keep-alive"
        self.keep_alive = stays and not self.framing.ends_with_connection()

    @classmethod
    def of_shape(cls, shape: Shape, found: re.Match[bytes]) -> "Head":
        """Return the head that a shape has matched."""
        head = cls.__new__(cls)
        head.status = 200
        head.framing = Counted(int(found[1]))
        head.keep_alive = shape.keep_alive
        head._names = shape.names
        head._raw = found[0]
        head._lower = b""
        return head

    @property
    def shape(self) -> Shape | None:
        """Return the shape that the next head of its connection may have; None if there is none."""
        if self.status != 200 or not isinstance(self.framing, Counted):
            return None
        first, *lines = self._raw[:-4].split(b"\r\n")
        parts, names = [re.escape(first)], []
        for line in lines:
            name = line.partition(b":")[0]
            names.append(name.lower())
            if names[-1] == b"content-length":
                parts.append(re.escape(name) + rb": ?([0-9]{1,%d})" % _LENGTH_DIGITS_MAX)
            elif names[-1] == b"connection":
                parts.append(re.escape(line))
            else:
                parts.append(re.escape(name) + b":" + _VALUE)
        return _shape(rb"\r\n".join(parts) + rb"\r\n\r\n", frozenset(names), keep_alive=self.keep_alive)

    @property
    def interim(self) -> bool:
        return self.status < 200

    def field(self, name: bytes) -> bytes | None:
        """Return the first field of that lower-case name, or None."""
        if self._names is not None:
            if name not in self._names:
                return None
            self._names, self._lower = None, self._raw.lower()
        begin = self._lower.find(b"\n" + name + b":")
        if begin < 0:
            return None
        return self._raw[begin + len(name) + 2 : self._raw.find(b"\r", begin)].strip(b" \t")

    def _framed_by(self, length: bytes | None, coding: bytes | None) -> Framing:
        """Return the framing by RFC 9112, 6.3, for the answer to a POST."""
        if length is not None and coding is not None:
            raise HeadError("it has both Content-Length and Transfer-Encoding")
        if length is not None and not (length.isdigit() and len(length) <= _LENGTH_DIGITS_MAX):
            raise HeadError("its Content-Length is not one number")
        if coding is not None and coding != b"chunked":
            raise HeadError("its Transfer-Encoding is not chunked alone")
        if self.status == 101:
            raise HeadError("it switches protocols, unasked")
        if self.status < 200 or self.status in (204, 304):
            return Counted(0)
        if coding is not None:
            return Chunked()
        return UntilClose() if length is None else Counted(int(length))


class HeadReader:
    """A reader that collects bytes until a final head is complete; interim heads (1xx) are skipped, within the same limit of bytes.

    One reader serves all heads of a connection in turn: `restart` it before each.
    """

    __slots__ = ("_bytes_left", "_bytes_max", "_held", "_lessons", "_shape", "begun")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = self._bytes_left = bytes_max
        self._held = bytearray()
        self._shape: Shape | None = None
        self._lessons = LESSONS_MAX
        self.begun = False
        """Part of an answer has come, at least of an interim head: the request has arrived."""

    def restart(self) -> None:
        """Expect another head."""
        if self.begun:
            self._bytes_left = self._bytes_max
            self._held.clear()
            self.begun = False

    def feed(self, received: bytes) -> tuple[Head, bytes] | None:
        """Return the head and the bytes after it, or None while it is incomplete.

        Raises:
            HeadError: it is malformed, or larger than `bytes_max`.
        """
        if not self._held and (found := self._found_whole(received)) is not None:
            return found
        scan_from = max(0, len(self._held) - 3)
        self._held += received
        self.begun = True
        while True:
            if not self._held.startswith(_START[: len(self._held)]):
                raise HeadError("it does not begin like an HTTP/1 answer")
            end = self._held.find(b"\r\n\r\n", scan_from)
            if (end if end >= 0 else len(self._held)) > self._bytes_left:
                raise HeadError(f"its head is larger than {self._bytes_left} bytes")
            if end < 0:
                if self._held.find(b"\n\n", scan_from) >= 0:
                    raise HeadError("its head has bare line feeds")
                return None
            head = Head(bytes(self._held[: end + 4]))
            if not head.interim:
                return head, bytes(self._held[end + 4 :])
            # Skipped bytes stay counted, so that interim heads cannot come for ever.
            self._bytes_left -= end + 4
            del self._held[: end + 4]
            scan_from = 0

    def _found_whole(self, received: bytes) -> tuple[Head, bytes] | None:
        """Return a final head that came complete in one piece, as nearly all do, and the bytes after it."""
        shape = self._shape
        found = None if shape is None else shape.match(received)
        if shape is not None and found is not None and found.end() <= self._bytes_left:
            self._lessons = LESSONS_MAX
            return Head.of_shape(shape, found), received[found.end() :]
        end = received.find(_END) if received.startswith(_START) else 0
        if not 0 < end <= self._bytes_left:
            return None
        head = Head(received[: end + len(_END)])
        if head.interim:
            return None
        if self._lessons and end <= SHAPE_BYTES_MAX:
            self._lessons -= 1
            self._shape = head.shape or self._shape
        return head, received[end + len(_END) :]
