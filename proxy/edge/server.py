"""aiohttp's low-level server: the factory of connections, and the means to close them.

`web.Application` costs about a fifth more CPU a request and hides the order of shutdown; here each request is one coroutine.
"""

import asyncio
from typing import Any, NoReturn

from aiohttp import web

from proxy.clock import Clock
from proxy.edge.connection import HEADER_LINE_BYTES_MAX, HEADERS_MAX, LINGER_SECONDS, Connection, RequestCoroutine
from proxy.edge.response import HeadWriter
from proxy.edge.unread import Unread


class Server(web.Server):
    """Makes a `Connection` for each accepted one, and tracks them."""

    def __init__(self, answer: RequestCoroutine, *, clock: Clock, keepalive_seconds: float, stall_seconds: float) -> None:
        super().__init__(_never)
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,  # 2 MB of gzip would cost seconds of CPU
            "keepalive_timeout": keepalive_seconds,  # also the deadline of a request's head
            "tcp_keepalive": False,  # the listening socket hands it down (`Listener.open`)
            "lingering_time": LINGER_SECONDS,
            "max_line_size": HEADER_LINE_BYTES_MAX,
            "max_field_size": HEADER_LINE_BYTES_MAX,
            "max_headers": HEADERS_MAX,
            # ours
            "answer": answer,
            "clock": clock,
            "heads": HeadWriter(),
            "unread": Unread(),
            "stall_seconds": stall_seconds,
        }

    def __call__(self) -> Connection:
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def limit(self, *, keepalive_seconds: float, stall_seconds: float) -> None:
        """Change the limits of all connections, present and future."""
        self._options.update(keepalive_timeout=keepalive_seconds, stall_seconds=stall_seconds)
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.limit(keepalive_seconds=keepalive_seconds, stall_seconds=stall_seconds)

    def close_idle(self, *, spare_new: bool = False) -> None:
        """Close the idle connections; ``spare_new`` spares those that have not sent a request yet."""
        for connection in self.connections:
            if isinstance(connection, Connection) and not (spare_new and connection.is_new):
                connection.close_if_idle()

    def has_new(self) -> bool:
        """Return True if a connection has not sent a request yet."""
        return any(connection.is_new for connection in self.connections if isinstance(connection, Connection))


async def _never(_: web.BaseRequest) -> NoReturn:
    raise AssertionError("Connection has a request cycle of its own")
