"""Request bodies: read with a limit and a deadline of their own, then parsed strictly."""

import asyncio
from typing import Any

import orjson

from proxy.core.errors import (
    GatewayError,
    InvalidJsonError,
    ModelUnavailableError,
    RequestTimeoutError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)
from proxy.core.fields import encode
from proxy.core.json_text import BOM, has_surrogate_escape, is_utf8, without_lone_surrogates
from proxy.edge.context import Context
from proxy.edge.intake import LARGE_BYTES, Intake, Reservation
from proxy.edge.request import Body, Request
from proxy.live.settings import Live

STRUCTURES_MAX = 100_000
KEYS_MAX = 250_000
VALUES_MAX = 500_000
"""Limits for one body. Honest large bodies are large because of their pictures. Two million small objects would block all requests for
seconds, and take 2 GB, before the sender's balance is checked; of keys each costs 0.5 us. Characters inside strings count too: it is a
bound, not a count. But a colon after a quote that is escaped is no key's: a text that is JSON itself may be long."""

REPAIRED_BYTES_MAX = 4 * 1024 * 1024
"""A longer body is not repaired: it would take more than 50 ms of the event loop."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyReader:
    """Reads request bodies, with the configured limits on bytes and seconds."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._arriving: set[Body] = set()
        self._is_cut = False
        self.intake = Intake(live)

    def cut(self) -> None:
        """Refuse all bodies that are incomplete, now and later: the process is ending, and none of these calls has begun."""
        self._is_cut = True
        for content in self._arriving:
            content.set_exception(_restarting())

    async def json(self, context: Context, here: bytes | bytearray = b"") -> Any:
        """Return the parsed body; its memory is counted in ``context.intake`` if it may be large.

        Args: here: the body's bytes, where `arrived` has returned them before.

        Raises: as `read` and `parsed`.
        """
        raw = here or self.arrived(context.request)
        del here
        if not raw or len(raw) > LARGE_BYTES:
            context.intake = self.intake.reserve(context.account_id)
            raw = raw or await self.read(context.request, context.intake)
            context.intake.set(_parsed_bytes_max(raw))
        value = parsed(raw)
        del raw
        await self.breathe(context)
        return value

    @staticmethod
    async def breathe(context: Context) -> None:
        """Yield to other requests between two steps over a large body: each step takes up to 20 ms for 20 MB."""
        if context.intake is not None and context.intake.is_large:
            await asyncio.sleep(0)

    @staticmethod
    def may_be_large(request: Request) -> bool:
        """Return whether the body is announced as large, or still to come without a length."""
        return request.content_length > LARGE_BYTES or (not request.content_length and not request.content.is_eof())

    def arrived(self, request: Request) -> bytes | bytearray:
        """Return the body if it came whole with its head, without coroutine or timer. If empty, `read` it.

        Raises:
            UnsupportedMediaTypeError: the body is compressed.
            RequestTooLargeError: longer than the limit.
        """
        if "Content-Encoding" in request.headers and request.headers["Content-Encoding"].lower() != "identity":
            raise UnsupportedMediaTypeError("Compressed request bodies are not accepted: leave out Content-Encoding")
        content = request.content
        return self._checked(content.read_nowait()) if content.is_eof() else b""

    async def read(self, request: Request, reservation: Reservation | None = None) -> bytes | bytearray:
        """Return the body's bytes. ``reservation`` counts them as they come; None, for the operator's own requests, counts nothing.

        Raises:
            UnsupportedMediaTypeError: the body is compressed.
            RequestTooLargeError: longer than the limit; raised before reading if the length was announced.
            RequestTimeoutError: it did not arrive in time.
            InvalidJsonError: it has too many values.
            ModelUnavailableError: the process is ending, or large bodies take too much memory.
            RateLimitedError: large bodies of this account do.
            ConnectionError: the client left.
        """
        if here := self.arrived(request):
            return here
        if request.content_length > self._live.now.body_bytes_max:
            raise self._too_large()
        transport = request.connection.transport
        if self._is_cut:
            raise _restarting()
        if request.headers.get("Expect", "").lower() == "100-continue" and request.takes_chunks and transport is not None:
            transport.write(_CONTINUE)  # not to HTTP/1.0 (RFC 9110, 10.1.1)
        seconds = self._live.now.body_seconds
        self._arriving.add(request.content)
        try:
            async with asyncio.timeout(seconds):
                return await self._read_on(request, reservation)
        except TimeoutError:
            raise RequestTimeoutError(f"The request body did not arrive within {seconds:g} seconds") from None
        finally:
            self._arriving.discard(request.content)

    async def _read_on(self, request: Request, reservation: Reservation | None) -> bytearray:
        """Collect and count piece by piece: doing either at the end, for a whole large body, would block all requests."""
        body = bytearray()
        crowd = _Crowd()
        while piece := await request.content.readany():
            if len(body) + len(piece) > self._live.now.body_bytes_max:
                raise self._too_large()
            if reservation is not None:
                reservation.set(len(body) + len(piece))
            body += piece
            crowd.add(piece)
        return body

    def _checked(self, body: bytes) -> bytes:
        if len(body) > self._live.now.body_bytes_max:
            raise self._too_large()
        if len(body) > LARGE_BYTES:
            _Crowd().add(body)
        return body

    def _too_large(self) -> RequestTooLargeError:
        return RequestTooLargeError(f"The request body is larger than {self._live.now.body_bytes_max} bytes")


