"""Clients that leave at any point, never read, trickle or flood: each call is settled once, memory is bounded, others are served."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from proxy.demo.ark import Call, Step, Stream, answer_sse, chunk
from tests.support.ark_books import CHATS
from tests.support.promises import CLIENT_AWAY, Faults
from tests.support.stand import Stand, stand

TIMES = 5
"""At each point, by FIN and by RST."""
SECONDS_MAX = 30.0


class Client:
    """A socket that does what it is told, and nothing by itself."""

    def __init__(self, one: Stand, socket_: socket.socket) -> None:
        self.one = one
        self._socket = socket_
        self._loop = asyncio.get_running_loop()

    def request(self, **fields: object) -> bytes:
        body = orjson.dumps(self.one.body("007", **fields))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {self.one.gateway.keys['007']}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def send(self, piece: bytes) -> None:
        await self._loop.sock_sendall(self._socket, piece)

    async def read_until(self, end: bytes) -> bytes:
        got = b""
        async with asyncio.timeout(SECONDS_MAX):
            while end not in got:
                piece = await self._loop.sock_recv(self._socket, 65_536)
                assert piece, got
                got += piece
        return got

    async def read(self, count: int) -> bytes:
        return await self._loop.sock_recv(self._socket, count)

    async def drip(self, all_of_it: bytes) -> bytes:
        """Send a byte a second until the gateway says something or closes; return what it said."""
        async with asyncio.TaskGroup() as group:
            heard = group.create_task(self._hear())
            for byte in all_of_it:
                if heard.done():
                    return heard.result()
                with suppress(ConnectionError):
                    await self.send(bytes([byte]))
                await asyncio.wait([heard], timeout=A_SECOND)
        raise AssertionError("it was let send all of it")

    async def _hear(self) -> bytes:
        try:
            return await self.read(65_536)
        except ConnectionError:
            return b""

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def leave(self, *, reset: bool) -> None:
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@asynccontextmanager
async def client(one: Stand) -> AsyncIterator[Client]:
    with socket.socket() as made:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, where(one))
        yield Client(one, made)


async def having_connected(_: Client) -> None:
    return


async def within_the_head(who: Client) -> None:
    await who.send(who.request()[:40])


async def within_the_body(who: Client) -> None:
    await who.send(who.request()[:-20])


async def while_the_upstream_works(who: Client) -> None:
    who.one.books.gate.clear()
    asked = len(who.one.books.chats)
    await who.send(who.request(stream=True))
    await who.one.ark.wait_until(lambda: len(who.one.books.chats) > asked)


async def after_the_head(who: Client) -> None:
    await who.send(who.request(stream=True))
    await who.read_until(b"\r\n\r\n")


async def in_mid_stream(who: Client) -> None:
    await who.send(who.request(stream=True))
    await who.read_until(b"word")


async def having_read_it_all(who: Client) -> None:
    await who.send(who.request(stream=True))
    await who.read_until(b"data: [DONE]\n\n")


POINTS: tuple[Callable[[Client], Awaitable[None]], ...] = (
    having_connected, within_the_head, within_the_body, while_the_upstream_works, after_the_head, in_mid_stream, having_read_it_all,
)  # fmt: skip


@pytest.mark.promise(CLIENT_AWAY)
async def test_clients_that_leave_at_seven_points_are_each_settled_once(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path, event_seconds=0.002) as one:
        assert await one.start()
        for point in POINTS:
            for reset in (False, True):
                for _ in range(TIMES):
                    async with client(one) as who:
                        await point(who)
                        who.leave(reset=reset)
                    one.books.gate.set()
                    faults.injected += 1
        await served(one, faults)
        # all that began to be answered: 4 points, twice each
        assert one.outcomes["chat client_gone"] + one.outcomes["chat complete"] >= 4 * 2 * TIMES


@pytest.mark.promise(CLIENT_AWAY)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_half_closes_has_left_and_pays_for_what_was_made(tmp_path: Path, faults: Faults, stream: bool) -> None:
    async with stand(tmp_path, event_seconds=0.002) as one:
        assert await one.start()
        for _ in range(TIMES):
            async with client(one) as who:
                await who.send(who.request(stream=stream))
                who.half_close()
                faults.injected += 1
        await served(one, faults)


async def served(one: Stand, faults: Faults) -> None:
    """Check that others are served, that everything ends, and the books."""
    await one.customers(4, calls=3)
    await one.all_ended()
    faults.cost(await one.losses(all_ended=True))
    assert not one.gateway.has_ended


# floods and trickles


def resident_bytes(one: Stand) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{one.gateway.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@asynccontextmanager
async def measured(directory: Path, **options: Any) -> AsyncIterator[tuple[Stand, Callable[[], int]]]:
    """Start a gateway that has served already; return it, and what tells by how many bytes it has grown since."""
    async with stand(directory, **options) as one:
        assert await one.start()
        await one.customers(4, calls=3)
        before = resident_bytes(one)
        yield one, lambda: resident_bytes(one) - before


def where(one: Stand) -> tuple[str, int]:
    url = urlsplit(one.gateway.origin)
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


@pytest.mark.promise(CLIENT_AWAY)
async def test_ten_thousand_pipelined_requests_are_answered_in_bounded_memory_beside_others(tmp_path: Path, faults: Faults) -> None:
    requests = 10_000
    async with measured(tmp_path) as (one, grown):
        reader, writer = await asyncio.open_connection(*where(one))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n" * requests)
        others = asyncio.gather(one.customers(4, calls=3))
        answered = 0
        async with asyncio.timeout(SECONDS_MAX):
            while answered < requests:
                assert b" 200 " in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
                answered += 1
                await reader.readuntil(b"}")
            await others
        writer.close()

        faults.injected += requests
        assert grown() < 30_000_000
        await served(one, faults)


@pytest.mark.promise(CLIENT_AWAY)
async def test_a_thousand_idle_connections_hurt_nobody(tmp_path: Path, faults: Faults) -> None:
    connections = 1_000
    async with measured(tmp_path) as (one, grown):
        idle = await asyncio.gather(*(asyncio.open_connection(*where(one)) for _ in range(connections)))

        await served(one, faults)

        faults.injected += connections
        assert grown() / connections < 32 * 1024
        for _, writer in idle:
            writer.close()


@pytest.mark.promise(CLIENT_AWAY)
async def test_clients_that_read_a_byte_at_a_time_cost_bounded_memory_and_hurt_nobody(tmp_path: Path, faults: Faults) -> None:
    """Fifty of them want 16 MiB each: more than all buffers hold."""
    clients = 50
    async with measured(tmp_path, drain_after_seconds=1) as (one, grown), asyncio.TaskGroup() as group:
        asked = flood(one)
        stop = asyncio.Event()
        for _ in range(clients):
            group.create_task(read_slowly(one, stop))
        await one.ark.wait_until(lambda: len(asked) == clients, SECONDS_MAX)
        await unhurt(one)
        assert grown() / clients < 2_000_000
        stop.set()
        await one.all_ended()
        faults.injected += clients
        faults.cost(await broken_books(one))


def flood(one: Stand) -> list[Call]:
    """Let each chat of account 007's be answered with 16 MiB, and all others as ever; return the list of those that Ark was asked."""
    asked: list[Call] = []
    event = b'data: {"choices":[{"delta":{"content":"%b"},"index":0}],"usage":null}\n\n' % (b"x" * 32_000)

    def answer(call: Call) -> Sequence[Step]:
        if call.json["messages"][0]["content"].startswith("007"):
            asked.append(call)
            one.ark.changed()  # for those who wait until it stands here
            return [*answer_sse(event, end=False), Stream(chunk(event) for _ in range(500))]
        return one.books.chat(call)

    one.ark.forget_scripts()
    one.ark.enqueue(answer, CHATS, times=None)
    return asked


