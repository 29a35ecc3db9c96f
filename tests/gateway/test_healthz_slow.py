"""``/healthz?wait=``: a slow answer without a key, for whoever looks at a proxy in front."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from proxy.handlers import ops
from tests.support.gateway import Bench, Reply, bench
from tests.support.raw import connect, request


async def test_it_answers_after_so_many_seconds(gateway: Bench) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    answer = await gateway.ask("/healthz?wait=0.3", key=None)

    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert loop.time() - began > 0.29  # event loops round timers to milliseconds


async def test_as_a_stream_it_begins_at_once_with_the_fields_of_a_chats_stream(gateway: Bench) -> None:
    chat = await gateway.chat(stream=True)

    async with gateway.session.get(gateway.base_url + "/healthz?wait=30&stream=true") as answer:
        first = await answer.content.readany()
    whole = await gateway.ask("/healthz?wait=0.01&stream=true", key=None)

    assert first == b": alive\n\n"
    assert whole.body == b": alive\n\ndata: [DONE]\n\n"
    assert fields_of(whole) == fields_of(chat)


def fields_of(answer: Reply) -> dict[str, str]:
    """Return the fields of an answer that do not change with each request."""
    return {name.lower(): value for name, value in answer.headers.items() if name.lower() not in ("x-request-id", "date")}


async def test_an_old_client_gets_the_stream_without_chunks(gateway: Bench) -> None:
    async with connect(gateway.origin) as client:
        await client.send(request("GET", "/healthz?wait=0.01&stream=true").replace(b"HTTP/1.1", b"HTTP/1.0"))
        said = await client.closed()

    assert said.endswith(b"\r\n\r\n: alive\n\ndata: [DONE]\n\n")


async def test_a_head_request_has_no_body(gateway: Bench) -> None:
    answer = await gateway.ask("/healthz?wait=0.01&stream=true", key=None, method="HEAD")

    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("wait", ["-1", "soon", ""])
async def test_what_is_no_number_is_refused(gateway: Bench, wait: str) -> None:
    answer = await gateway.ask(f"/healthz?wait={wait}", key=None)

    assert (answer.status, answer.error["param"]) == (400, "wait")


async def test_only_so_many_are_slow_at_a_time_and_the_next_is_answered_at_once(gateway: Bench) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as strangers:
        url = gateway.base_url + "/healthz?wait=100&stream=true"
        slow = [await strangers.get(url) for _ in range(ops.SLOW_MAX)]

        one_more = await gateway.ask("/healthz?wait=100", key=None)

        assert one_more.json == {"status": "ok"}
        for answer in slow:
            answer.close()
    await gateway.log.until("/healthz", ops.SLOW_MAX + 1)  # those that left have given their places back
    async with gateway.session.get(url) as again:
        assert await again.content.readany() == b": alive\n\n"


async def test_a_stop_waits_for_none_of_them(tmp_path: Path) -> None:
    async with AsyncExitStack() as strangers:
        async with bench(tmp_path, drain_seconds=60) as gateway:
            stream, waiting = [await strangers.enter_async_context(connect(gateway.origin)) for _ in range(2)]
            for client in (stream, waiting):
                assert (await client.ask(request("GET", "/healthz"))).status == 200  # the gateway has accepted the connection
            await stream.send(request("GET", "/healthz?wait=100&stream=true"))
            await waiting.send(request("GET", "/healthz?wait=100"))
            assert (await gateway.ask("/healthz", key=None)).status == 200  # sent after them, so they are under way
        answers = [await client.answer() for client in (stream, waiting)]

    assert answers[0].body.endswith(b"data: [DONE]\n\n")
    assert answers[1].json == {"status": "ok"}
