"""SIGTERM and similar signals to a real process with open streams: it accepts no new calls, lets streams end, settles all, exits 0."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.core.money import parse_yuan
from proxy.core.settlement import Outcome, Settlement, UsageSource
from proxy.demo.ark import LAST_CHUNK, Hang, Send, StandIn, Wait, answer_sse, chunk
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL
from tests.support.process import START_SECONDS, GatewayProcess, gateway_process
from tests.support.promises import STOPPED
from tests.support.raw_chat import RawChat, raw_chat
from tests.support.terminal import terminal

EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
USAGE = b'data: {"choices":[],"id":"0217","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32}}\n\n'
DONE = b"data: [DONE]\n\n"
BALANCE = parse_yuan("100")


@asynccontextmanager
async def streaming(
    directory: Path, ark: StandIn, count: int, *then: Any, before_exec: Callable[[], None] | None = None, **options: Any
) -> AsyncIterator[tuple[GatewayProcess, list[RawChat]]]:
    """Start a gateway and `count` streams. Each has received one event and continues with ``then``."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_process(directory, ark.base_url, balance=BALANCE, **options))
        await gateway.start(before_exec)
        ark.enqueue([*answer_sse(EVENT, end=False), *then], times=count)
        clients = [await stack.enter_async_context(raw_chat(gateway.origin, gateway.key, stream=True)) for _ in range(count)]
        for client in clients:
            assert (await client.head())[0] == 200
            await client.first_bytes(len(EVENT))
        yield gateway, clients


async def settlements(gateway: GatewayProcess) -> list[Settlement]:
    """Return the settlements of all requests, after checking that none is open and the books balance."""
    log = [orjson.loads(line) for line in gateway.log.read_bytes().splitlines()]
    ids = [line["request_id"] for line in log if line.get("route") == "/chat/completions" and "outcome" in line]
    async with gateway.looked_into() as store:
        assert await store.open_requests() == []
        await assert_books_balance(store)
        found = await asyncio.gather(*map(store.receipt, ids))
    return [receipt[0].settlement for receipt in found if receipt is not None and receipt[0].settlement is not None]


