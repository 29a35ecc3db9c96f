"""A stand-in on a free port with a clock that the test sets, and two clients: aiohttp's, and a raw socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.demo.ark import StandIn

KEY = "ark-key"


class HandClock:
    """A clock that starts at 2025-12-17 14:22:05 in Beijing and moves only when a test sets it."""

    def __init__(self) -> None:
        self.seconds = 1_765_952_525.0

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


Asking = Callable[..., Awaitable[Reply]]
Raw = Callable[[StandIn], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def ark(clock: HandClock) -> AsyncIterator[StandIn]:
    async with StandIn(clock=clock) as standin:
        yield standin


@pytest.fixture
async def ask() -> AsyncIterator[Asking]:
    """Yield a function that sends one request to a stand-in, with `body` as JSON."""
    session = aiohttp.ClientSession()

    async def send(
        ark: StandIn, method: str, path: str, body: object = None, *, key: str | None = KEY, headers: dict[str, str] | None = None
    ) -> Reply:
        sent = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {}) | (headers or {})
        content = None if body is None else orjson.dumps(body)
        async with session.request(method, ark.base_url + path, data=content, headers=sent) as answer:
            return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read())

    yield send
    await session.close()


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    """Yield a function that opens a raw connection; all are closed at the end."""
    opened: list[asyncio.StreamWriter] = []

    async def connect(ark: StandIn) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(ark.host, ark.port)
        opened.append(writer)
        return reader, writer

    yield connect
    for writer in opened:
        writer.close()
