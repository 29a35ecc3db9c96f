"""Each kind of listening socket once the loop has taken it over: a crowd that comes at once finds room, and what it hands down."""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.config import TcpAddress, UnixAddress
from proxy.edge.entrance import Dispatcher, Entrance, Observer
from proxy.edge.listener import Listener
from proxy.edge.router import Router
from proxy.edge.sockets import BACKLOG, open_sockets
from proxy.systemd import listen_sockets
from proxy.telemetry.metrics import Metrics
from tests.support.backlogs import CROWD, expected_backlog, tcp_backlog, unix_clients_that_wait
from tests.support.entrance import Nobody
from tests.support.gateway import Lines
from tests.support.settings import live

pytestmark = pytest.mark.both_loops

PASSED_FD = 901
SOCKET_UNIT = Path(__file__).parents[3] / "systemd/llm-proxy.socket"


@pytest.fixture
async def listener() -> Listener:
    clock = SystemClock()
    dispatcher = Dispatcher(Router([], ()), Nobody(), live(), draining=lambda: False, refusing=lambda: False)
    return Listener(Entrance(dispatcher, Observer(clock, Lines(), Metrics()), clock), clock, keepalive_seconds=5, stall_seconds=5)


def passed_by_systemd(opened: socket.socket) -> list[socket.socket]:
    """Return the socket as a service finds it, which systemd opened with the unit's own backlog."""
    with opened:
        os.dup2(opened.fileno(), PASSED_FD, inheritable=True)
    return listen_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, first_fd=PASSED_FD)


def systemds_tcp() -> list[socket.socket]:
    return passed_by_systemd(socket.create_server(("127.0.0.1", 0), backlog=BACKLOG))


TCP: dict[str, Callable[[], list[socket.socket]]] = {
    "IPv4": lambda: open_sockets(TcpAddress("127.0.0.1", 0)),
    "IPv6": lambda: open_sockets(TcpAddress("::1", 0)),
    "systemd's": systemds_tcp,
}


@pytest.mark.parametrize("kind", TCP)
async def test_a_tcp_socket_keeps_its_queue_when_the_loop_listens(listener: Listener, kind: str) -> None:
    (opened,) = TCP[kind]()

    with closing(opened):
        before = tcp_backlog(opened)
        await listener.open([opened])
        after = tcp_backlog(opened)
        await listener.close()

    assert (before, after) == (expected_backlog(), expected_backlog())


@pytest.mark.parametrize("kind", TCP)
async def test_an_accepted_connection_waits_for_no_more_bytes_and_notices_a_dead_client(listener: Listener, kind: str) -> None:
    (opened,) = TCP[kind]()

    with closing(opened):
        await listener.open([opened])
        with socket.create_connection(opened.getsockname()[:2]):
            while not (connections := listener._server.connections):  # noqa: ASYNC110  the loop tells nobody that it has accepted
                await asyncio.sleep(0)
            assert connections[0].transport is not None
            accepted = connections[0].transport.get_extra_info("socket")
            options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
            found = [accepted.getsockopt(*option) for option in options]
        await listener.close()

    assert found == [1, 1]


def unix_sockets(path: Path) -> Iterator[tuple[str, list[socket.socket]]]:
    """Yield our own socket, then one that systemd opened."""
    yield str(path / "own"), open_sockets(UnixAddress(path / "own"))
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(str(path / "passed"))
    opened.listen(BACKLOG)
    yield str(path / "passed"), passed_by_systemd(opened)


async def test_a_unix_socket_keeps_its_queue_when_the_loop_listens(listener: Listener, tmp_path: Path) -> None:
    waiting = []

    for path, sockets in unix_sockets(tmp_path):
        await listener.open(sockets)
        waiting.append(unix_clients_that_wait(path))
    await listener.close()

    assert waiting == [CROWD, CROWD]


def test_systemd_opens_its_socket_with_the_gateways_backlog() -> None:
    (told,) = re.findall(r"^Backlog=(\d+)$", SOCKET_UNIT.read_text(encoding="utf-8"), re.MULTILINE)

    assert int(told) == BACKLOG
