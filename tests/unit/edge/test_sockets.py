"""Unix sockets: their permissions, and files that are already at their path."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config import UnixAddress
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
