"""The accept queues of listening sockets, as the kernel has them."""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from proxy.edge.sockets import BACKLOG

CROWD = 500
"""Clients of a unix socket that come at once: more than a loop's own backlog of 100, and within every limit of descriptors."""
_UNACKED_AND_SACKED = 24
"""Their place in struct tcp_info. Of a listening socket they are the length of its queue and its limit (as in `ss`)."""


def somaxconn() -> int:
    return int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))


def expected_backlog() -> int:
    return min(BACKLOG, somaxconn())


def tcp_backlog(listener: socket.socket) -> int:
    """Return the most connections that may wait for an accept."""
    told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    _, most = struct.unpack_from("II", told, _UNACKED_AND_SACKED)
    return int(most)


def unix_clients_that_wait(path: str) -> int:
    """Return how many of a crowd find room in the queue. Nobody accepts meanwhile, as long as the loop does not turn."""
    with ExitStack() as clients:
        for waiting in range(CROWD):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(path)
            except BlockingIOError:
                return waiting
    return CROWD


@contextmanager
def listening_sockets() -> Iterator[dict[object, socket.socket]]:
    """Yield a copy of each listening stream socket of this process, by its address."""
    found: dict[object, socket.socket] = {}
    with ExitStack() as copies:
        for descriptor in map(int, (path.name for path in Path("/proc/self/fd").iterdir())):
            try:
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    continue
                copy = copies.enter_context(socket.socket(fileno=os.dup(descriptor)))
            except OSError:  # the descriptor of the listing itself, closed by now
                continue
            if copy.type == socket.SOCK_STREAM and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found[copy.getsockname()] = copy
        yield found
