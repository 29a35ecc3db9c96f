"""Large bodies: read, counted and parsed without delaying other requests."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.core.errors import InvalidJsonError, ModelUnavailableError, RateLimitedError
from proxy.edge.body import KEYS_MAX, BodyReader, parsed
from proxy.edge.context import Context
from proxy.edge.intake import LARGE_BODIES, LARGE_BYTES
from proxy.edge.request import Request
from proxy.store.values import Grant
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


def context_of(request: Request, account_id: int = 1) -> Context:
    return Context(request, "req_1", {}, 0.0, 0, grant=Grant(b"", "", account_id, "acme"))


async def read(raw: bytes) -> tuple[Any, int]:
    """Return the parsed value, and the number of loop turns that others had after the last piece."""
    half = len(raw) // 2
    content = Content([raw[:half], raw[half:]])
    try:
        value = await BodyReader(live(body_bytes_max=10_000_000, body_seconds=5)).json(context_of(request_with(content, len(raw))))
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


@pytest.mark.parametrize("key", [b'"k":', b'"k" :', b'"k\\\\":', b'"k\\\\\\\\" :', b'"\\"":'])
async def test_keys_are_counted_whatever_stands_before_their_colon(key: bytes) -> None:
    with pytest.raises(InvalidJsonError, match="too many values"):
        await read(b"{" + b",".join([key + b"1"] * (KEYS_MAX + 10)) + b"}")


async def test_a_text_that_is_json_itself_has_no_keys() -> None:
    value, _ = await read(b'["' + b'\\"k\\":1,' * (KEYS_MAX + 10) + b'"]')

    assert len(value[0]) == len('"k":1,') * (KEYS_MAX + 10)


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


async def test_large_bodies_take_no_more_than_some_whole_ones_and_those_of_an_account_half_of_it() -> None:
    # anyone with a key can send them, even with an empty account: together they must fit into memory
    bodies, end = BodyReader(live(body_bytes_max=BODY_BYTES_MAX, body_seconds=5)), asyncio.Event()
    large = b'"' + b"x" * (BODY_BYTES_MAX - 2) + b'"'
    coming = [Unfinished(large, end) for _ in range(LARGE_BODIES)]

    def read(content: Content, account_id: int, size: int = BODY_BYTES_MAX) -> Any:
        return bodies.read(request_with(content, size), bodies.intake.reserve(account_id))

    async with asyncio.TaskGroup() as readers:
        reading = [readers.create_task(read(content, number % 2)) for number, content in enumerate(coming)]
        for content in coming:
            await content.came.wait()
        for _ in range(2):
            with pytest.raises(ModelUnavailableError) as refused:
                await read(Unfinished(large, end), 2)
        small = b'"x"' + b" " * (LARGE_BYTES - 3)
        assert await read(whole(small), 1, len(small)) == small
        end.set()

    assert refused.value.retry_after_seconds == 1
    assert [await task for task in reading] == [large] * LARGE_BODIES


async def test_an_account_has_its_share_of_the_memory_for_large_bodies_and_others_find_room() -> None:
    intake = BodyReader(live(body_bytes_max=BODY_BYTES_MAX, body_seconds=5)).intake
    mine = [intake.reserve(1) for _ in range(LARGE_BODIES // 2)]
    for body in mine:
        body.set(BODY_BYTES_MAX + LARGE_BYTES)

    with pytest.raises(RateLimitedError) as refused:
        intake.reserve(1).set(LARGE_BYTES + 1)
    intake.reserve(1).set(LARGE_BYTES)
    theirs = intake.reserve(2)
    theirs.set(BODY_BYTES_MAX)
    mine[0].release()
    mine[0].release()
    intake.reserve(1).set(BODY_BYTES_MAX)

    assert refused.value.retry_after_seconds == 1
    for body in (*mine, theirs):
        body.release()
    assert intake.total_bytes == BODY_BYTES_MAX - LARGE_BYTES


@pytest.mark.parametrize(("letter", "bytes_each"), [("x", 1), ("é", 4), ("中", 4), ("😀", 4)])
async def test_a_parsed_body_counts_as_wide_as_its_widest_character_may_be(letter: str, bytes_each: int) -> None:
    raw = ('["' + LARGE_BYTES * "x" + letter + '"]').encode()
    content = Content([raw])
    bodies = BodyReader(live(body_bytes_max=10_000_000, body_seconds=5))
    context = context_of(request_with(content, len(raw)))

    await bodies.json(context)
    content.counting.cancel()

    assert context.intake is not None
    assert bodies.intake.total_bytes == bytes_each * len(raw) - LARGE_BYTES
    context.intake.release()
    assert bodies.intake.total_bytes == 0


def whole(raw: bytes) -> Content:
    """Return a body that arrives complete, in one piece."""
    ended = asyncio.Event()
    ended.set()
    return Unfinished(raw, ended)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'["cut \\ud83d"]', ["cut �"]),
        (b'["\\ude00 cut"]', ["� cut"]),
        (b'["\\ud83d\\ude00"]', ["😀"]),
        (b'["\\\\ud83d \\ud83d"]', ["\\ud83d �"]),
        (b'\xef\xbb\xbf["x"]', ["x"]),
        (b'\xef\xbb\xbf["\\udc00"]', ["�"]),
    ],
)
def test_what_sdks_write_by_mistake_is_repaired(raw: bytes, value: object) -> None:
    assert parsed(raw) == value


@pytest.mark.parametrize(
    "raw",
    [b"[NaN]", b'["\xff"]', b'["\\ud83d", NaN]', b'["\\ud83d\xff"]', b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf[]", b'["\\ud83"]'],
)
def test_all_else_that_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        parsed(raw)
