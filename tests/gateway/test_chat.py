"""A chat call through the whole gateway, over real sockets."""

import json

import pytest

from tests.support.gateway import MODEL, Bench


async def test_a_json_answer_is_the_upstreams_bytes_and_costs_its_usage(gateway: Bench) -> None:
    answer = await gateway.chat()

    # 20 prompt tokens at ¥0.8/M and 12 completion tokens at ¥2/M: 16,000 + 24,000 nano-yuan = ¥0.00004
    assert answer.status == 200
    assert answer.json["usage"]["total_tokens"] == 32
    await gateway.assert_charged(40_000)


async def test_a_stream_ends_with_done_and_costs_its_usage(gateway: Bench) -> None:
    answer = await gateway.chat(stream=True)

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert b'"choices":[]' not in answer.body
    await gateway.assert_charged(40_000)


@pytest.mark.parametrize(("sent", "up"), [("a\ud83d", "a�"), ("\ude00\ud83d b", "�� b"), ("\ud83d\ude00", "😀")])
async def test_text_that_an_sdk_cut_within_an_emoji_is_repaired_and_goes_up(gateway: Bench, sent: str, up: str) -> None:
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": sent}]})

    answer = await gateway.ask("/chat/completions", b"\xef\xbb\xbf" + body.encode())

    assert answer.status == 200
    assert json.loads(gateway.ark.calls[0].body)["messages"][0]["content"] == up
    await gateway.assert_charged(40_000)
