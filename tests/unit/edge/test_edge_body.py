"""Large bodies: read, counted and parsed without holding everybody else up."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.core.errors import InvalidJsonError
from proxy.edge.body import LARGE_BYTES, BodyReader
from proxy.edge.connection import Request
from tests.support.settings import live


class Content:
    """A body that comes in pieces, and notes at which turn of the loop the last one was taken."""

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
    """Return the value, and how many turns others had after the last piece."""
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
