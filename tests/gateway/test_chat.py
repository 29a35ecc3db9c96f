"""A chat call through the whole gateway, over real sockets."""

from tests.support.gateway import Bench


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
