"""A chat client on a raw socket: it sends one call, and reads, waits or leaves when the test says."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from tests.support.gateway import MODEL


class RawChat:
    """One connection to a gateway. It reads only when `head`, `first_bytes`, `chunks` or `rest` is called."""

    def __init__(self, origin: str, key: str, *, receive_bytes: int | None = None) -> None:
        url = urlsplit(origin)
        self._address = (url.hostname or "", url.port or 0)
        self._key = key
        self._socket = socket.socket()
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.setblocking(False)
        self._read = bytearray()

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().sock_connect(self._socket, self._address)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    async def ask(self, *, version: str = "1.1", **fields: Any) -> None:
        """Send a chat call to the standard model; ``fields`` are added to its body."""
        body = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **fields})
        head = (
            f"POST /v1/chat/completions HTTP/{version}\r\nHost: gateway\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await asyncio.get_running_loop().sock_sendall(self._socket, head.encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Return status and headers (names in lower case)."""
        while (end := self._read.find(b"\r\n\r\n")) < 0:
            assert await self._more(), f"no whole head: {bytes(self._read)!r}"
        lines = bytes(self._read[:end]).decode().split("\r\n")
        del self._read[: end + 4]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split()[1]), headers

    async def first_bytes(self, count: int = 1) -> bytes:
        """Return at least `count` bytes of the body as received, with its framing."""
        while len(self._read) < count:
            assert await self._more(), "the body ended"
        return bytes(self._read)

    async def chunks(self) -> tuple[list[bytes], bool]:
        """Return the chunks of a chunked body until it or the connection ends, and whether the last chunk came."""
        found: list[bytes] = []
        while True:
            while (end := self._read.find(b"\r\n")) < 0:
                if not await self._more():
                    return found, False
            size = int(bytes(self._read[:end]), 16)
            while len(self._read) < end + 2 + size + 2:
                if not await self._more():
                    return found, False
            piece = bytes(self._read[end + 2 : end + 2 + size])
            assert self._read[end + 2 + size : end + 4 + size] == b"\r\n"
            del self._read[: end + 4 + size]
            if not size:
                return found, True
            found.append(piece)

    async def rest(self) -> bytes:
        """Return all bytes received until the connection ends."""
        while await self._more():
            pass
        return bytes(self._read)

    def leave(self, *, reset: bool = False) -> None:
        """Close the connection with FIN, or with RST."""
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def _more(self) -> bool:
        try:
            got = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        except ConnectionResetError:
            return False
        self._read += got
        return bool(got)


@asynccontextmanager
async def raw_chat(origin: str, key: str, *, receive_bytes: int | None = None, **fields: Any) -> AsyncIterator[RawChat]:
    """Connect and send a chat call."""
    async with RawChat(origin, key, receive_bytes=receive_bytes) as client:
        await client.ask(**fields)
        yield client
