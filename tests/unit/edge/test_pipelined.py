"""Requests that come in one piece: each is answered in a turn of the loop of its own, so that all others are served in between."""

import asyncio
from typing import cast

from proxy.clock import SystemClock
from proxy.edge.request import Request
from proxy.edge.response import Response
from proxy.edge.server import Server

REQUESTS = 2_000


class Client:
    """A transport that counts the answers written to it."""

    def __init__(self) -> None:
        self.answers = 0
        self.all_here = asyncio.Event()

    def write(self, piece: bytes) -> None:
        self.answers += piece.count(b"HTTP/1.1 200")
        if self.answers == REQUESTS:
            self.all_here.set()

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, _: str, default: object = None) -> object:
        return default

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


async def test_thousands_of_requests_in_one_piece_leave_the_loop_to_others_between_any_two() -> None:
    loop, turns = asyncio.get_running_loop(), 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not client.all_here.is_set():
            loop.call_soon(turn)

    async def answer(_: Request) -> Response:
        return Response(200, {}, b"")  # waits for nothing, as a refusal does

    client, connection = Client(), Server(answer, clock=SystemClock(), keepalive_seconds=75, stall_seconds=30)()
    connection.connection_made(cast("asyncio.Transport", client))
    await asyncio.sleep(0)
    turn()
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * REQUESTS)
    async with asyncio.timeout(30):
        await client.all_here.wait()
    connection.connection_lost(None)
    await asyncio.sleep(0)

    assert turns >= REQUESTS - 1
