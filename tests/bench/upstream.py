"""The benchmarks' stand-in for Ark: pre-rendered bytes over a raw protocol. ``python -m tests.bench.upstream``.

The prompt of a request selects its answer, so that loads of different kinds can run at once: ``chunks=300 ms=10 bytes=0`` asks for a
stream of 300 chunks, one each 10 ms, without padding; without such words the answer is one JSON object, at once. Each chunk's content
begins with the time of its write, in nanoseconds of the monotonic clock, which all processes of a machine share: a reader can compute
the delay.
"""

import asyncio
import re
import time
from functools import lru_cache
from typing import cast

import uvloop

from tests.bench.limits import raise_open_files

CONTENT = b'"content":"'
"""The bytes before a time stamp."""
STAMP_DIGITS = 20
JSON_BODY = (
    b'{"choices":[{"finish_reason":"stop","index":0,"logprobs":null,"message":{"content":"Hello! How can I help you today?",'
    b'"role":"assistant"}}],"created":1795400000,"id":"0217954000001230000000000000000000ffffac15093a1b2c3d","model":'
    b'"doubao-seed-2-0-lite-260428","service_tier":"default","object":"chat.completion","usage":{"completion_tokens":12,"prompt_tokens":20,'
    b'"total_tokens":32,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}'
)
_LEFT = b'data: {"choices":[{"delta":{"content":"'
_RIGHT = (
    b'","role":"assistant"},"index":0}],"created":1795400000,"id":"0217954000001230000000000000000000ffffac1509","model":'
    b'"doubao-seed-2-0-lite-260428","service_tier":"default","object":"chat.completion.chunk","usage":null}\n\n'
)
_USAGE = (
    b'data: {"choices":[],"created":1795400000,"id":"0217954000001230000000000000000000ffffac1509","model":'
    b'"doubao-seed-2-0-lite-260428","service_tier":"default","object":"chat.completion.chunk","usage":{"completion_tokens":%d,'
    b'"prompt_tokens":20,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0}}}\n\n'
)
_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: istio-envoy\r\ndate: Mon, 23 Nov 2026 12:00:00 GMT\r\nvary: Accept-Encoding\r\n"
    b"x-client-request-id: unknown-20261123200000-kXbTqWzRmLpNvYcHsJdF\r\nx-envoy-upstream-service-time: 812\r\n"
    b"x-request-id: 0217954000001230000000000000000000ffffac15093a1b2c3d\r\n"
)
"""The fields seen in Ark's answers."""
JSON_ANSWER = b"%bcontent-type: application/json; charset=utf-8\r\ncontent-length: %d\r\n\r\n%b" % (_HEAD, len(JSON_BODY), JSON_BODY)
STREAM_HEAD = _HEAD + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PLAN = re.compile(rb"chunks=(\d+) ms=(\d+) bytes=(\d+)")
_PLAN_BYTES = 4096
"""The plan is in the first message: only this much of a body of 20 MB is searched."""
TICK_SECONDS = 0.001
_GOLDEN = 0.6180339887498949
"""Multiples of it, modulo 1, are evenly spread for any count."""


def prompt_for(chunks: int, chunk_ms: int, padding_bytes: int) -> str:
    """Return the prompt that asks for such a stream."""
    return f"chunks={chunks} ms={chunk_ms} bytes={padding_bytes}"


@lru_cache(maxsize=16)
def frame(padding_bytes: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after the time stamp in one chunk of chunked coding, which is one event."""
    right = b"x" * padding_bytes + _RIGHT
    return b"%x\r\n%b" % (len(_LEFT) + STAMP_DIGITS + len(right), _LEFT), right + b"\r\n"


def stream_end(chunks: int) -> bytes:
    usage = _USAGE % (chunks, chunks + 20)
    return b"%x\r\n%b\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" % (len(usage), usage)


class Call(asyncio.Protocol):
    """One connection: reads a whole request and answers it as its prompt asks."""

    def __init__(self, pacer: "Pacer") -> None:
        self._pacer = pacer
        self._received = b""
        self._missing: int | None = None
        self._left = self._chunks = 0
        self._full = False
        self._frame = frame(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0
        self._full = True

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def data_received(self, data: bytes) -> None:
        if self._missing is None:
            self._received += data
            self._missing = _missing_bytes(self._received)
        else:
            self._missing -= len(data)
            self._received += data[: max(0, _PLAN_BYTES - len(self._received))]
        if self._missing is not None and self._missing <= 0:
            request, self._received, self._missing = self._received, b"", None
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        plan = _PLAN.search(request)
        if plan is None:
            self._transport.write(JSON_ANSWER)
        else:
            self._chunks = self._left = int(plan[1])
            self._frame = frame(int(plan[3]))
            self._transport.write(STREAM_HEAD)
            self.send()
            self._pacer.add(self, int(plan[2]))

    def send(self) -> bool:
        """Write the next chunk, unless writing is paused; return True if more chunks follow."""
        if self._full:
            return self._left > 0
        self._left -= 1
        left, right = self._frame
        self._transport.write(b"%b%020d%b" % (left, time.monotonic_ns(), right))
        if self._left == 0:
            self._transport.write(stream_end(self._chunks))
        return self._left > 0


def _missing_bytes(received: bytes) -> int | None:
    """Return the number of bytes of the body still to come; None while the head is incomplete."""
    head, blank, body = received.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return (int(length[1]) if length else 0) - len(body) if blank else None


class Pacer:
    """One timer for all streams: each has a slot in its period, and the slots are evenly spread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wheels: dict[int, list[list[Call]]] = {}
        self._added = 0
        self._tick = 0
        self._began = self._loop.time()
        self._turn()

    def add(self, call: Call, period_ms: int) -> None:
        """Send the rest of a call's stream, one chunk each period."""
        wheel = self._wheels.setdefault(period_ms, [[] for _ in range(period_ms)])
        self._added += 1
        wheel[int(self._added * _GOLDEN % 1 * period_ms)].append(call)

    def _turn(self) -> None:
        late = (self._loop.time() - self._began) - self._tick * TICK_SECONDS
        for _ in range(1 + int(late / TICK_SECONDS)):
            self._serve(self._tick)
            self._tick += 1
        self._loop.call_at(self._began + self._tick * TICK_SECONDS, self._turn)

    def _serve(self, tick: int) -> None:
        for period, wheel in self._wheels.items():
            place = tick % period
            if wheel[place]:
                wheel[place] = [call for call in wheel[place] if call.send()]


async def serve() -> None:
    """Listen on a free port, print it, and answer until killed."""
    pacer = Pacer()
    server = await asyncio.get_running_loop().create_server(lambda: Call(pacer), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(serve())
