"""Who started this process and hears of its state: systemd, or the supervisor of workers, in the same words.

A worker and its supervisor share a pair of sockets. The worker writes lines such as ``READY=1``, and never waits for a reader; the
supervisor writes nothing. So whatever a worker reads is the end of its supervisor, by kill -9 too.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy import systemd

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parent:
    """What a gateway knows of who started it."""

    tell: Callable[[str], object]
    """Called with a state as systemd has it: ``READY=1``."""
    watchdog_seconds: float | None
    """Seconds within which it wants ``WATCHDOG=1``; None: it does not."""
    sockets: Sequence[socket.socket] | None = None
    """Those of the public listener, which it opened and other workers share; None: the gateway opens its own."""
    channel: socket.socket | None = None

    def watch(self, on_end: Callable[[], Any]) -> None:
        """Call ``on_end`` on the running loop, once, when a supervisor has ended. systemd outlives what it starts."""
        if self.channel is None:
            return
        loop, channel = asyncio.get_running_loop(), self.channel

        def ended() -> None:
            loop.remove_reader(channel)
            logger.critical("the supervisor of workers ended, so this one stops")
            on_end()

        loop.add_reader(channel, ended)


def by_systemd() -> Parent:
    """Return systemd, or whoever else has set its variables; without them it hears nothing."""
    return Parent(systemd.notify, systemd.watchdog_seconds())


def by_supervisor(channel: socket.socket, sockets: Sequence[socket.socket], watchdog_seconds: float) -> Parent:
    """Return the supervisor at the other end of a channel."""

    def tell(state: str) -> None:
        try:
            channel.send(f"{state}\n".encode(), socket.MSG_DONTWAIT)
        except OSError as error:  # it is gone, which `watch` sees, or stands still
            logger.debug("the supervisor was not told %r: %s", state, error.strerror)

    return Parent(tell, watchdog_seconds, sockets, channel)
