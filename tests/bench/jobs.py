"""The load process's job and report: one job per process, as JSON over its standard input and output.

It prints ``begin`` and ``end`` when counting begins and ends, so that others can be measured over the same seconds, then its report.
The time before and after (opening connections, streams that run out) does not count.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from tests.bench.upstream import prompt_for

BEGIN, END = "begin", "end"
MODEL = "doubao-pro-32k"
ENDLESS_SECONDS = 3600.0
"""Longer than any measurement."""
LETTER = "字"
"""Long texts are Chinese, as customers' texts are: three bytes a character, which a parser must check."""


class Target(msgspec.Struct, frozen=True):
    """The address and keys of a contender. Connections take the keys in turn."""

    port: int
    path: str = "/api/v1/chat/completions"
    keys: tuple[str, ...] = ("bench",)
    model: str = MODEL


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One load.

    Attributes:
        kind: ``json``: keep all connections busy. ``streams``: one stream on each. ``paced``: short streams at a fixed rate, whether
            or not earlier ones have ended. ``firsts``: as ``json``, with short streams.
        connections: their number; with ``paced``, the number to choose from.
        seconds: time to count.
        warm_seconds: time before that, once all connections are open.
        chunks, chunk_ms, padding_bytes: of a stream.
        rate: streams a second, for ``paced``.
        opened_a_second: rate at which streams are opened, low enough that opening them is no load.
        stalled: number of clients that stop reading once their stream has begun.
        leaves: all clients leave when counting ends, instead of reading to the end.
        held: streams have no end; all clients leave once the load is let go.
        filler_bytes: size of extra text in the request.
        picture: the filler is a picture in base64, instead of text.
    """

    kind: Literal["json", "streams", "paced", "firsts"]
    target: Target
    connections: int
    seconds: float
    warm_seconds: float = 0.5
    chunks: int = 0
    chunk_ms: int = 0
    padding_bytes: int = 0
    rate: float = 0.0
    opened_a_second: float = 1000.0
    stalled: int = 0
    leaves: bool = False
    held: bool = False
    filler_bytes: int = 0
    picture: bool = False

    @property
    def body(self) -> bytes:
        """Return the request's body."""
        plan = prompt_for(self.chunks, self.chunk_ms, self.padding_bytes) if self.chunks else "You are a helpful assistant."
        asked: dict[str, object] = {"model": self.target.model, "messages": [_message("system", plan), _message("user", self._asked())]}
        if self.chunks:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return msgspec.json.encode(asked)

    def _asked(self) -> object:
        if not self.filler_bytes:
            return "Hello, world!"
        if not self.picture:
            return LETTER * (self.filler_bytes // len(LETTER.encode()))
        return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * self.filler_bytes}"}}]


class Spread(msgspec.Struct, frozen=True):
    """Percentiles of times in ms: half of them were no longer than `p50`."""

    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, times: Sequence[float]) -> "Spread":
        """Summarise times: there are hundreds of thousands, too many to report one by one."""
        ordered = sorted(times)
        return cls(*(ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99, 1.0))) if ordered else NEVER


NEVER = Spread(-1.0, -1.0, -1.0)


class Report(msgspec.Struct, kw_only=True):
    """The counts between begin and end.

    Attributes:
        answers, failed: whole answers with status 200; others, and incomplete ones.
        chunks, reads, joined: chunks that arrived, reads that they arrived in, and reads that held more than one.
        delays: times of sampled chunks from the stand-in's write to the client's read.
        waits: times from the request to a whole JSON answer, or to the first chunk of a stream.
    """

    seconds: float
    answers: int
    failed: int
    chunks: int
    reads: int
    joined: int
    delays: Spread
    waits: Spread

    @property
    def joined_share(self) -> float:
        return self.joined / max(1, self.reads)


def _message(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}
