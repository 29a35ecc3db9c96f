"""A load that costs little itself: raw HTTP/1.1 on protocols, answers counted and not parsed."""

import asyncio
from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    key: str

    def request(self, body: bytes) -> bytes:
        head = (
            f"POST /api/v1/chat/completions HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _Client(asyncio.Protocol):
    """Sends the request again each time that an answer has ended, until told to stop."""

    def __init__(self, request: bytes, last_bytes: bytes, answers: int | None) -> None:
        self._request = request
        self._last_bytes = last_bytes
        self._left = answers
        self._tail = b""
        self.answers = 0
        self.pieces = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.pieces += 1
        tail = (self._tail + data)[-len(self._last_bytes) :]
        if tail != self._last_bytes:
            self._tail = tail
            return
        self._tail = b""
        self.answers += 1
        if self.stopping or self.answers == self._left:
            self.transport.close()
        else:
            self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def run_json(target: Target, body: bytes, last_bytes: bytes, connections: int, seconds: float) -> int:
    """Keep so many connections busy for so long; return how many answers came."""
    clients = await _open(target, body, last_bytes, connections, None)
    await asyncio.sleep(seconds)
    for client in clients:
        client.stopping = True
    await asyncio.wait([client.ended for client in clients], timeout=10)
    return sum(client.answers for client in clients)


async def run_streams(target: Target, body: bytes, connections: int) -> int:
    """Read one stream on each of so many connections to its end; return how many streams ended as they should."""
    clients = await _open(target, body, b"0\r\n\r\n", connections, 1)
    await asyncio.wait([client.ended for client in clients], timeout=60)
    return sum(client.answers for client in clients)


async def _open(target: Target, body: bytes, last_bytes: bytes, connections: int, answers: int | None) -> list[_Client]:
    loop = asyncio.get_running_loop()
    request = target.request(body)
    made = [loop.create_connection(lambda: _Client(request, last_bytes, answers), target.host, target.port) for _ in range(connections)]
    return [client for _, client in await asyncio.gather(*made)]
