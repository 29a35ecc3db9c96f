"""A way in: listening sockets in front of one handler, and the order in which they end."""

import asyncio
import socket
from collections.abc import Sequence

from proxy.clock import Clock
from proxy.edge.entrance import Entrance
from proxy.edge.server import Server

CLOSE_SECONDS = 2.0
"""What connections get to flush their last bytes."""
NEWCOMER_SECONDS = 1.0
"""What those get to send their request who were accepted just before the doors closed: they were let in, and are served."""


class Listener:
    """Sockets that are open for one handler."""

    def __init__(self, entrance: Entrance, clock: Clock, *, keepalive_seconds: float, stall_seconds: float) -> None:
        self.entrance = entrance
        self._server = Server(self.entrance.answer, clock=clock, keepalive_seconds=keepalive_seconds, stall_seconds=stall_seconds)
        self._listening: list[asyncio.AbstractServer] = []

    async def open(self, sockets: Sequence[socket.socket]) -> tuple[str, ...]:
        """Accept connections, and return where: ``http://HOST:PORT`` or ``unix:PATH``."""
        loop = asyncio.get_running_loop()
        for listener in sockets:
            if listener.family == socket.AF_UNIX:
                self._listening.append(await loop.create_unix_server(self._server, sock=listener))
            else:
                self._listening.append(await loop.create_server(self._server, sock=listener))
        return tuple(_shown(listener) for listener in sockets)

    @property
    def connections(self) -> int:
        """How many clients are connected, idle ones included."""
        return len(self._server.connections)

    def limit(self, *, keepalive_seconds: float, stall_seconds: float) -> None:
        """Change how long is waited for clients, also for those that are here."""
        self._server.limit(keepalive_seconds=keepalive_seconds, stall_seconds=stall_seconds)

    def stop_accepting(self) -> None:
        """Close the listening sockets and the connections that wait for a next request; `hear_newcomers` is for those new here."""
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        self._server.close_idle(spare_new=True)

    async def hear_newcomers(self) -> None:
        """Return once those who had connected and not yet asked have had a moment to do so; whoever has not is sent away."""
        await asyncio.sleep(0)  # what the loop has accepted already is told to the server in its next turn
        if self._server.has_new():
            await asyncio.sleep(NEWCOMER_SECONDS)
        self._server.close_idle()
        await asyncio.sleep(0)  # whose request came in this very turn begins

    async def close(self) -> None:
        """End what is left of the connections; whoever is still inside is cancelled."""
        self.stop_accepting()
        await self._server.shutdown(CLOSE_SECONDS)


def _shown(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
