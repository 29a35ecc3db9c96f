"""Listening sockets in front of one handler, and the order in which they are closed."""

import asyncio
import socket
from collections.abc import Sequence

from proxy.clock import Clock
from proxy.edge.entrance import Entrance
from proxy.edge.server import Server
from proxy.edge.sockets import BACKLOG

CLOSE_SECONDS = 2.0
"""Time for connections to flush their last bytes."""
NEWCOMER_SECONDS = 1.0
"""Time for clients that were accepted just before the sockets closed to send a request: it is still served."""


class Listener:
    """Sockets that are open for one handler."""

    def __init__(self, entrance: Entrance, clock: Clock, *, keepalive_seconds: float, stall_seconds: float) -> None:
        self.entrance = entrance
        self._server = Server(self.entrance.answer, clock=clock, keepalive_seconds=keepalive_seconds, stall_seconds=stall_seconds)
        self._listening: list[asyncio.AbstractServer] = []

    async def open(self, sockets: Sequence[socket.socket]) -> tuple[str, ...]:
        """Accept connections, and return the addresses: ``http://HOST:PORT`` or ``unix:PATH``.

        A loop calls listen() once more on a socket that listens already, systemd's too. Its own backlog would be 100: of clients that
        connect at once, the kernel would drop the rest, and they would try again after 1, 3, 7, … seconds.
        """
        loop = asyncio.get_running_loop()
        for listener in sockets:
            if listener.family == socket.AF_UNIX:
                self._listening.append(await loop.create_unix_server(self._server, sock=listener, backlog=BACKLOG))
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted connections inherit it (Linux, BSD)
                self._listening.append(await loop.create_server(self._server, sock=listener, backlog=BACKLOG))
        return tuple(_shown(listener) for listener in sockets)

    @property
    def connections(self) -> int:
        """Number of connected clients, idle ones included."""
        return len(self._server.connections)

    def limit(self, *, keepalive_seconds: float, stall_seconds: float) -> None:
        """Change the time limits of all connections, present and future."""
        self._server.limit(keepalive_seconds=keepalive_seconds, stall_seconds=stall_seconds)

    def stop_accepting(self) -> None:
        """Close the listening sockets and the idle connections; those without a first request are left to `hear_newcomers`."""
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        self._server.close_idle(spare_new=True)

    async def hear_newcomers(self) -> None:
        """Give new connections `NEWCOMER_SECONDS` to send a first request, then close those that are idle."""
        await asyncio.sleep(0)  # the server learns of accepted connections in the loop's next turn
        if self._server.has_new():
            await asyncio.sleep(NEWCOMER_SECONDS)
        self._server.close_idle()
        await asyncio.sleep(0)  # lets requests that arrived in this turn begin

    async def close(self) -> None:
        """Close the remaining connections; requests in progress are cancelled."""
        self.stop_accepting()
        await self._server.shutdown(CLOSE_SECONDS)


def _shown(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
