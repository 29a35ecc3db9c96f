"""One address before several gateways: a connection goes to the next gateway that takes it, and its bytes to and fro.

It knows nothing of HTTP. In production this is nginx, HAProxy or a cloud's load balancer.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from proxy.edge.sockets import ListenError
from proxy.tasks import TaskGroup

_PIECE_BYTES = 65_536
_NO_LINGER = struct.pack("ii", 1, 0)


class Balancer:
    """Passes connections on, in turn."""

    def __init__(self, places: Sequence[tuple[str, int]]) -> None:
        """Args: places: host and port of each gateway."""
        self.places = list(places)
        self.url = ""
        self.newest = 0
        """Which of the gateways got the newest connection."""
        self._next = 0
        self._tasks = TaskGroup("balancer")

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on, until either side ends it."""
        try:
            far_reader, far_writer = await self._connected()
        except ConnectionError:  # no gateway is left
            _break_off(writer)
            return
        to, back = self._tasks.spawn(_pass_on(reader, far_writer), "there"), self._tasks.spawn(_pass_on(far_reader, writer), "back")
        try:
            await asyncio.wait([to, back])
        finally:
            far_writer.close()
            writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises: ConnectionError: nobody takes it."""
        for _ in self.places:
            number = self._next
            self._next = (number + 1) % len(self.places)
            with suppress(ConnectionError):
                streams = await asyncio.open_connection(*self.places[number])
                self.newest = number
                return streams
        raise ConnectionRefusedError("no gateway takes a connection")

    async def close(self) -> None:
        await self._tasks.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on to their end. A side that broke off breaks off the other, so that nobody takes half an answer for a whole one."""
    try:
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        _break_off(writer)
    except asyncio.CancelledError:
        _break_off(writer)
        raise


def _break_off(writer: asyncio.StreamWriter) -> None:
    """Reset a connection: an ordinary end could be taken for that of the answer."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


@asynccontextmanager
async def balancing(places: Sequence[tuple[str, int]], port: int) -> AsyncIterator[Balancer]:
    """Listen on a port of this machine, 0: any free one. Raises: ListenError."""
    balancer = Balancer(places)
    try:
        server = await asyncio.start_server(balancer.enter, "127.0.0.1", port)
    except OSError as fault:
        raise ListenError(f"cannot listen on 127.0.0.1:{port}: {fault.strerror or fault}") from None
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield balancer
    finally:
        server.close()
        await balancer.close()
