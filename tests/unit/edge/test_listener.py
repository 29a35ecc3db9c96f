"""A handler that raises, over a real socket: documented JSON or a visibly broken answer, and one line in the log."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from proxy.clock import SystemClock
from proxy.config import TcpAddress
from proxy.core.errors import ModelUnavailableError, RateLimitedError
from proxy.edge.context import Context
from proxy.edge.entrance import Dispatcher, Entrance, Observer
from proxy.edge.listener import Listener
from proxy.edge.response import Response
from proxy.edge.router import Handler, Route, Router
from proxy.edge.sockets import open_sockets
from proxy.telemetry.metrics import Metrics
from tests.support.entrance import Nobody
from tests.support.gateway import Lines
from tests.support.raw import connect, request
from tests.support.settings import live

SECRET = "canary-in-an-exception"


@dataclass
class Watching:
    """A watcher that is told when its client leaves."""

    inside: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def client_paused(self) -> None: ...

    def client_resumed(self) -> None: ...

    def client_lost(self) -> None:
        self.left.set()


@asynccontextmanager
async def serving(handler: Handler, *, seconds: float = 5) -> AsyncIterator[tuple[str, Lines, Listener]]:
    """Serve one handler at ``GET /`` as the gateway does; yield the address, the access log and the listener."""
    clock, log = SystemClock(), Lines()
    router = Router([], (), at_root=[Route("GET", "/", handler, needs_key=False)])
    entrance = Entrance(
        Dispatcher(router, Nobody(), live(), draining=lambda: False, refusing=lambda: False), Observer(clock, log, Metrics()), clock
    )
    listener = Listener(entrance, clock, keepalive_seconds=seconds, stall_seconds=seconds)
    (address,) = await listener.open(open_sockets(TcpAddress("127.0.0.1", 0)))
    try:
        yield address, log, listener
    finally:
        await listener.close()


BUGS = [
    ValueError(SECRET),
    KeyError(SECRET),
    TimeoutError(SECRET),
    ConnectionError(SECRET),
    OSError(28, SECRET),
    RecursionError(SECRET),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug).__name__)
async def test_a_bug_is_a_500_that_tells_nothing_and_is_logged(bug: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: Context) -> Response:
        raise bug

    async with serving(handler) as (origin, log, _), connect(origin) as client:
        answer = await client.ask(request("GET", "/"))
        again = await client.ask(request("OPTIONS", "/"))

    assert (answer.status, answer.error["code"], answer.error["type"]) == (500, "INTERNAL_ERROR", "api_error")
    assert answer.headers["x-should-retry"] == "false"  # what the bug cut may have been asked upstream
    assert SECRET.encode() not in answer.body
    assert again.status == 204
    assert [(line["status"], line.get("code")) for line in log.written] == [(500, "INTERNAL_ERROR"), (204, None)]
    assert [(line["method"], line["route"]) for line in log.written] == [("GET", "/"), ("OPTIONS", "*")]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert answer.headers["x-request-id"] in caplog.text


@pytest.mark.parametrize("fault", [ValueError(SECRET), ModelUnavailableError("gone", retry_after_seconds=1)])
async def test_an_error_after_the_answer_began_breaks_it_off(fault: Exception) -> None:
    async def handler(context: Context) -> Response:
        context.begin_stream(b"4\r\nhalf\r\n")
        raise fault

    async with serving(handler) as (origin, log, _), connect(origin) as client:
        await client.send(request("GET", "/"))
        said = await client.closed()

    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.endswith(b"\r\n\r\n4\r\nhalf\r\n"), "neither a last chunk nor a second head"
    assert log.written[0]["code"] in ("INTERNAL_ERROR", "MODEL_UNAVAILABLE")


RETRIES = [
    # (seconds, Retry-After, retry-after-ms, whether to retry): at least a second for clients that read whole seconds; SDKs obey at
    # most a minute, and sleep for a second of their own where it is more
    (0.25, "1", "250", None),
    (1.0, "1", "1000", None),
    (2.5, "3", "2500", None),
    (60.0, "60", "60000", None),
    (60.5, "61", "60500", "false"),
    (3600.0, "3600", "3600000", "false"),
    (1e9, "86400", "86400000", "false"),
    (0.0, "1", "1", None),
]


@pytest.mark.parametrize(("seconds", "whole", "milliseconds", "should_retry"), RETRIES)
async def test_a_limit_tells_when_to_come_back(seconds: float, whole: str, milliseconds: str, should_retry: str | None) -> None:
    async def handler(_: Context) -> Response:
        raise RateLimitedError("slowly", retry_after_seconds=seconds)

    async with serving(handler) as (origin, _, _), connect(origin) as client:
        answer = await client.ask(request("GET", "/", ("Origin", "https://app.example")))

    assert (answer.status, answer.error["code"], answer.error["type"]) == (429, "RATE_LIMITED", "rate_limit_error")
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == (whole, milliseconds)
    assert answer.headers.get("x-should-retry") == should_retry
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_client_that_left_is_one_line_with_499(caplog: pytest.LogCaptureFixture) -> None:
    watching = Watching()

    async def handler(context: Context) -> Response:
        context.connection.watcher = watching
        watching.inside.set()
        await watching.left.wait()
        raise ConnectionResetError(SECRET)

    async with serving(handler) as (origin, log, listener):
        async with connect(origin) as client:
            await client.send(request("GET", "/"))
            await watching.inside.wait()
            client.writer.transport.abort()
        await listener.entrance.wait_empty()

    assert [line["status"] for line in log.written] == [499]
    assert caplog.records == []


async def test_closing_the_door_waits_for_nobody_who_is_idle() -> None:
    async def handler(context: Context) -> Response:
        return context.json({})

    async with serving(handler) as (origin, _, listener), connect(origin) as client:
        await client.ask(request("GET", "/"))
        listener.stop_accepting()
        said = await client.closed()
        with pytest.raises(ConnectionRefusedError):
            async with connect(origin):
                pass

    assert said == b""


@pytest.mark.parametrize("closing", [(), (("Connection", "close"),)], ids=["idle", "closed"])
async def test_what_is_left_of_an_answer_does_not_keep_the_connection_of_a_client_that_reads_nothing(
    closing: tuple[tuple[str, str], ...],
) -> None:
    watching, left_over = Watching(), asyncio.Event()

    async def handler(context: Context) -> Response:
        context.connection.watcher = watching
        transport = context.connection.transport
        assert transport is not None
        while not transport.get_write_buffer_size():  # until the sockets are full; the transport is far from full
            transport.write(b"x" * 4096)
        left_over.set()
        return context.json({})

    async with serving(handler, seconds=0.2) as (origin, _, _listener), connect(origin) as client:
        client.pause_reading()
        await client.send(request("GET", "/", *closing))
        await left_over.wait()
        async with asyncio.timeout(5):
            await watching.left.wait()


async def test_a_client_that_reads_slowly_gets_what_is_left_of_its_last_answer() -> None:
    async def handler(context: Context) -> Response:
        return context.answer(b"x" * 8_000_000)

    async with serving(handler, seconds=1) as (origin, _, _listener), connect(origin) as client:
        await client.send(request("GET", "/", ("Connection", "close")))
        read = 0
        while piece := await client.reader.read(200_000):
            read += len(piece)
            await asyncio.sleep(0.05)  # the slowness itself: 2 s in all

    assert read > 8_000_000
