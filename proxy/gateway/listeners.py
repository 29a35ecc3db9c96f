"""The gateway's public, admin and metrics listeners, opened alike, limited and counted together."""

import socket
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack

from proxy.clock import Clock
from proxy.config import Address, UnixAddress
from proxy.edge.entrance import Dispatcher, Entrance, Observer
from proxy.edge.listener import Listener
from proxy.edge.router import Router
from proxy.edge.sockets import open_sockets, remove_unix_socket
from proxy.gateway.shutdown import StopSignal
from proxy.live.keys import LiveKeys
from proxy.live.settings import Live, Settings
from proxy.telemetry.instruments import Labels
from proxy.telemetry.logs import AccessLog
from proxy.telemetry.metrics import Metrics

PRIVATE_SOCKET_MODE = 0o600
"""Default permissions of a socket file; the admin socket has them."""


class Listeners:
    """Opens listeners, and pushes their closing on the stack."""

    def __init__(
        self, live: Live, clock: Clock, access_log: AccessLog, metrics: Metrics, stop: StopSignal, stack: AsyncExitStack
    ) -> None:
        self._live = live
        self._clock = clock
        self._access_log = access_log
        self._metrics = metrics
        self._stop = stop
        self._stack = stack
        self._opened: dict[str, Listener] = {}

    async def open(
        self,
        name: str,
        router: Router,
        live_keys: LiveKeys,
        addresses: Iterable[Address],
        *,
        mode: int = PRIVATE_SOCKET_MODE,
        inherited: Sequence[socket.socket] | None = None,
    ) -> tuple[Listener, tuple[str, ...]]:
        """Open a listener on all its addresses; return it and the addresses.

        Args: inherited: sockets that whoever started this process has opened in the addresses' place, and will remove.

        Raises: ListenError.
        """
        observer = Observer(self._clock, self._access_log, self._metrics)
        entrance = Entrance(
            Dispatcher(router, live_keys, self._live, draining=self._stop.requested.is_set, refusing=self._stop.refusing.is_set),
            observer,
            self._clock,
        )
        config = self._live.now.config
        server = config.server
        every = [*server.listen, *([] if config.admin.metrics_listen is None else [config.admin.metrics_listen])]
        listener = Listener(entrance, self._clock, keepalive_seconds=server.keepalive_seconds, stall_seconds=server.stall_seconds)
        self._opened[name] = listener
        self._stack.push_async_callback(listener.close)
        if inherited is not None:
            return listener, await listener.open(inherited)
        opened: list[str] = []
        for address in addresses:
            sockets = open_sockets(address, mode=mode, beside=every)
            if isinstance(address, UnixAddress):
                self._stack.callback(remove_unix_socket, address.path)
            opened += await listener.open(sockets)
        return listener, tuple(opened)

    def limit(self, settings: Settings) -> None:
        """Apply the limits of new settings to all listeners."""
        server = settings.config.server
        for listener in self._opened.values():
            listener.limit(keepalive_seconds=server.keepalive_seconds, stall_seconds=server.stall_seconds)

    def connections(self) -> dict[Labels, float]:
        return {(name,): listener.connections for name, listener in self._opened.items()}

    def in_flight(self) -> dict[Labels, float]:
        return {(name,): len(listener.entrance) for name, listener in self._opened.items()}
