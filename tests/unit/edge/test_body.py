"""Large bodies: read, counted and parsed without delaying other requests."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.core.errors import InvalidJsonError, ModelUnavailableError
from proxy.edge.body import LARGE_BODIES, LARGE_BYTES, BodyReader
from proxy.edge.request import Request
from tests.support.settings import live


class Content:
    """A body that comes in pieces and records the turn of the loop at which the last one was read."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.taken_at = -1
        self.turns = 0
        self._count()

    def is_eof(self) -> bool:
        return False

    async def readany(self) -> bytes:
        self.taken_at = self.turns
        return self._pieces.pop(0) if self._pieces else b""

    def _count(self) -> None:
        self.turns += 1
        self.counting = asyncio.get_running_loop().call_soon(self._count)


def request_with(content: Content, size: int) -> Request:
    connection = SimpleNamespace(transport=None)
    return cast("Request", SimpleNamespace(content=content, headers={}, content_length=size, connection=connection))


async def read(raw: bytes) -> tuple[Any, int]:
    """Return the parsed value, and the number of loop turns that others had after the last piece."""
    half = len(raw) // 2
    content = Content([raw[:half], raw[half:]])
    try:
        value = await BodyReader(live(body_bytes_max=10_000_000, body_seconds=5)).json(request_with(content, len(raw)))
    finally:
        content.counting.cancel()
    return value, content.turns - content.taken_at


async def test_others_have_a_turn_when_a_large_body_has_been_parsed() -> None:
    value, turns = await read(b'["' + LARGE_BYTES * b"x" + b'"]')

    assert (len(value[0]), turns) == (LARGE_BYTES, 1)


async def test_a_small_body_goes_on_at_once() -> None:
    assert await read(b'["x"]') == (["x"], 0)


async def test_a_crowd_is_refused_over_all_pieces_together() -> None:
    with pytest.raises(InvalidJsonError, match="too many values"):
        await read(b"[" + 80_000 * b"[]," + b"[]]" + 40_000 * b"{" + b" " * 1000)


BODY_BYTES_MAX = 2_000_000


class Unfinished(Content):
    """A body that has arrived except for its end."""

    def __init__(self, raw: bytes, end: asyncio.Event) -> None:
        self._raw, self._end, self.came = raw, end, asyncio.Event()

    async def readany(self) -> bytes:
        raw, self._raw = self._raw, b""
        if not raw:
            self.came.set()
            await self._end.wait()
        return raw


async def test_no_more_is_kept_of_large_bodies_that_are_still_to_come_than_of_some_whole_ones() -> None:
    # anyone with a key can send them, even with an empty account: together they must fit into memory
    bodies, end = BodyReader(live(body_bytes_max=BODY_BYTES_MAX, body_seconds=5)), asyncio.Event()
    large = b'"' + b"x" * (BODY_BYTES_MAX - 2) + b'"'
    coming = [Unfinished(large, end) for _ in range(LARGE_BODIES)]

    async with asyncio.TaskGroup() as readers:
        reading = [readers.create_task(bodies.read(request_with(content, BODY_BYTES_MAX))) for content in coming]
        for content in coming:
            await content.came.wait()
        for _ in range(2):
            with pytest.raises(ModelUnavailableError) as refused:
                await bodies.read(request_with(Unfinished(large, end), BODY_BYTES_MAX))
        await end_of(bodies, small := b'"x"' + b" " * (LARGE_BYTES - 3))
        end.set()

    assert refused.value.retry_after_seconds == 1
    assert [await task for task in reading] == [large] * LARGE_BODIES
    assert await end_of(bodies, large) == large  # there is room again
    assert await end_of(bodies, small) == small


async def end_of(bodies: BodyReader, raw: bytes) -> bytes:
    """Read a body that arrives complete, in one piece."""
    ended = asyncio.Event()
    ended.set()
    return bytes(await bodies.read(request_with(Unfinished(raw, ended), len(raw))))
