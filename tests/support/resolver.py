"""A DNS server for tests that answers or stays silent, and a mount namespace in which a process uses only this server."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

ADDRESS = "127.0.0.53"
PORT = 53
_POINTER_TO_THE_NAME = b"\xc0\x0c"


class Resolver(asyncio.DatagramProtocol):
    """Answers each query for an address with 127.0.0.1 while `answers` is set, and is silent otherwise."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = True
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's transport is no subclass

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        if self.answers and self._transport is not None:
            self._transport.sendto(_answer(data), addr)


def _answer(question: bytes) -> bytes:
    """Return the answer to one query (RFC 1035, 4.1): 127.0.0.1 for type A, no record for any other type."""
    end = question.index(b"\0", 12) + 5
    is_for_address = question[end - 4 : end - 2] == b"\0\1"
    record = _POINTER_TO_THE_NAME + b"\0\1\0\1" + b"\0\0\0\0" + b"\0\4" + socket.inet_aton("127.0.0.1")
    head = question[:2] + b"\x81\x80" + b"\0\1" + (b"\0\1" if is_for_address else b"\0\0") + b"\0\0\0\0"
    return head + question[12:end] + (record if is_for_address else b"")


@asynccontextmanager
async def resolver(directory: Path) -> AsyncIterator[tuple[Resolver, tuple[str, ...]]]:
    """Start a DNS server; yield it and the command prefix that makes a process use it."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not there to give a process another name server")
    asked = directory / "resolv.conf"
    asked.write_text(f"nameserver {ADDRESS}\noptions timeout:1 attempts:1\n")
    made = socket.socket(type=socket.SOCK_DGRAM)
    try:
        made.bind((ADDRESS, PORT))  # uvloop leaves a transport behind that could not bind
    except OSError as fault:
        made.close()
        pytest.skip(f"no name server may be run here: {fault}")
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(Resolver, sock=made)
    yield server, ("unshare", "--mount", "sh", "-c", f'mount --bind "{asked}" /etc/resolv.conf && exec "$@"', "sh")
    transport.close()
