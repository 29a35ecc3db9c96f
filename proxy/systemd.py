"""The two protocols of systemd with a service: sockets that it opened for us, and notifications of our state.

Each takes a few lines (man pages sd_listen_fds and sd_notify); without systemd both do nothing.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)

_FIRST_FD = 3
_SOCKETS_MAX = 64


class SocketActivationError(Exception):
    """systemd should have opened the listening sockets, and did not, or opened something else."""


def notify(state: str, env: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd the state, such as ``READY=1`` or ``STOPPING=1``; return False if it was not told.

    A service that cannot notify still serves: a failure is logged, not raised. The call never waits for a full socket, since the event
    loop would hang with it.
    """
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # the abstract namespace of Linux
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), socket.MSG_DONTWAIT, address)
        except OSError as error:
            logger.warning("systemd was not told %r: %s", state, error.strerror)
            return False
    return True


def watchdog_seconds(env: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds within which systemd expects ``WATCHDOG=1`` from this process (``WatchdogSec=``); None if it does not."""
    microseconds = env.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0 or env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000


def reloading() -> str:
    """Return the message for the start of a reload; ``READY=1`` ends it. Its time identifies the reload (Type=notify-reload)."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def listen_sockets(env: Mapping[str, str] = os.environ, first_fd: int = _FIRST_FD) -> list[socket.socket]:
    """Return the listening sockets that systemd passed, non-blocking and not inherited by children.

    Raises:
        SocketActivationError: none were passed to this process, or one is not a listening stream socket.
    """
    count = env.get("LISTEN_FDS", "")
    if env.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit() or not 0 < int(count) <= _SOCKETS_MAX:
        raise SocketActivationError(
            'systemd passed no sockets: "systemd" in server.listen needs a .socket unit that starts this service'
        )
    return [_take(fd) for fd in range(first_fd, first_fd + int(count))]


def _take(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        taken = socket.socket(fileno=fd)
    except OSError as error:
        raise SocketActivationError(f"file descriptor {fd} is no socket: {error.strerror}") from None
    if taken.type != socket.SOCK_STREAM or not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        taken.detach()  # not ours to close
        raise SocketActivationError(f"file descriptor {fd} is no listening stream socket (ListenStream= in the .socket unit)")
    taken.setblocking(False)
    return taken