def entries(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def refused(origin: str) -> None:
    """Wait until connections are refused."""
    host, _, port = origin.removeprefix("http://").partition(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return
            writer.close()


@pytest.mark.promise(STOPPED)
async def test_streams_finish_before_the_process_ends_and_nobody_new_is_let_in(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with StandIn() as ark, aiohttp.ClientSession() as session:
        then = (Wait(finish), Send(chunk(EVENT + USAGE + DONE) + LAST_CHUNK))
        async with streaming(tmp_path, ark, 5, *then, drain_seconds=30) as (gateway, clients):
            async with session.get(f"{gateway.origin}/healthz") as kept:  # a keep-alive connection, idle from here on
                assert kept.headers.get("Connection") != "close"
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            await refused(gateway.origin)
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(f"{gateway.origin}/healthz")
            finish.set()
            bodies = [await client.chunks() for client in clients]
            code = await gateway.exit_code()

            assert bodies == [([EVENT, EVENT + DONE], True)] * 5
            assert code == 0
            assert [await client.rest() for client in clients] == [b""] * 5  # closed, not kept
            assert {(one.outcome, one.usage_source, one.charge_nanos) for one in await settlements(gateway)} == {
                (Outcome.COMPLETE, UsageSource.REPORTED, 40_000)
            }


@pytest.mark.promise(STOPPED)
@pytest.mark.parametrize("impatient", [False, True], ids=["drain_seconds are over", "a second SIGTERM"])
async def test_streams_that_do_not_finish_are_cut_and_told_so(tmp_path: Path, impatient: bool) -> None:
    async with StandIn() as ark, streaming(tmp_path, ark, 3, Hang(), drain_seconds=60 if impatient else 0.2) as (gateway, clients):
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        if impatient:
            await refused(gateway.origin)
            gateway.process.send_signal(signal.SIGTERM)
        bodies = [await client.chunks() for client in clients]
        code = await gateway.exit_code()

        for chunks, ended in bodies:
            assert chunks[0] == EVENT
            assert orjson.loads(chunks[1].removeprefix(b"data: "))["error"]["code"] == "MODEL_UNAVAILABLE"
            assert (len(chunks), ended) == (2, True)
        assert code == 0
        # one content event at ¥2/M; 5 bytes of prompt are 0 tokens at least
        assert [(one.outcome, one.usage_source, one.charge_nanos) for one in await settlements(gateway)] == [
            (Outcome.INTERRUPTED, UsageSource.ESTIMATED, 2_000)
        ] * 3
        assert {call.state for call in ark.calls} == {"closed_by_peer"}


@pytest.mark.promise(STOPPED)
async def test_a_json_call_that_is_cut_is_a_503_and_costs_nothing(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE, drain_seconds=0.2) as gateway:
        await gateway.start()
        ark.enqueue([Hang()])
        async with raw_chat(gateway.origin, gateway.key) as client:
            await ark.wait_until(lambda: len(ark.calls) == 1)
            code = await gateway.end_by(signal.SIGTERM)
            status, headers = await client.head()

        # it was asked, so another try could be charged twice
        assert (status, headers["x-should-retry"], headers["connection"]) == (503, "false", "close")
        assert code == 0
        assert [(one.outcome, one.charge_nanos) for one in await settlements(gateway)] == [(Outcome.INTERRUPTED, 0)]


@pytest.mark.promise(STOPPED)
async def test_a_stream_without_a_client_is_drained_too_before_the_process_ends(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with StandIn() as ark:
        then = (Wait(finish), Send(chunk(USAGE + DONE) + LAST_CHUNK))
        async with streaming(tmp_path, ark, 1, *then, drain_seconds=30) as (gateway, (client,)):
            client.leave()
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            await refused(gateway.origin)
            finish.set()
            code = await gateway.exit_code()

            assert code == 0
            assert [(one.outcome, one.charge_nanos) for one in await settlements(gateway)] == [(Outcome.CLIENT_GONE, 40_000)]


async def test_a_closed_terminal_drains_like_sigterm(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with StandIn() as ark:
        then = (Wait(finish), Send(chunk(EVENT + USAGE + DONE) + LAST_CHUNK))
        with terminal() as opened:
            async with streaming(tmp_path, ark, 1, *then, drain_seconds=30, before_exec=opened.take) as (gateway, (client,)):
                opened.close()
                await refused(gateway.origin)
                finish.set()
                body = await client.chunks()
                code = await gateway.exit_code()

                assert body == ([EVENT, EVENT + DONE], True)
                assert code == 0
                assert [(one.outcome, one.charge_nanos) for one in await settlements(gateway)] == [(Outcome.COMPLETE, 40_000)]


async def test_a_gateway_started_with_nohup_outlives_its_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE) as gateway:
        serve = gateway.command("serve")
        monkeypatch.setattr(gateway, "command", lambda *_: ["nohup", *serve])
        with terminal() as opened:
            await gateway.start(opened.take)
            opened.close()
        async with raw_chat(gateway.origin, gateway.key) as client:
            status, _ = await client.head()

        assert status == 200
        assert await gateway.end_by(signal.SIGTERM) == 0
        assert [(one.outcome, one.charge_nanos) for one in await settlements(gateway)] == [(Outcome.COMPLETE, 40_000)]


async def test_a_demo_whose_terminal_is_closed_cleans_up_after_itself(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "proxy", "demo")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    demo = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert demo.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        await demo.stdout.readuntil(b"http://")
    assert entries(tmp_path)

    demo.send_signal(signal.SIGHUP)
    await demo.communicate()

    assert demo.returncode == 0
    assert not entries(tmp_path)


async def test_an_idle_gateway_ends_at_once(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, "http://127.0.0.1:9/api/v3", balance=BALANCE, drain_seconds=3600) as gateway:
        await gateway.start()

        assert await gateway.end_by(signal.SIGINT) == 0


@pytest.mark.promise(STOPPED)
async def test_whoever_was_let_in_just_before_the_doors_closed_is_served(tmp_path: Path) -> None:
    async with (
        StandIn() as ark,
        gateway_process(tmp_path, ark.base_url, balance=BALANCE, drain_seconds=30) as gateway,
        AsyncExitStack() as stack,
    ):
        await gateway.start()
        newcomers = [await connected(gateway.origin, stack) for _ in range(20)]
        _, silent = newcomers.pop()
        async with aiohttp.ClientSession() as session, session.get(f"{gateway.origin}/healthz"):
            pass  # connections are accepted in order, so those before it were accepted too

        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        for _, writer in newcomers:
            writer.write(chat_request(gateway.key))
        answers = await asyncio.gather(*(reader.read() for reader, _ in newcomers))

        assert await gateway.exit_code() == 0
        assert {answer.split(b"\r\n", 1)[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
        assert len(await settlements(gateway)) == len(newcomers)
        silent.close()


async def connected(origin: str, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = origin.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    stack.callback(writer.close)
    return reader, writer


def chat_request(key: str) -> bytes:
    body = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
