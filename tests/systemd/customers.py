"""Customers that send requests without a pause, in a process of their own: ``python -m tests.systemd.customers PORT KEY``.

Every request has its own connection, so that a refused connection differs from one that is accepted and dropped. A line on standard
input ends a phase: the counts since the last one are printed as a line of JSON.
"""

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from proxy.tasks import TaskGroup

JSON_CUSTOMERS, STREAM_CUSTOMERS = 8, 8
PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 120.0
BODY = '{{"model":"doubao-pro-32k","stream":{stream},"max_tokens":64,"messages":[{{"role":"user","content":"Hello"}}]}}'


@dataclass
class Seen:
    """Counts of one phase."""

    answers: int = 0
    streams: int = 0
    refused: int = 0
    """connect() failed."""
    broken_json: int = 0
    broken_streams: int = 0
    """The head came, but the stream did not end properly."""
    unanswered: int = 0
    """Connected, and closed without a byte."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Statuses other than 200, with the answer's text."""
    longest_wait_seconds: float = 0.0
    """From connect() to the first byte of the answer."""


class Crowd:
    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self.seen = Seen()

    async def come_and_go(self, *, stream: bool) -> None:
        while True:
            await self._ask(stream=stream)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, *, stream: bool) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            self.seen.refused += 1
            return
        answer = b""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                writer.write(self._request(stream=stream))
                answer = await reader.read(65_536)
                self.seen.longest_wait_seconds = max(self.seen.longest_wait_seconds, loop.time() - began_at)
                while piece := await reader.read(65_536):
                    answer += piece
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        self._judge(answer, stream=stream)

    def _judge(self, answer: bytes, *, stream: bool) -> None:
        if not answer:
            self.seen.unanswered += 1
        elif not answer.startswith(b"HTTP/1.1 200"):
            status = (
                answer.split(b" ", 2)[1].decode("ascii", "replace") + answer.rpartition(b"\r\n\r\n")[2].decode("utf-8", "replace")[:200]
            )
            self.seen.statuses[status] = self.seen.statuses.get(status, 0) + 1
        elif stream and b"data: [DONE]" in answer and answer.endswith(b"0\r\n\r\n"):
            self.seen.streams += 1
        elif not stream and answer.endswith(b"}"):
            self.seen.answers += 1
        elif stream:
            self.seen.broken_streams += 1
        else:
            self.seen.broken_json += 1

    def _request(self, *, stream: bool) -> bytes:
        body = BODY.format(stream="true" if stream else "false")
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {self._key}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


async def main(port: int, key: str) -> None:
    crowd, tasks = Crowd(port, key), TaskGroup("customers")
    for _ in range(JSON_CUSTOMERS):
        tasks.spawn(crowd.come_and_go(stream=False), "json")
    for _ in range(STREAM_CUSTOMERS):
        tasks.spawn(crowd.come_and_go(stream=True), "stream")
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(msgspec.json.encode(crowd.seen).decode(), flush=True)
        crowd.seen = Seen()
    await tasks.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
