"""A chat call through the whole gateway, over real sockets."""

import orjson
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


@pytest.mark.parametrize(("sent", "up"), [(rb"a\ud83d", "a�"), (rb"\ude00\ud83d b", "�� b"), (rb"\ud83d\ude00", "😀")])
async def test_text_that_an_sdk_cut_within_an_emoji_is_repaired_and_goes_up(gateway: Bench, sent: bytes, up: str) -> None:
    body = b'{"model":"%b","messages":[{"role":"user","content":"%b"}]}' % (MODEL.encode(), sent)

    answer = await gateway.ask("/chat/completions", b"\xef\xbb\xbf" + body)

    assert answer.status == 200
    assert orjson.loads(gateway.ark.calls[0].body)["messages"][0]["content"] == up
    await gateway.assert_charged(40_000)