def _restarting() -> GatewayError:
    return ModelUnavailableError("The gateway is restarting", retry_after_seconds=1)


def parsed(raw: bytes | bytearray) -> Any:
    """Return the JSON value of a body. A byte order mark is skipped, and half a surrogate pair becomes U+FFFD.

    Raises:
        InvalidJsonError: not JSON, invalid UTF-8, NaN, or nested too deeply.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        repaired = _repaired(raw)
        if repaired is None:
            raise _invalid(fault) from None
    try:
        return orjson.loads(repaired)
    except orjson.JSONDecodeError as fault:
        raise _invalid(fault) from None


def _repaired(raw: bytes | bytearray) -> bytes | bytearray | None:
    """Return a body without what SDKs write by mistake; None if that is not what is wrong with it, or it is too large to look.

    JavaScript and Python write half a pair where they cut text within an emoji; editors and PowerShell begin files with the mark.
    """
    text = raw.removeprefix(BOM)
    if len(text) <= REPAIRED_BYTES_MAX and has_surrogate_escape(text) and is_utf8(text):
        return without_lone_surrogates(text)
    return text if len(text) < len(raw) else None


def _invalid(fault: orjson.JSONDecodeError) -> InvalidJsonError:
    return InvalidJsonError(f"The request body is not valid JSON: {fault}")


def _parsed_bytes_max(raw: bytes | bytearray) -> int:
    """Return a bound of a body's strings in memory: Python keeps all characters of one as wide as its widest, 4 bytes at most."""
    return len(raw) if raw.isascii() else 4 * len(raw)


class Posted:
    """A parsed body on its way to its last user, so that whoever only passes it on keeps nothing of it alive."""

    __slots__ = ("_packed", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._packed: bytes | None = None

    def pack(self) -> None:
        """Keep the body as JSON while it waits: parsed, it can take thirty times as much memory."""
        if self._packed is None:
            self._packed, self.value = encode(self.value), None

    def take(self) -> Any:
        """Return the body, and forget it."""
        value, self.value = self.value if self._packed is None else orjson.loads(self._packed), None
        self._packed = None
        return value


class _Crowd:
    """Counts an upper bound of a body's JSON values, piece by piece."""

    def __init__(self) -> None:
        self._structures = 0
        self._keys = 0
        self._values = 0

    def add(self, piece: bytes) -> None:
        """Count one more piece. Raises: InvalidJsonError."""
        structures = piece.count(b"{") + piece.count(b"[")
        self._structures += structures
        self._values += structures + piece.count(b",")
        if colons := piece.count(b":"):
            # One backslash before the quote escapes it; two are a backslash, and the quote ends a key.
            self._keys += colons - (piece.count(b'\\":') - piece.count(b'\\\\":'))
        if self._structures > STRUCTURES_MAX or self._keys > KEYS_MAX or self._values > VALUES_MAX:
            raise InvalidJsonError("The request body has too many values")
