"""Mixed customer load, in its own process: JSON, streams, clients that leave, images and videos, each at a fixed rate.

``python -m tests.bench.mixture ORIGIN KEY SECONDS [crowd]`` prints one line of JSON at the end: the answers and failures of each
kind.
"""

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import msgspec
import uvloop

from proxy.tasks import TaskGroup
from tests.bench.jobs import MODEL
from tests.bench.limits import raise_open_files
from tests.bench.upstream import prompt_for

RATES: Mapping[str, float] = {"json": 60, "by_key": 5, "stream": 20, "leaving": 5, "image": 2, "video": 1, "look": 4}
"""Requests a second."""
STREAM = prompt_for(chunks=50, chunk_ms=100, padding_bytes=0)
"""Five seconds: a hundred streams are open at any time."""
LEAVES_AFTER_BYTES = 1000
CROWDS, CROWD_STREAMS = range(1, 81), 400
"""Sizes of the bursts of JSON requests before the load begins, and then of one burst of streams: memory allocated for the largest
burst stays allocated, and a busy machine turns an even load into bursts."""
ANSWER_SECONDS = 30.0


class Customers:
    """All customers, and the counts of their requests."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._tasks = TaskGroup("customer")
        self._serial = itertools.count()
        self._videos: list[str] = []
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    async def crowd(self) -> None:
        """Send the bursts."""
        for size in CROWDS:
            await asyncio.gather(*(self._counted("json", self._json) for _ in range(size)))
        await asyncio.gather(*(self._counted("stream", self._stream) for _ in range(CROWD_STREAMS)))

    async def run(self, ends_at: float) -> None:
        """Send requests at the `RATES` until ``ends_at``, in the loop's time, then wait for those in progress."""
        kinds: Mapping[str, Callable[[], Awaitable[None]]] = {
            "json": self._json, "by_key": self._by_key, "stream": self._stream, "leaving": self._leaving,
            "image": self._image, "video": self._video, "look": self._look,
        }  # fmt: skip
        await asyncio.gather(*(self._keep_asking(kind, kinds[kind], rate, ends_at) for kind, rate in RATES.items()))
        await self._tasks.drain(ANSWER_SECONDS)
        await self._tasks.cancel()

    async def _keep_asking(self, kind: str, ask: Callable[[], Awaitable[None]], rate: float, ends_at: float) -> None:
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        while due_at < ends_at:
            await asyncio.sleep(max(0.0, due_at - loop.time()))
            self._tasks.spawn(self._counted(kind, ask), kind)
            due_at += 1 / rate

    async def _counted(self, kind: str, ask: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await ask()
        except (aiohttp.ClientError, TimeoutError, AssertionError) as fault:
            self.failed[kind] += 1
            print(f"{kind}: {fault!r}", file=sys.stderr, flush=True)
        else:
            self.answered[kind] += 1

    # what they ask

    async def _json(self) -> None:
        await self._post("/chat/completions", _chat("Hello, world!"))

    async def _by_key(self) -> None:
        await self._post("/chat/completions", _chat("Hello, world!"), {"Idempotency-Key": f"key-{next(self._serial)}"})

    async def _stream(self) -> None:
        async with self._session.post("/v1/chat/completions", json=_chat(STREAM, stream=True)) as answer:
            assert answer.status == 200, answer.status
            tail = b""
            async for piece in answer.content.iter_any():
                tail = (tail + piece)[-20:]
            assert tail.endswith(b"data: [DONE]\n\n"), tail

    async def _leaving(self) -> None:
        async with self._session.post("/v1/chat/completions", json=_chat(STREAM, stream=True)) as answer:
            assert answer.status == 200, answer.status
            await answer.content.readexactly(LEAVES_AFTER_BYTES)
            answer.close()

    async def _image(self) -> None:
        await self._post("/images/generations", {"prompt": "a lighthouse at dusk"})

    async def _video(self) -> None:
        self._videos.append((await self._post("/videos/generations", {"prompt": "waves at sunset"}))["id"])

    async def _look(self) -> None:
        """Query the latest video."""
        path = f"/v1/videos/tasks/{self._videos[-1]}" if self._videos else "/v1/videos/tasks?limit=5"
        async with self._session.get(path) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()

    async def _post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> dict[str, str]:
        async with self._session.post(f"/v1{path}", json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            told: dict[str, str] = await answer.json()
            return told


def _chat(prompt: str, **more: object) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}


async def ask(origin: str, key: str, seconds: float, *, crowd: bool) -> Customers:
    """Run the load, and return its counts."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(origin, connector=connector, headers={"Authorization": f"Bearer {key}"}) as session:
        customers = Customers(session)
        ends_at = asyncio.get_running_loop().time() + seconds
        if crowd:
            await customers.crowd()
        await customers.run(ends_at)
        return customers


def main() -> None:
    raise_open_files()
    origin, key, seconds, *crowd = sys.argv[1:]
    customers = uvloop.run(ask(origin, key, float(seconds), crowd=bool(crowd)))
    print(msgspec.json.encode({"answered": customers.answered, "failed": customers.failed}).decode(), flush=True)


if __name__ == "__main__":
    main()
