"""Listening sockets: TCP, unix and systemd's. A stale socket file is replaced; a live one is never taken over."""

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.config import Address, SystemdAddress, TcpAddress, UnixAddress
from proxy.systemd import SocketActivationError, listen_sockets

BACKLOG = 2048
"""Connections that may wait for an accept. The kernel takes net.core.somaxconn where that is less."""
PRIVATE = 0o600


class ListenError(Exception):
    """An address cannot be listened on; the message names it and the reason."""


def open_sockets(address: Address, *, mode: int = PRIVATE, beside: Collection[Address] = ()) -> list[socket.socket]:
    """Return bound, listening sockets of one address. ``[::]`` listens on IPv4 as well as on IPv6.

    Args:
        beside: all addresses of the process: an IPv4 one of the same port leaves ``[::]`` IPv6 alone.
        mode: permissions of a unix socket's file, set when it is created, whatever the umask.

    Raises:
        ListenError: the address is taken or not ours, or systemd passed no sockets.
    """
    openers: dict[type, Callable[[], list[socket.socket]]] = {
        TcpAddress: lambda: _tcp(address, beside) if isinstance(address, TcpAddress) else [],
        UnixAddress: lambda: [_unix(address.path, mode)] if isinstance(address, UnixAddress) else [],
        SystemdAddress: listen_sockets,
    }
    try:
        return openers[type(address)]()
    except OSError as fault:
        raise ListenError(f"cannot listen on {address}: {fault.strerror or fault}") from None
    except SocketActivationError as fault:
        raise ListenError(str(fault)) from None


def remove_unix_socket(path: Path) -> None:
    """Remove the file of a closed unix socket; a file of another type stays."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink(missing_ok=True)


def is_ipv6_only(address: TcpAddress, beside: Collection[Address]) -> bool:
    """Return whether an address leaves IPv4 alone: any but ``[::]``, and that too where another address has IPv4 on its port.

    The system's own default (``net.ipv6.bindv6only``) differs from machine to machine, so it is never left to it.
    """
    if ":" not in address.host or not ipaddress.IPv6Address(address.host).is_unspecified:
        return True
    return any(isinstance(other, TcpAddress) and 0 < other.port == address.port and ":" not in other.host for other in beside)


def _tcp(address: TcpAddress, beside: Collection[Address]) -> list[socket.socket]:
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    for family, kind, protocol, _, sockaddr in dict.fromkeys(infos):
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, is_ipv6_only(address, beside))
            listener.bind(sockaddr)
            listener.listen(BACKLOG)
        except OSError:
            for other in (listener, *opened):
                other.close()
            raise
        listener.setblocking(False)
        opened.append(listener)
    return opened


def _unix(path: Path, mode: int) -> socket.socket:
    with _umask(lambda own: own | 0o022):  # anyone who may write in the folder could replace the socket
        path.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _umask(lambda _: 0o777 & ~mode):  # chmod after bind would leave a moment in which anyone may connect
            listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


@contextmanager
def _umask(changed: Callable[[int], int]) -> Iterator[None]:
    """Change the process's umask inside this context."""
    before = os.umask(0o077)
    os.umask(changed(before))
    try:
        yield
    finally:
        os.umask(before)


def _clear_stale(path: Path) -> None:
    """Remove a socket file without a listener, as a killed process leaves it."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError(errno.EEXIST, "there is a file in its place that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")
