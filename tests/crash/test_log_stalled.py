"""A reader of the log that stalls: a pager, a terminal after Ctrl-S, a journal that hangs, a container's full pipe."""

import asyncio
import os
import pty
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from proxy.core.money import parse_yuan
from tests.support.process import gateway_process

REQUESTS = 200
"""Enough requests that their log lines exceed what a filled socket or pipe still takes."""


@contextmanager
def log_of(kind: str) -> Iterator[tuple[int, int]]:
    """Make the two ends of a log: yield the reader and the writer."""
    if kind == "socket":
        reader, writer = (end.detach() for end in socket.socketpair())
    else:
        reader, writer = pty.openpty() if kind == "terminal" else os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def fill(writer: int) -> None:
    """Write until there is no room left, like a gateway whose reader stalls."""
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 512)
    os.set_blocking(writer, True)


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
async def test_a_log_that_nobody_reads_holds_up_neither_a_request_nor_a_stop(tmp_path: Path, kind: str) -> None:
    with log_of(kind) as (_, writer):
        async with gateway_process(tmp_path, "http://127.0.0.1:9", balance=parse_yuan("1")) as process:
            await process.start(stderr=writer)
            fill(writer)

            async with asyncio.timeout(20), aiohttp.ClientSession() as session:
                statuses = [(await session.get(f"{process.origin}/healthz")).status for _ in range(REQUESTS)]
                code = await process.end_by(signal.SIGTERM)

    assert set(statuses) == {200}
    assert code == 0


async def test_a_log_that_is_read_again_goes_on_with_whole_lines(tmp_path: Path) -> None:
    with log_of("pipe") as (reader, writer):
        async with gateway_process(tmp_path, "http://127.0.0.1:9", balance=parse_yuan("1")) as process:
            await process.start(stderr=writer)
            fill(writer)
            async with asyncio.timeout(20), aiohttp.ClientSession() as session:
                await session.get(f"{process.origin}/healthz")
                os.set_blocking(reader, False)
                with suppress(BlockingIOError):
                    while os.read(reader, 65_536):
                        pass
                await session.get(f"{process.origin}/healthz")
                code = await process.end_by(signal.SIGTERM)
        lines = os.read(reader, 65_536).splitlines()

    assert code == 0
    assert any(b'"event":"request"' in line for line in lines)
    assert lines[-1].endswith(b'"message":"stopped"}')


async def test_a_gateway_without_a_standard_error_starts_and_gives_its_number_to_nothing_else(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, "http://127.0.0.1:9", balance=parse_yuan("1")) as process:
        await process.start(under=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
        assert process.process is not None
        descriptors = Path(f"/proc/{process.process.pid}/fd")

        # what a library writes to descriptor 2 must not go into the store or to a customer
        standard = [str((descriptors / str(number)).readlink()) for number in range(3)]
        code = await process.end_by(signal.SIGTERM)

    assert standard == [os.devnull] * 3
    assert code == 0
