"""What a client sees of a stream while its upstream is silent: before the first event, between two, and instead of an answer."""

import asyncio
from pathlib import Path

import orjson
import pytest

from proxy.demo.ark import LAST_CHUNK, Close, Send, Step, Wait, answer_json, answer_sse, chunk, error
from tests.support.gateway import bench
from tests.support.raw_chat import raw_chat

EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
USAGE = b'data: {"choices":[],"id":"0217","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32}}\n\n'
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
REPORTED = 40_000


async def test_a_silent_stream_gets_comments_and_is_otherwise_the_upstreams_bytes(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with bench(tmp_path, server="heartbeat_seconds = 0.2") as gateway:
        gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(go), Send(chunk(EVENT + USAGE + DONE) + LAST_CHUNK)])
        async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
            await client.head()
            while (await client.first_bytes()).count(KEEP_ALIVE) < 2:
                await client.first_bytes(len(await client.first_bytes()) + 1)
            go.set()
            pieces, is_whole = await client.chunks()

        assert is_whole
        assert pieces.count(KEEP_ALIVE) >= 2
        assert b"".join(piece for piece in pieces if piece != KEEP_ALIVE) == EVENT + EVENT + DONE
        await gateway.log.until_chats()
        await gateway.assert_charged(REPORTED)


async def test_without_heartbeats_nothing_is_added_until_a_reload_turns_them_on(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with bench(tmp_path, server="heartbeat_seconds = 0") as gateway:
        gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(go), Send(chunk(USAGE + DONE) + LAST_CHUNK)])
        async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
            await client.head()
            await client.first_bytes(len(EVENT))
            go.set()
            pieces, is_whole = await client.chunks()

        assert (b"".join(pieces), is_whole) == (EVENT + DONE, True)
        await gateway.assert_charged(REPORTED)


@pytest.mark.parametrize("before", [b"", b": queued\n\n"])
async def test_an_error_as_the_first_event_has_its_own_status(tmp_path: Path, before: bytes) -> None:
    said = b'data: {"error":{"code":"InputTextSensitiveContentDetected","message":"no"}}\n\n'
    async with bench(tmp_path) as gateway:
        gateway.ark.enqueue(answer_sse(before + said))

        answer = await gateway.chat(stream=True)

        assert (answer.status, answer.error["code"]) == (400, "CONTENT_REJECTED")
        await gateway.assert_charged(0)


EARLY = "early_head_seconds = 0.1"


async def head_of_a_silent_stream(directory: Path, *steps: Step) -> tuple[list[bytes], bool, int]:
    """Return what comes after a head that went out early, whether it ended well, and what was charged."""
    go = asyncio.Event()
    async with bench(directory, server=EARLY) as gateway:
        gateway.ark.enqueue([Wait(go), *steps])
        async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
            status, headers = await client.head()
            assert (status, headers["content-type"]) == (200, "text/event-stream")
            go.set()
            pieces, is_whole = await client.chunks()
        await gateway.log.until_chats()
        account = await gateway.store.account("acme")
        await gateway.assert_charged(charged := 100 * 10**9 - account.balance_nanos)
        return pieces, is_whole, charged


async def test_the_head_goes_out_early_where_the_operator_says_so(tmp_path: Path) -> None:
    pieces, is_whole, charged = await head_of_a_silent_stream(tmp_path, *answer_sse(EVENT + USAGE + DONE))

    assert (pieces[0], b"".join(pieces[1:]), is_whole, charged) == (KEEP_ALIVE, EVENT + DONE, True, REPORTED)


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        (error(429, "RateLimitExceeded", "slow down"), "MODEL_UNAVAILABLE"),
        (error(400, "InvalidParameter", "The parameter `top_p` is not valid."), "INVALID_PARAMETER"),
        (answer_sse(b'data: {"error":{"code":"ServerOverloaded"}}\n\n'), "MODEL_UNAVAILABLE"),
        (answer_sse(DONE), "INTERNAL_ERROR"),
        (answer_json(200, {"choices": [{"message": {"content": "Hi"}}]}), "INTERNAL_ERROR"),
        ([Close()], "MODEL_UNAVAILABLE"),
    ],
    ids=["a limit", "a fault", "an error in the stream", "nothing", "no stream", "a cut"],
)
async def test_after_an_early_head_an_error_is_an_event_and_costs_nothing(tmp_path: Path, steps: list[Step], code: str) -> None:
    pieces, _, charged = await head_of_a_silent_stream(tmp_path, *steps)

    assert (pieces[0], len(pieces), charged) == (KEEP_ALIVE, 2, 0)
    assert orjson.loads(pieces[1].removeprefix(b"data: "))["error"]["code"] in (code, "INVALID_MESSAGES")
