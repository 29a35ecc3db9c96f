"""The framing of a stream for each kind of client, and the next request on the same connection."""

import pytest

from tests.support.gateway import Bench
from tests.support.raw import connect, request

STREAM = b'{"model":"doubao-pro-32k","messages":[{"role":"user","content":"Hello"}],"stream":true}'
CHARGE = 40_000
"""20 prompt tokens at ¥0.8/M and 12 completion tokens at ¥2/M."""


def stream(gateway: Bench, *headers: tuple[str, str], version: str = "HTTP/1.1") -> bytes:
    return request("POST", "/v1/chat/completions", ("Authorization", f"Bearer {gateway.key}"), *headers, body=STREAM, version=version)


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_http_1_0_gets_a_stream_that_ends_with_its_connection(gateway: Bench, connection: str) -> None:
    async with connect(gateway.origin) as client:
        answer = await client.ask(stream(gateway, ("Connection", connection), version="HTTP/1.0"))

    assert "transfer-encoding" not in answer.headers
    assert answer.headers.get("connection") != "keep-alive"
    assert answer.body.startswith(b"data: {")
    assert answer.body.endswith(b"}\n\ndata: [DONE]\n\n")
    await gateway.assert_charged(CHARGE)


async def test_a_client_that_wants_to_close_is_closed_after_the_last_chunk(gateway: Bench) -> None:
    async with connect(gateway.origin) as client:
        answer = await client.ask(stream(gateway, ("Connection", "close")))
        rest = await client.closed()

    assert (answer.headers["transfer-encoding"], answer.headers["connection"], rest) == ("chunked", "close", b"")
    await gateway.assert_charged(CHARGE)


async def test_what_is_pipelined_behind_a_stream_waits_for_its_end(gateway: Bench) -> None:
    async with connect(gateway.origin) as client:
        await client.send(stream(gateway) + request("GET", "/v1/models/public") + stream(gateway))
        answers = [await client.answer() for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert answers[0].body.endswith(b"data: [DONE]\n\n")
    assert answers[1].json["object"] == "list"
    assert answers[2].body.endswith(b"data: [DONE]\n\n")
    await gateway.assert_charged(2 * CHARGE)


async def test_a_page_reads_a_stream_across_origins(gateway: Bench) -> None:
    async with connect(gateway.origin) as client:
        answer = await client.ask(stream(gateway, ("Origin", "https://app.example")))

    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["server"] == "llm-proxy"
    await gateway.assert_charged(CHARGE)
