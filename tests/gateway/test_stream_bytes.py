"""The client receives exactly the upstream's bytes through the whole gateway, however they are cut and framed."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.demo.ark import LAST_CHUNK, REQUEST_ID, Send, Wait, answer_json, answer_sse, chunk
from proxy.demo.ark.script import Framing
from tests.support.gateway import Bench, bench
from tests.support.raw_chat import raw_chat

CHARGE = 40_000
"""20 prompt tokens at ¥0.8/M and 12 completion tokens at ¥2/M: 20 × 800 + 12 × 2,000 nano-yuan."""

SIZES = [1, 7, 64, 4096, None]
REST = (
    f'"created":1742632436,"id":"{REQUEST_ID}","model":"doubao-seed","service_tier":"default","object":"chat.completion.chunk"'.encode()
)


def event(text: str, usage: bytes = b"null") -> bytes:
    delta = orjson.dumps({"content": text, "role": "assistant"})
    return b'data: {"choices":[{"delta":' + delta + b',"index":0}],' + REST + b',"usage":' + usage + b"}\n\n"


USAGE = (
    b'{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32,"prompt_tokens_details":{"cached_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0}}'
)
USAGE_EVENT = b'data: {"choices":[],' + REST + b',"usage":' + USAGE + b"}\n\n"
DONE = b"data: [DONE]\n\n"
CONTENT = (
    event("Hel")
    + event("lo, 世界 🎉")
    + event('the "usage":{"prompt_tokens":9} of "error" and "choices":[]')
    + event("data: [DONE]\n\n")
    + b": a comment, as some gateways send to keep alive\n\n"
    + event("x" * 9000)
    + event("")
)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("size", SIZES)
async def test_who_asked_for_usage_gets_every_byte_of_the_upstreams(gateway: Bench, size: int | None, line_end: bytes) -> None:
    sent = (CONTENT + USAGE_EVENT + DONE).replace(b"\n", line_end)
    gateway.ark.enqueue(answer_sse(sent, cut=size))

    answer = await gateway.chat(stream=True, stream_options={"include_usage": True})

    assert answer.body == sent
    assert answer.body.count(b'"choices":[],') == 1
    await gateway.assert_charged(CHARGE)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("size", SIZES)
async def test_who_did_not_ask_for_usage_gets_all_but_the_usage_event(gateway: Bench, size: int | None, line_end: bytes) -> None:
    gateway.ark.enqueue(answer_sse((CONTENT + USAGE_EVENT + DONE).replace(b"\n", line_end), cut=size))

    answer = await gateway.chat(stream=True)

    assert answer.body == (CONTENT + DONE).replace(b"\n", line_end)
    await gateway.assert_charged(CHARGE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}], ids=["not asked", "asked"])
async def test_usage_on_the_last_content_chunk_is_charged_and_passed_on(
    gateway: Bench, size: int | None, options: dict[str, Any]
) -> None:
    sent = event("Hello") + event("!", USAGE) + DONE
    gateway.ark.enqueue(answer_sse(sent, cut=size))

    answer = await gateway.chat(stream=True, **options)

    assert answer.body == sent
    await gateway.assert_charged(CHARGE)


@pytest.mark.parametrize("framing", ["content-length", "until-close"])
@pytest.mark.parametrize("size", [7, None])
async def test_an_upstreams_other_framings_are_relayed_too(gateway: Bench, framing: Framing, size: int | None) -> None:
    gateway.ark.enqueue(answer_sse(CONTENT + USAGE_EVENT + DONE, cut=size, framing=framing))

    answer = await gateway.chat(stream=True)

    assert answer.body == CONTENT + DONE
    await gateway.assert_charged(CHARGE)


async def test_an_event_leaves_as_it_comes_in_the_upstreams_own_chunk(gateway: Bench) -> None:
    go_on = asyncio.Event()
    more = [Send(chunk(event("lo"))), Send(chunk(USAGE_EVENT + DONE) + LAST_CHUNK)]
    gateway.ark.enqueue([*answer_sse(event("Hel"), end=False), Wait(go_on), *more])

    async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
        status, headers = await client.head()
        first = await client.first_bytes(len(event("Hel")))
        go_on.set()
        chunks, ended = await client.chunks()

    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    assert first == chunk(event("Hel"))
    assert (chunks, ended) == ([event("Hel"), event("lo"), DONE], True)
    await gateway.assert_charged(CHARGE)


@pytest.mark.parametrize("framing", ["chunked", "content-length", "until-close"])
async def test_a_client_of_http_1_0_gets_plain_bytes_until_the_connection_closes(gateway: Bench, framing: Framing) -> None:
    gateway.ark.enqueue(answer_sse(CONTENT + USAGE_EVENT + DONE, cut=64, framing=framing))

    async with raw_chat(gateway.origin, gateway.key, version="1.0", stream=True) as client:
        status, headers = await client.head()
        body = await client.rest()

    assert (status, headers.get("transfer-encoding")) == (200, None)
    assert body == CONTENT + DONE
    await gateway.assert_charged(CHARGE)


async def test_a_json_answer_is_relayed_as_it_stands(gateway: Bench) -> None:
    sent = b'{ "usage" : {"prompt_tokens":20 ,"completion_tokens":12}, "id":"0217", "choices":[{"message":{"content":"\\u4f60"}}]}\n'
    gateway.ark.enqueue(answer_json(200, sent))

    answer = await gateway.chat()

    assert answer.body == sent
    await gateway.assert_charged(CHARGE)


async def test_hundreds_of_streams_at_once_do_not_mix(tmp_path: Path) -> None:
    async with bench(tmp_path) as gateway:
        answers = await asyncio.gather(
            *(
                gateway.chat(
                    stream=True, messages=[{"role": "user", "content": f"call {number} " + "words " * (number % 50)}], max_tokens=4000
                )
                for number in range(200)
            )
        )

        assert all(answer.body.endswith(DONE) for answer in answers)
        ids = [{orjson.loads(line[6:])["id"] for line in answer.body.split(b"\n\n")[:-2]} for answer in answers]
        assert all(len(found) == 1 for found in ids)
        assert len(set.union(*ids)) == 200
        await gateway.assert_charged(200 * CHARGE)
