"""A raw TCP origin on loopback: it reads requests, and a test's script writes arbitrary bytes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Asked:
    """One received request: its head, and its body by Content-Length."""

    head: bytes
    body: bytes


class Peer:
    """The origin's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        """Set when this connection's script has ended, by itself or because the client left."""

    async def request(self) -> Asked:
        """Read one request. Raises: IncompleteReadError: the client has left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        return Asked(head, await self.reader.readexactly(int(lengths[0]) if lengths else 0))

    async def send(self, *pieces: bytes) -> None:
        """Write each piece in a separate turn of the loop, so that most arrive separately."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def left(self) -> None:
        """Wait until the client closes this connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """Close with RST."""
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


@dataclass(slots=True)
class Origin:
    """A running origin. Each connection takes the next script; the last script serves all further connections."""

    port: int
    scripts: list[Script]
    peers: list[Peer] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v3"


@asynccontextmanager
async def serve(*scripts: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    """Run an origin. The end of a script closes its connection. An error in a script fails the test, unless the client has left."""
    origin = Origin(0, list(scripts))
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer = Peer(reader, writer)
        script = origin.scripts.pop(0) if len(origin.scripts) > 1 else origin.scripts[0]
        origin.peers.append(peer)
        try:
            await script(peer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as fault:  # noqa: BLE001 - reported to the test when the origin ends
            origin.faults.append(fault)
        finally:
            writer.close()
            peer.gone.set()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()
    assert not origin.faults, origin.faults


def answering(*pieces: bytes, close: bool = False) -> Script:
    """Return a script that answers each request with these pieces; with `close`, it answers one request and closes."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*pieces)
            if close:
                return

    return script


def cut(whole: bytes, size: int) -> list[bytes]:
    """Return the bytes in pieces of `size`."""
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def chunked(payloads: Iterable[bytes]) -> bytes:
    """Return the payloads in chunked coding, with its terminator."""
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + b"0\r\n\r\n"
