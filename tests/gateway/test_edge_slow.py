"""Slow clients: heads and bodies that drip, silent connections, answers that nobody reads."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.demo.ark import ChatReply, answer_sse
from tests.support.gateway import Bench, bench
from tests.support.promises import CLIENT_AWAY, STOPPED
from tests.support.raw import Raw, connect, request

CHAT = "/api/v1/chat/completions"
HELLO = b'{"model":"doubao-pro-32k","messages":[{"role":"user","content":"Hello"}]}'
STREAM = HELLO[:-1] + b',"stream":true}'
CHARGE = 40_000
"""20 prompt tokens at ¥0.8/M and 12 completion tokens at ¥2/M."""
BODY_SECONDS, KEEPALIVE_SECONDS, STALL_SECONDS = 0.3, 0.5, 0.3
BODY_BYTES_MAX = 2048


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Bench]:
    """Yield a gateway with short deadlines and a small limit for bodies."""
    server = f"keepalive_seconds = {KEEPALIVE_SECONDS}\nstall_seconds = {STALL_SECONDS}\nbody_bytes_max = {BODY_BYTES_MAX}"
    async with bench(tmp_path, body_seconds=BODY_SECONDS, server=server) as running:
        yield running


def chat(gateway: Bench, body: bytes = HELLO) -> bytes:
    return request("POST", CHAT, ("Authorization", f"Bearer {gateway.key}"), body=body)


@pytest.mark.promise(CLIENT_AWAY)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_drips_is_given_up(hasty: Bench, chunked: bool) -> None:
    length = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000")

    async with connect(hasty.origin) as client:
        await client.send(request("POST", CHAT, ("Authorization", f"Bearer {hasty.key}"), length))
        waiting = asyncio.ensure_future(client.answer())  # noqa: TID251 - the drip must go on until the answer is there
        while not waiting.done():
            await client.send(b"1\r\n \r\n" if chunked else b" ")
            await asyncio.wait([waiting], timeout=BODY_SECONDS / 10)
        answer = await waiting

    assert (answer.status, answer.error["code"], answer.headers["connection"]) == (408, "REQUEST_TIMEOUT", "close")
    await hasty.assert_charged(0)


@pytest.mark.promise(STOPPED)
@pytest.mark.parametrize("ending", ["the limit is reached", "a second SIGTERM"])
async def test_a_body_that_has_not_come_whole_does_not_delay_the_end(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        async with bench(tmp_path, body_seconds=60, drain_seconds=60 if ending == "a second SIGTERM" else 0.1) as gateway:
            client = await stack.enter_async_context(connect(gateway.origin))
            head = request(
                "POST", CHAT, ("Authorization", f"Bearer {gateway.key}"), ("Expect", "100-continue"), ("Content-Length", "99")
            )
            await client.send(head + HELLO)
            assert (await client.answer()).status == 100  # its handler waits for the rest
            gateway.stop.request()
            if ending == "a second SIGTERM":
                gateway.stop.request()

        answer = await client.answer()

    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "MODEL_UNAVAILABLE", "1")
    assert "did not end when they were cut" not in caplog.text


@pytest.mark.promise(CLIENT_AWAY)
async def test_a_head_that_drips_is_cut_off_while_others_are_served(hasty: Bench) -> None:
    async with connect(hasty.origin) as dripping, connect(hasty.origin) as other:
        closing = asyncio.ensure_future(dripping.closed())  # noqa: TID251 - as above
        for byte in request("GET", "/healthz", ("x-slow", "x" * 1_000)):
            await dripping.send(bytes([byte]))
            if (await asyncio.wait([closing], timeout=KEEPALIVE_SECONDS / 20))[0]:
                break
            assert (await other.ask(request("GET", "/healthz"))).status == 200
        said = await closing

    assert said == b"", "a head that never came whole was answered"


@pytest.mark.promise(CLIENT_AWAY)
async def test_connections_that_say_nothing_are_closed_and_stop_nobody(hasty: Bench) -> None:
    async with AsyncExitStack() as stack:
        silent: list[Raw] = [await stack.enter_async_context(connect(hasty.origin)) for _ in range(200)]

        answer = await hasty.chat()
        said = await asyncio.gather(*(client.closed() for client in silent))

    assert answer.status == 200
    assert set(said) == {b""}
    await hasty.assert_charged(CHARGE)


async def test_an_idle_connection_is_closed_after_its_answer(hasty: Bench) -> None:
    async with connect(hasty.origin) as client:
        answers = [await client.ask(chat(hasty)) for _ in range(2)]
        rest = await client.closed()

    assert [answer.status for answer in answers] == [200, 200]
    assert rest == b""
    await hasty.assert_charged(2 * CHARGE)


@pytest.mark.promise(CLIENT_AWAY)
async def test_a_client_that_reads_nothing_is_dropped_and_its_usage_is_still_learnt(hasty: Bench) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 32_768)
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":12,"total_tokens":32}}\n\n'
    hasty.ark.enqueue(answer_sse(event * 500 + usage + b"data: [DONE]\n\n", cut=65_536))  # 16 MiB: more than all buffers hold

    async with connect(hasty.origin) as client:
        client.pause_reading()
        await client.send(chat(hasty, STREAM))
        lines = await hasty.log.until_chats()

    assert (lines[0]["outcome"], lines[0]["usage"]) == ("client_gone", "reported")
    await hasty.assert_charged(CHARGE)


@pytest.mark.promise(CLIENT_AWAY)
async def test_a_client_that_reads_slowly_gets_all_of_its_answer(hasty: Bench) -> None:
    hasty.ark.chat.reply = ChatReply(content="x" * 12_000_000, cuts=False)

    async with connect(hasty.origin) as client:
        await client.send(chat(hasty))
        head = await client.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = b""
        while len(body) < length:
            body += await client.reader.readexactly(min(1_000_000, length - len(body)))
            await asyncio.sleep(STALL_SECONDS / 4)  # the slowness itself

    assert length > 12_000_000
    assert body.endswith(b"}")
    await hasty.assert_charged(CHARGE)


@pytest.mark.parametrize("extra", [0, 1])
async def test_the_limit_of_a_body_is_to_the_byte(hasty: Bench, extra: int) -> None:
    body = HELLO.ljust(BODY_BYTES_MAX + extra)
    key = ("Authorization", f"Bearer {hasty.key}")

    async with connect(hasty.origin) as client:
        whole = await client.ask(chat(hasty, body))
    async with connect(hasty.origin) as client:
        head = request("POST", CHAT, key, ("Transfer-Encoding", "chunked"))
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:1000], body[1000:])]
        chunked = await client.ask(head, *chunks, b"0\r\n\r\n")

    assert [answer.status for answer in (whole, chunked)] == ([413, 413] if extra else [200, 200])
    await hasty.assert_charged(0 if extra else 2 * CHARGE)


async def test_a_gateway_that_stops_refuses_what_costs_and_says_so_to_probes(gateway: Bench) -> None:
    async with connect(gateway.origin) as client, connect(gateway.origin) as prober:
        before = await client.ask(chat(gateway))
        gateway.stop.request()
        gateway.stop.refusing.set()  # as a drain does, once it has heard waiting connections
        refused = await client.ask(chat(gateway))
        await client.closed()
        alive = await prober.ask(request("GET", "/healthz"))
    async with connect(gateway.origin) as prober:
        ready = await prober.ask(request("GET", "/readyz"))

    assert before.status == 200
    assert (refused.status, refused.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"], refused.headers["connection"]) == ("1", "1000", "close")
    assert (alive.status, alive.headers["connection"], ready.status) == (200, "close", 503)
    await gateway.assert_charged(CHARGE)


@pytest.mark.promise(CLIENT_AWAY)
async def test_a_storm_of_aborted_connections_leaves_no_trace(gateway: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for cut in range(0, 200, 10):
        async with connect(gateway.origin) as client:
            await client.send(chat(gateway)[:cut])
            client.writer.transport.abort()

    answer = await gateway.chat()

    assert answer.status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert gateway.key not in caplog.text
    await gateway.assert_charged(CHARGE)


async def test_a_client_that_left_is_not_waited_for(hasty: Bench) -> None:
    async with connect(hasty.origin) as client:
        answer = await client.ask(request("POST", "/nowhere", ("Content-Length", "1000")))
        (answering,) = [task for task in asyncio.all_tasks() if "Connection.start" in repr(task)]

    async with asyncio.timeout(2):  # the rest of a refused body is awaited for five seconds
        await answering
    assert answer.status == 404
