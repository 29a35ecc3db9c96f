"""The demonstration's balancer: connections in turn, past what is dead, and no half answer that looks whole."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from proxy.demo.balancer import balancing
from proxy.edge.sockets import ListenError
from tests.support.process import free_port


@asynccontextmanager
async def gateway(name: bytes) -> AsyncIterator[tuple[str, int]]:
    """Listen, and answer each line with a name and the line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(name + b" " + line)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[:2]


async def ask(port: int, line: bytes = b"hello\n") -> bytes:
    """Send a line and the end; return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(line)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def test_connections_go_round_and_past_a_gateway_that_is_dead() -> None:
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(gateway(name)) for name in (b"a", b"b")]
        balancer = await stack.enter_async_context(balancing([first, ("127.0.0.1", free_port()), second], 0))
        port = int(balancer.url.rpartition(":")[2])

        answers, newest = [], []
        for _ in range(4):
            answers.append(await ask(port))
            newest.append(balancer.newest)

    assert answers == [b"a hello\n", b"b hello\n"] * 2
    assert newest == [0, 2] * 2


async def test_where_no_gateway_is_left_the_connection_ends() -> None:
    async with balancing([("127.0.0.1", free_port())], 0) as balancer:
        port = int(balancer.url.rpartition(":")[2])

        with pytest.raises(ConnectionError):
            await ask(port)


async def test_a_gateway_that_breaks_off_breaks_off_its_client() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"half of it")
        await writer.drain()
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, as of a process that is killed
        writer.transport.abort()

    async with (
        await asyncio.start_server(break_off, "127.0.0.1", 0) as server,
        balancing([server.sockets[0].getsockname()[:2]], 0) as balancer,
    ):
        with pytest.raises(ConnectionError):
            await ask(int(balancer.url.rpartition(":")[2]))


async def test_a_port_that_is_taken_is_told() -> None:
    async with gateway(b"a") as (_, port):
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: "):
            async with balancing([], port):
                pass
