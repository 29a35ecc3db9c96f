"""Messages to systemd, and sockets from it, over real sockets."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.config.tables import ServerTable
from proxy.systemd import SocketActivationError, listen_sockets, notify

UNIT = Path(__file__).parents[2] / "systemd/llm-proxy.service"
HIGH_FD = 900
"""A stand-in for descriptor 3, which the test runner uses."""


@pytest.fixture
def passed_fds() -> Iterator[list[int]]:
    """Yield a list for descriptors from HIGH_FD on, which are closed at the end."""
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def as_passed(opened: socket.socket, fd: int = HIGH_FD) -> None:
    os.dup2(opened.fileno(), fd, inheritable=True)


def told(count: int) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count)}


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_reaches_the_socket_that_systemd_named(tmp_path: Path, abstract: bool) -> None:
    name = f"@llm-proxy-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))

        sent = notify("READY=1\nSTATUS=listening", {"NOTIFY_SOCKET": name})

        assert sent
        assert systemd.recv(100) == b"READY=1\nSTATUS=listening"


def test_without_systemd_nothing_is_said() -> None:
    assert not notify("READY=1", {})


def test_a_socket_that_nobody_reads_is_logged_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert "systemd was not told 'READY=1'" in caplog.text


def test_who_listens_and_never_reads_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
            with suppress(BlockingIOError):
                while True:
                    filling.sendto(b"WATCHDOG=1", socket.MSG_DONTWAIT, str(tmp_path / "notify"))

            assert not notify("WATCHDOG=1", {"NOTIFY_SOCKET": str(tmp_path / "notify")})

    assert "systemd was not told 'WATCHDOG=1'" in caplog.text


def test_a_passed_socket_accepts_connections_and_is_kept_from_children() -> None:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        as_passed(opened)
        with listen_sockets(told(1), first_fd=HIGH_FD)[0] as taken:
            opened.close()

            with socket.create_connection(taken.getsockname()) as client:
                taken.setblocking(True)
                with taken.accept()[0] as accepted:
                    assert accepted.getpeername() == client.getsockname()

            assert not taken.get_inheritable()


def test_a_passed_unix_socket_is_recognised_as_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "s"))
        opened.listen()
        as_passed(opened)

    with listen_sockets(told(1), first_fd=HIGH_FD)[0] as taken:
        assert (taken.family, taken.getsockname()) == (socket.AF_UNIX, str(tmp_path / "s"))


@pytest.mark.parametrize("env", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, told(0), told(-1), told(65)])
def test_no_sockets_for_this_process_is_an_error_that_says_what_is_missing(env: dict[str, str]) -> None:
    with pytest.raises(SocketActivationError, match=r"needs a \.socket unit"):
        listen_sockets(env)


def test_a_datagram_socket_is_refused(passed_fds: list[int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        as_passed(opened)
        passed_fds.append(HIGH_FD)

    with pytest.raises(SocketActivationError, match="no listening stream socket"):
        listen_sockets(told(1), first_fd=HIGH_FD)


def test_a_descriptor_that_is_no_socket_is_refused(passed_fds: list[int]) -> None:
    reading, writing = os.pipe()
    os.dup2(reading, HIGH_FD)
    passed_fds.extend((reading, writing, HIGH_FD))

    with pytest.raises(SocketActivationError, match="is no socket"):
        listen_sockets(told(1), first_fd=HIGH_FD)


def test_the_unit_waits_for_the_drain() -> None:
    stop_seconds = re.search(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text(), re.MULTILINE)

    assert stop_seconds is not None
    assert int(stop_seconds[1]) > ServerTable().drain_seconds
