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
from proxy.edge.request import Body, Request
from proxy.live.settings import Live

LARGE_BYTES = 65_536
LARGE_BODIES = 16
"""Limit on all bodies that are being read, in bodies of the largest size: anyone with a key may send them, even with an empty account,
and memory is finite. The first `LARGE_BYTES` of each are not counted, so that ordinary requests find room."""
STRUCTURES_MAX = 100_000
VALUES_MAX = 1_000_000
"""Limits for one body. Honest large bodies are large because of their pictures. Two million small objects would block all requests for
seconds, and take 2 GB, before the sender's balance is checked. Characters inside strings count too: it is a bound, not a count."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyReader:
    """Reads request bodies, with the configured limits on bytes and seconds."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._arriving: set[Body] = set()
        self._is_cut = False
        self._large_bytes = 0
        """Total of all bodies being read, without the first `LARGE_BYTES` of each."""

    def cut(self) -> None:
        """Refuse all bodies that are incomplete, now and later: the process is ending, and none of these calls has begun."""
        self._is_cut = True
        for content in self._arriving:
            content.set_exception(_restarting())

    async def json(self, request: Request) -> Any:
        """Return the parsed body. Raises: as `read` and `parsed`."""
        value = parsed(self.arrived(request) or await self.read(request))
        await self.breathe(request)
        return value

    @staticmethod
    async def breathe(request: Request) -> None:
        """Yield to other requests between two steps over a large body: each step takes up to 20 ms for 20 MB."""
        if request.content_length > LARGE_BYTES:
            await asyncio.sleep(0)

    def arrived(self, request: Request) -> bytes:
        """Return the body if it came whole with its head, without coroutine or timer. If empty, `read` it.

        Raises:
            UnsupportedMediaTypeError: the body is compressed.
            RequestTooLargeError: longer than the limit.
        """
        if "Content-Encoding" in request.headers and request.headers["Content-Encoding"].lower() != "identity":
            raise UnsupportedMediaTypeError("Compressed request bodies are not accepted: leave out Content-Encoding")
        content = request.content
        return self._checked(content.read_nowait()) if content.is_eof() else b""

    async def read(self, request: Request) -> bytes | bytearray:
        """Return the body's bytes.

        Raises:
            UnsupportedMediaTypeError: the body is compressed.
            RequestTooLargeError: longer than the limit; raised before reading if the length was announced.
            RequestTimeoutError: it did not arrive in time.
            InvalidJsonError: it has too many values.
            ModelUnavailableError: the process is ending, or too many large bodies are being read.
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
                return await self._read_on(request)
        except TimeoutError:
            raise RequestTimeoutError(f"The request body did not arrive within {seconds:g} seconds") from None
        finally:
            self._arriving.discard(request.content)

    async def _read_on(self, request: Request) -> bytearray:
        """Collect and count piece by piece: doing either at the end, for a whole large body, would block all requests."""
        body = bytearray()
        crowd = _Crowd()
        counted = 0
        try:
            while piece := await request.content.readany():
                bytes_max = self._live.now.body_bytes_max
                if len(body) + len(piece) > bytes_max:
                    raise self._too_large()
                body += piece
                crowd.add(piece)
                beyond = max(0, len(body) - LARGE_BYTES)
                self._large_bytes += beyond - counted
                counted = beyond
                if counted and self._large_bytes > LARGE_BODIES * bytes_max:
                    raise ModelUnavailableError("Too many large requests are being read just now", retry_after_seconds=1)
        finally:
            self._large_bytes -= counted
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
    """Return the JSON value of a body.

    Raises:
        InvalidJsonError: not JSON, invalid UTF-8, NaN, or nested too deeply.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        raise InvalidJsonError(f"The request body is not valid JSON: {fault}") from None


class _Crowd:
    """Counts an upper bound of a body's JSON values, piece by piece."""

    def __init__(self) -> None:
        self._structures = 0
        self._values = 0

    def add(self, piece: bytes) -> None:
        """Count one more piece. Raises: InvalidJsonError."""
        structures = piece.count(b"{") + piece.count(b"[")
        self._structures += structures
        self._values += structures + piece.count(b",")
        if self._structures > STRUCTURES_MAX or self._values > VALUES_MAX:
            raise InvalidJsonError("The request body has too many values")
