"""A raw HTTP/1.1 client: it sends arbitrary bytes and parses answers strictly, so that broken framing is noticed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

SECONDS_MAX = 10.0
"""Limit of every wait. A gateway that never answers fails the test instead of hanging it."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One answer as received; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, checked to have exactly the documented shape."""
        assert self.headers["content-type"] == "application/json"
        document = self.json
        assert set(document) == {"error"}
        error: dict[str, Any] = document["error"]
        assert set(error) == {"type", "code", "message", "param"}
        assert error["message"]
        return error


class Raw:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Write piece by piece. Ignore that the peer has closed: its answer is read afterwards."""
        with suppress(ConnectionError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()

    async def answer(self, *, head: bool = False) -> RawAnswer:
        """Read one answer. ``head``: it answers a HEAD request and has no body, whatever its headers say."""
        async with asyncio.timeout(SECONDS_MAX):
            status, headers = await self._head()
            bodiless = head or status in (204, 304) or status < 200
            return RawAnswer(status, headers, b"" if bodiless else await self._body(headers))

    async def ask(self, *pieces: bytes, head: bool = False) -> RawAnswer:
        """Send the pieces and read one answer."""
        await self.send(*pieces)
        return await self.answer(head=head)

    async def closed(self) -> bytes:
        """Wait until the gateway closes and return all bytes that it sent until then."""
        async with asyncio.timeout(SECONDS_MAX):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def pause_reading(self) -> None:
        """Stop reading from the socket."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()  # uvloop's transport is no subclass

    async def _head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        version, status, _ = first.split(b" ", 2)
        assert version in (b"HTTP/1.1", b"HTTP/1.0")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            assert colon, line
            key = name.decode().lower()
            assert key not in headers, f"{key} stands twice"
            headers[key] = value.strip().decode()
        return int(status), headers

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join([piece async for piece in self._chunks()])
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        return await self.reader.read()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readline(), 16):
            yield await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"


@asynccontextmanager
async def connect(origin: str) -> AsyncIterator[Raw]:
    """Open one connection to ``http://HOST:PORT``."""
    parts = urlsplit(origin)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(
    method: str, target: str, *headers: tuple[str, str | bytes], body: bytes | None = None, version: str = "HTTP/1.1", host: bool = True
) -> bytes:
    """Return the bytes of one request, with a Content-Length if it has a body, and a Host unless `host` is False."""
    lines = [f"{method} {target} {version}".encode()]
    if host:
        lines.append(b"Host: gateway")
    lines += [name.encode() + b": " + (value.encode() if isinstance(value, str) else value) for name, value in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")
