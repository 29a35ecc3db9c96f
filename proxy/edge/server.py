"""aiohttp's low-level server: the factory of connections, and the way to end them.

`web.Application` costs about a fifth more CPU a request and hides the order of shutdown; here is one coroutine a request and no more.
"""

import asyncio
from typing import Any, NoReturn

from aiohttp import web

from proxy.clock import Clock
from proxy.edge.connection import HEADER_LINE_BYTES_MAX, HEADERS_MAX, LINGER_SECONDS, Connection, RequestCoroutine
from proxy.edge.response import HeadWriter


class Server(web.Server):
    """Makes a `Connection` of each one that is accepted, and keeps them."""

    def __init__(self, answer: RequestCoroutine, *, clock: Clock, keepalive_seconds: float, stall_seconds: float) -> None:
        super().__init__(_never)
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,  # 2 MB of gzip would cost seconds of CPU
            "keepalive_timeout": keepalive_seconds,  # also the deadline of a request's head
            "lingering_time": LINGER_SECONDS,
            "max_line_size": HEADER_LINE_BYTES_MAX,
            "max_field_size": HEADER_LINE_BYTES_MAX,
            "max_headers": HEADERS_MAX,
            # ours
            "answer": answer,
            "clock": clock,
            "heads": HeadWriter(),
            "stall_seconds": stall_seconds,
        }

    def __call__(self) -> Connection:
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def limit(self, *, keepalive_seconds: float, stall_seconds: float) -> None:
        """Change the limits of the connections that stand, and of those to come."""
        self._options.update(keepalive_timeout=keepalive_seconds, stall_seconds=stall_seconds)
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.limit(keepalive_seconds=keepalive_seconds, stall_seconds=stall_seconds)

    def close_idle(self, *, spare_new: bool = False) -> None:
        """Close the connections that wait for a next request; ``spare_new`` leaves those that have sent none yet."""
        for connection in self.connections:
            if isinstance(connection, Connection) and not (spare_new and connection.is_new):
                connection.close_if_idle()

    def has_new(self) -> bool:
        """Return whether somebody has connected and not sent a request yet."""
        return any(connection.is_new for connection in self.connections if isinstance(connection, Connection))


async def _never(_: web.BaseRequest) -> NoReturn:
    raise AssertionError("Connection has a request cycle of its own")