async def unhurt(one: Stand) -> None:
    async with aiohttp.ClientSession(one.gateway.origin) as session:
        for number in range(20):
            await one.want(session, "stream" if number % 2 else "json", "001")


async def broken_books(one: Stand) -> list[str]:
    async with one.gateway.looked_into() as store:
        return [f"{check.name}: {check.offenders}" for check in await store.verify() if not check.holds]


async def read_slowly(one: Stand, stop: asyncio.Event, pause_seconds: float = 0.05) -> None:
    async with client(one) as who:
        await who.send(who.request(stream=True))
        while not stop.is_set():
            await who.read(1)
            await asyncio.sleep(pause_seconds)  # the slowness itself
        who.leave(reset=False)


# exactly a byte a second


A_SECOND = 1.0
CLIENTS = 30
DEADLINES = {"body_seconds": 3, "server": "keepalive_seconds = 3\nstall_seconds = 3"}


async def who_sends_its_head(one: Stand) -> bytes:
    async with client(one) as who:
        return await who.drip(b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nx-slow: " + b"x" * 1_000)


async def who_sends_its_body(one: Stand) -> bytes:
    async with client(one) as who:
        head, _, body = who.request(stream=True).partition(b"\r\n\r\n")
        await who.send(head + b"\r\n\r\n")
        return await who.drip(body)


@pytest.mark.promise(CLIENT_AWAY)
@pytest.mark.parametrize(("slow", "told"), [(who_sends_its_head, b""), (who_sends_its_body, b"408")], ids=["head", "body"])
async def test_clients_that_send_a_byte_a_second_are_ended_by_their_deadline(
    tmp_path: Path, faults: Faults, slow: Callable[[Stand], Coroutine[Any, Any, bytes]], told: bytes
) -> None:
    """Each goes on until it is ended: a gateway that did not would keep this from its end."""
    async with measured(tmp_path, **DEADLINES) as (one, grown):
        async with asyncio.TaskGroup() as group:
            ends = [group.create_task(slow(one)) for _ in range(CLIENTS)]
            await unhurt(one)
            assert grown() / CLIENTS < 2_000_000
        faults.injected += CLIENTS
        assert {end.result()[9:12] for end in ends} == {told}
        await served(one, faults)


@pytest.mark.promise(CLIENT_AWAY)
async def test_clients_that_read_a_byte_a_second_are_ended_by_their_deadline(tmp_path: Path, faults: Faults) -> None:
    """What the kernel has of their answers they may read on; the gateway has let go of them, and of the upstream."""
    async with measured(tmp_path, **DEADLINES, drain_after_seconds=1) as (one, grown), asyncio.TaskGroup() as group:
        asked = flood(one)
        stop = asyncio.Event()
        for _ in range(CLIENTS):
            group.create_task(read_slowly(one, stop, A_SECOND))
        await one.ark.wait_until(lambda: len(asked) == CLIENTS, SECONDS_MAX)  # the first may have met their deadline by then
        await unhurt(one)
        assert grown() / CLIENTS < 2_000_000
        await one.all_ended()
        assert not stop.is_set()
        stop.set()
        faults.injected += CLIENTS
        faults.cost(await broken_books(one))
        assert one.gateway.log.read_text().count('"account":"007"') >= CLIENTS
