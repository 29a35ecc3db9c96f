"""Requests that wait: they end with their clients, and take little memory meanwhile, whoever sends how many of them."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from proxy.core.money import Nanos
from proxy.demo.ark import Hang, StandIn, answer_json
from proxy.edge import unread
from tests.support.gateway import MODEL, Bench
from tests.support.process import GatewayProcess, gateway_process, resident_bytes
from tests.support.raw import Raw, connect, request
from tests.support.videos import submitted

CHAT = "/chat/completions"
IMAGES = "/images/generations"
ROWS: list[object] = [[]] * 15_000
"""45 kB of a body, which are a megabyte when parsed."""
CONNECTIONS = 30


def chat(gateway: Bench | GatewayProcess, *headers: tuple[str, str], **fields: object) -> bytes:
    body = orjson.dumps({"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}], **fields})
    return request("POST", f"/v1{CHAT}", ("x-api-key", gateway.key), *headers, body=body)


async def end_of_one_that_leaves(gateway: Bench, sent: bytes, route: str) -> object:
    """Send a request that has to wait, leave, and return the status of its log line, which is written when it ends."""
    async with connect(gateway.origin) as client:
        await client.send(sent)
        await gateway.ask("/models")  # by now it waits
    (line,) = await gateway.log.until(route)
    return line["status"]


async def test_who_waits_for_a_key_ends_with_its_client(gateway: Bench) -> None:
    gateway.ark.enqueue([Hang()])
    sent = chat(gateway, ("Idempotency-Key", "order-1"))
    async with connect(gateway.origin) as first:
        await first.send(sent)
        await gateway.ark.wait_for_calls(1)

        assert await end_of_one_that_leaves(gateway, sent, CHAT) == 499


async def test_a_retry_that_waits_for_the_call_it_repeats_ends_with_its_client(gateway: Bench) -> None:
    gateway.ark.enqueue([Hang()], IMAGES)
    retry = ("x-stainless-retry-count", "1")
    sent = request("POST", f"/v1{IMAGES}", ("x-api-key", gateway.key), retry, body=b'{"prompt":"a lighthouse"}')
    async with connect(gateway.origin) as first:
        await first.send(sent)
        await gateway.ark.wait_for_calls(1, IMAGES)

    assert await end_of_one_that_leaves(gateway, sent, IMAGES) == 499


async def test_a_long_poll_ends_with_its_client(gateway: Bench) -> None:
    task_id = await submitted(gateway)
    sent = request("GET", f"/v1/videos/tasks/{task_id}?wait=50", ("x-api-key", gateway.key))

    assert await end_of_one_that_leaves(gateway, sent, "/videos/tasks/{id}") == 499


async def grown_by(gateway: GatewayProcess, sent: bytes, stack: AsyncExitStack) -> int:
    """Send the bytes over many connections, and return by how much memory grew for each."""
    clients: list[Raw] = [await stack.enter_async_context(connect(gateway.origin)) for _ in range(CONNECTIONS + 1)]
    async with asyncio.timeout(30):
        await clients[0].send(sent)
        before = await resident_bytes(gateway)
        for client in clients[1:]:
            await client.send(sent)
            await resident_bytes(gateway)  # one after the other
        return (await resident_bytes(gateway) - before) // CONNECTIONS


async def test_who_waits_for_a_key_takes_no_more_than_its_body(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=Nanos(10**12)) as gateway, AsyncExitStack() as stack:
        await gateway.start()
        ark.enqueue([Hang()])
        sent = chat(gateway, ("Idempotency-Key", "order-1"), ignored=ROWS)
        grown = await grown_by(gateway, sent, stack)

        assert len(ark.calls) == 1
    assert grown < 512 * 1024, f"each takes {grown} bytes"


async def test_requests_that_are_sent_ahead_are_not_read_without_end(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=Nanos(10**12)) as gateway, AsyncExitStack() as stack:
        await gateway.start()
        ark.enqueue([Hang()], times=CONNECTIONS + 1)
        one = chat(gateway, *((f"x-{number}", "y" * 15_000) for number in range(4)))
        grown = await grown_by(gateway, one * 30, stack)

    assert grown < 1024 * 1024, f"each takes {grown} bytes"


async def test_answers_that_nobody_reads_are_limited_by_key(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "ALL_BYTES_MAX", 60_000_000)
    said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "h" * 7_900_000}, "finish_reason": "stop"}]}
    gateway.ark.enqueue(answer_json(200, said | {"usage": {"prompt_tokens": 20, "completion_tokens": 12}}))
    sent = chat(gateway, ("Idempotency-Key", "order-1"))
    async with connect(gateway.origin) as first:
        assert (await first.ask(sent)).status == 200

        async with AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(connect(gateway.origin)) for _ in range(6)]
            for number, client in enumerate(silent, 2):
                await client.send(sent)  # and read nothing
                await gateway.log.until(CHAT, number)
            await gateway.ask("/models")  # by now the gateway knows that nobody reads
            whole = [await is_whole(client) for client in silent]
        again = await first.ask(sent)

    assert whole == [True, True, True, False, False, False]
    assert again.status == 200
    assert len(gateway.ark.calls) == 1
    await gateway.assert_charged(40_000)


async def is_whole(client: Raw) -> bool:
    try:
        return (await client.answer()).status == 200
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
