"""Clients that come all at once, and a process that has no descriptor left for them."""

import resource
import socket
from pathlib import Path

from tests.support.backlogs import CROWD, expected_backlog, listening_sockets, tcp_backlog, unix_clients_that_wait
from tests.support.gateway import BALANCE, bench
from tests.support.process import free_port, gateway_process


async def test_whatever_the_gateway_listens_on_has_room_for_a_crowd(tmp_path: Path) -> None:
    """Found among this process's descriptors, so that a listener that comes later is held to it too."""
    listen, admin = f'127.0.0.1:0", "unix:{tmp_path}/api.sock', f'metrics_listen = "127.0.0.1:{free_port()}"'
    with listening_sockets() as others:
        already = set(others)

    async with bench(tmp_path, listen=listen, admin=admin) as gateway:
        with listening_sockets() as found:
            ours = [listener for address, listener in found.items() if address not in already]
            tcp = [tcp_backlog(listener) for listener in ours if listener.family == socket.AF_INET]
            waiting = [unix_clients_that_wait(listener.getsockname()) for listener in ours if listener.family == socket.AF_UNIX]
        await gateway.assert_charged(0)

    assert (len(tcp), min(tcp)) == (3, expected_backlog()), "public, metrics, and the stand-in"
    assert waiting == [CROWD, CROWD], "public and admin"


async def test_the_gateway_takes_all_the_descriptors_that_it_may_have(tmp_path: Path) -> None:
    """A shell's soft limit is for programs that call select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async with gateway_process(tmp_path, "http://127.0.0.1:9/api/v3", balance=BALANCE) as gateway:
        await gateway.start(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)))
        assert gateway.process is not None

        assert resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
