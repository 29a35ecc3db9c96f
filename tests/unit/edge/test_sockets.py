"""Unix sockets: their permissions, and files that are already at their path. TCP: which of IPv6 and IPv4 an address means."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config import TcpAddress, UnixAddress
from proxy.edge.sockets import ListenError, open_sockets


@pytest.fixture
def umask() -> Iterator[int]:
    """Set the umask of the systemd unit for the test."""
    before = os.umask(0o077)
    yield 0o077
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o600])
def test_a_sockets_mode_is_the_one_that_was_asked_for_whatever_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    (listener,) = open_sockets(UnixAddress(tmp_path / "api.sock"), mode=mode)

    assert mode_of(tmp_path / "api.sock") == mode
    assert os.umask(umask) == umask  # the next created file is as private as before
    listener.close()


def test_a_socket_of_which_nothing_is_said_is_private(tmp_path: Path) -> None:
    (listener,) = open_sockets(UnixAddress(tmp_path / "api.sock"))

    assert mode_of(tmp_path / "api.sock") == 0o600
    listener.close()


@pytest.mark.parametrize(("own", "folder_mode"), [(0, 0o755), (0o022, 0o755), (0o077, 0o700)])
def test_a_folder_that_is_made_for_a_socket_is_nobody_elses_to_write_in(tmp_path: Path, umask: int, own: int, folder_mode: int) -> None:
    # a user who may write to it could replace the operator's socket with their own
    path = tmp_path / "run" / "gateway" / "admin.sock"

    os.umask(own)
    open_sockets(UnixAddress(path))[0].close()

    assert os.umask(umask) == own
    assert [mode_of(folder) for folder in (path.parent, path.parent.parent)] == [folder_mode, folder_mode]


def test_a_socket_in_use_is_not_taken_over_and_a_dead_one_is(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "api.sock")
    (first,) = open_sockets(address)

    with pytest.raises(ListenError, match="another process listens there"):
        open_sockets(address)
    first.close()
    (second,) = open_sockets(address)

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address.path))
    second.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "api.sock").write_text("precious")

    with pytest.raises(ListenError, match="no socket"):
        open_sockets(UnixAddress(tmp_path / "api.sock"))

    assert (tmp_path / "api.sock").read_text() == "precious"


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


needs_ipv6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "by_ipv6", "by_ipv4"),
    [("::", True, True), ("0:0:0:0:0:0:0:0", True, True), ("::1", True, False), ("0.0.0.0", False, True), ("127.0.0.1", False, True)],
)
def test_every_address_of_ipv6_is_every_address_of_ipv4_too(host: str, by_ipv6: bool, by_ipv4: bool) -> None:
    (listener,) = open_sockets(TcpAddress(host, 0))

    assert (answers("::1", port_of(listener)), answers("127.0.0.1", port_of(listener))) == (by_ipv6, by_ipv4)
    listener.close()


@needs_ipv6
@pytest.mark.parametrize("other", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("comes_first", [False, True])
def test_an_ipv4_address_beside_it_keeps_its_port(other: str, comes_first: bool) -> None:
    (probe,) = open_sockets(TcpAddress("::", 0))
    port = port_of(probe)
    probe.close()
    both = [TcpAddress("::", port), TcpAddress(other, port)]
    if comes_first:
        both.reverse()

    opened = [listener for address in both for listener in open_sockets(address, beside=both)]

    assert (answers("::1", port), answers("127.0.0.1", port)) == (True, True)
    for listener in opened:
        listener.close()
