"""Backpressure: a client that stops reading stops its upstream, and memory stays bounded; one that never reads is dropped."""

import asyncio
import gc
from pathlib import Path

import pytest

from proxy.demo.ark import LAST_CHUNK, Call, Send, Stream, answer_head, chunk
from proxy.edge.connection import Connection
from tests.support.gateway import Bench, bench
from tests.support.promises import CLIENT_AWAY
from tests.support.raw_chat import raw_chat

POURED_BYTES = 40_000_000
"""Far more than all buffers on the way can hold."""
USAGE = b'data: {"choices":[],"id":"0217","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32}}\n\n'
DONE = b"data: [DONE]\n\n"
ON_THE_WAY_MAX = 20_000_000
"""A generous limit of what the four socket buffers of two loopback connections hold."""
CHARGE = 40_000


def pour(gateway: Bench, text_bytes: int = 16_000) -> bytes:
    """Make the upstream send a stream of such events as fast as it is read; return the bytes that the client should receive."""
    event = b'data: {"choices":[{"delta":{"content":"' + b"x" * text_bytes + b'"},"index":0}],"id":"0217","usage":null}\n\n'
    events = POURED_BYTES // text_bytes
    head = answer_head(200, "text/event-stream", chunked=True)
    gateway.ark.enqueue([Send(head), Stream(chunk(event) for _ in range(events)), Send(chunk(USAGE + DONE) + LAST_CHUNK)])
    return event * events + DONE


async def standstill(gateway: Bench) -> Call:
    """Return the call once nothing more is read from the upstream. There is no event for that, so it polls."""
    await gateway.ark.wait_until(lambda: len(gateway.ark.calls) == 1)
    call, before = gateway.ark.calls[0], -1
    async with asyncio.timeout(20):
        while call.bytes_sent != before or not before:
            before = call.bytes_sent
            await asyncio.sleep(0.1)
    return call


def kept_for_clients() -> int:
    """Return the bytes that wait in this process to be written to clients."""
    connections = [found for found in gc.get_objects() if isinstance(found, Connection)]
    return sum(found.transport.get_write_buffer_size() for found in connections if found.transport is not None)


@pytest.mark.parametrize("text_bytes", [16_000, 3_000])
async def test_a_client_that_stops_reading_pauses_its_upstream_and_goes_on_without_loss(gateway: Bench, text_bytes: int) -> None:
    poured = pour(gateway, text_bytes)

    async with raw_chat(gateway.origin, gateway.key, receive_bytes=65_536, stream=True) as client:
        await client.head()
        call = await standstill(gateway)
        assert call.bytes_sent < ON_THE_WAY_MAX
        assert kept_for_clients() < 1_000_000
        chunks, ended = await client.chunks()

    assert (b"".join(chunks) == poured, ended) == (True, True)
    assert call.state == "played"
    await gateway.assert_charged(CHARGE)


@pytest.mark.promise(CLIENT_AWAY)
async def test_a_client_that_never_reads_is_dropped_and_its_call_is_settled(tmp_path: Path) -> None:
    async with bench(tmp_path, server="stall_seconds = 0.3") as gateway:
        pour(gateway)

        async with raw_chat(gateway.origin, gateway.key, receive_bytes=65_536, stream=True):
            (line,) = await gateway.log.until_chats()

        assert (line["outcome"], line["usage"], line["cost"]) == ("client_gone", "reported", "0.00004")
        assert gateway.ark.calls[0].state == "played"
        await gateway.assert_charged(CHARGE)


async def test_a_dropped_client_stops_the_upstream_where_that_is_wanted(tmp_path: Path) -> None:
    async with bench(tmp_path, server="stall_seconds = 0.3", disconnect="cancel", unknown_usage="free") as gateway:
        pour(gateway)

        async with raw_chat(gateway.origin, gateway.key, receive_bytes=65_536, stream=True):
            (line,) = await gateway.log.until_chats()

        assert (line["outcome"], line["usage"]) == ("client_gone", "estimated")
        call = await gateway.ark.wait_ended(gateway.ark.calls[0])
        assert (call.state, call.bytes_sent < ON_THE_WAY_MAX) == ("closed_by_peer", True)
        await gateway.assert_charged(0)
