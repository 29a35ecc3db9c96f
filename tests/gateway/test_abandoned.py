"""Work that a client makes the upstream do and leaves before it is told what it cost: limited by account."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import orjson

from proxy.demo.ark import Hang, Wait, answer_sse
from tests.support.gateway import Bench, bench
from tests.support.images import PROMPT, ROUTE
from tests.support.raw import connect, request
from tests.support.raw_chat import raw_chat

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


async def give_up_pictures(gateway: Bench, n: int) -> None:
    """Ask for pictures that never come, leave, and wait until the call has been given up."""
    lines, calls = len(gateway.log.of(ROUTE)), len(gateway.ark.calls_to(ROUTE))
    gateway.ark.enqueue([Hang()], ROUTE, times=n)
    body = orjson.dumps({"prompt": PROMPT, "n": n})
    async with connect(gateway.origin) as client:
        await client.send(request("POST", f"/v1{ROUTE}", ("x-api-key", gateway.key), body=body))
        await gateway.ark.wait_for_calls(calls + n, ROUTE)
    await gateway.log.until(ROUTE, lines + 1)


async def test_pictures_that_nobody_waited_for_are_limited_one_by_one(tmp_path: Path) -> None:
    async with bench(tmp_path, drain_after_seconds=0, billing="abandoned_per_minute = 4") as gateway:
        await give_up_pictures(gateway, 3)
        await give_up_pictures(gateway, 1)

        refused = [await gateway.ask(ROUTE, {"prompt": PROMPT}), await gateway.chat()]

        assert [(answer.status, answer.error["code"]) for answer in refused] == [(429, "RATE_LIMITED")] * 2
        assert 0 < int(refused[0].headers["retry-after"]) <= 16
        assert len(gateway.ark.calls) == 4
        await gateway.assert_charged(0)


async def test_streams_that_there_is_no_room_to_drain_are_limited(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    async with bench(tmp_path, billing="drains_max = 1\nabandoned_per_minute = 1") as gateway, AsyncExitStack() as stack:
        for calls in (1, 2):  # the first is drained, and takes all the room
            gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(go_on)])
            client = await stack.enter_async_context(raw_chat(gateway.origin, gateway.key, stream=True, max_tokens=100))
            await client.head()
            await client.first_bytes(len(EVENT))
            assert (await gateway.ask("/models")).status == 200
            client.leave()
            if calls == 1:
                await gateway.ask("/healthz")  # the gateway has seen it leave
        await gateway.log.until_chats(1)

        refused = await gateway.chat()

        assert (refused.status, refused.error["code"]) == (429, "RATE_LIMITED")
        assert len(gateway.ark.calls) == 2
        go_on.set()
        await gateway.log.until_chats(3)
        await gateway.assert_charged(4_000)
