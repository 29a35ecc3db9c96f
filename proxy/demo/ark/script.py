"""What an answer does, byte by byte and moment by moment: a script is a short list of steps, played in order.

`cut` and the `answer_*` helpers write the usual ones. Every default answer of the stand-in is such a script too, so a test may play
`Perform()` or `Answer()` in the midst of its own steps: `[Perform(), Reset()]` is an answer that was lost after the work was done.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from proxy.demo.ark.call import Call
from proxy.demo.ark.dialect import ArkError, head, render_error

REQUEST_ID = "021765952525000c0ffee0c0ffee0c0ffee0c0f"
"""The request id in answers that were written before the call was known."""

Framing = Literal["chunked", "content-length", "until-close"]


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes, as they are, and let the loop turn so that they are not merged with the next ones on their way."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """Write each piece as it is, the first at once, the others `every_seconds` apart by the clock. Costs a timer a piece, no more."""

    pieces: Iterable[bytes]
    every_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on when the test says so."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Check:
    """Call back (a coroutine is awaited). What it raises resets the connection and is raised again by `StandIn.close()`."""

    callback: Callable[[Call], object]


@dataclass(frozen=True, slots=True)
class Perform:
    """Do what the call asks for (a task is made), and keep the answer for a later `Answer()`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Play the answer that the call would have had without a script; the work is done now if no `Perform()` went before."""


@dataclass(frozen=True, slots=True)
class Reset:
    """RST: what the peer reads is a reset, not an end. What was sent before has left."""


@dataclass(frozen=True, slots=True)
class Close:
    """FIN after everything was sent."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing until the connection is closed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Play the steps that the function returns for the call."""

    function: Callable[[Call], "Sequence[Step]"]


Step = Send | Stream | Pause | Wait | Check | Perform | Answer | Ask | Reset | Close | Hang
Script = Sequence[Step] | Callable[[Call], Sequence[Step]]
"""Steps, or a function that is asked for them when the call is there."""

LAST_CHUNK = b"0\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    """Return one chunk of chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def cut(body: bytes, size: int | None) -> list[Send]:
    """Return the body as chunks of chunked encoding of at most `size` bytes each (None: one chunk), without the last, empty one."""
    return [Send(chunk(piece)) for piece in _pieces(body, size)]


def answer_json(status: int, obj: Any, headers: Mapping[str, str] | None = None) -> list[Step]:
    """Return a complete answer in one write. `obj` is serialised, bytes are not; `headers` add to Ark's or replace them."""
    body = obj if isinstance(obj, bytes) else orjson.dumps(obj)
    return [Send(answer_head(status, "application/json", headers, body_bytes=len(body)) + body)]


def answer_sse(
    events: bytes,
    *,
    cut: int | None = None,
    framing: Framing = "chunked",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    end: bool = True,
) -> list[Step]:
    """Return a stream whose body is exactly `events`.

    Args:
        cut: bytes a piece (chunks, or writes in the other framings); None: all in one.
        end: False leaves out the last chunk or the close, so that the caller can append what breaks the stream.
    """
    pieces = _pieces(events, cut)
    length = len(events) if framing == "content-length" else None
    steps: list[Step] = [Send(answer_head(status, "text/event-stream", headers, body_bytes=length, chunked=framing == "chunked"))]
    steps += [Send(chunk(piece) if framing == "chunked" else piece) for piece in pieces]
    if end and framing == "chunked":
        steps.append(Send(LAST_CHUNK))
    elif end and framing == "until-close":
        steps.append(Close())
    return steps


def error(
    status: int,
    code: str,
    message: str,
    wrapped: bool = True,
    *,
    param: str = "",
    type: str | None = None,  # noqa: A002 -- Ark's own name of the field
    headers: Mapping[str, str] | None = None,
) -> list[Step]:
    """Return an error of Ark's, with "Request id: …" behind the message; unwrapped, its fields stand at the top."""
    fault = ArkError(status, code, message, param, type)
    return answer_json(status, render_error(fault, REQUEST_ID, wrapped=wrapped), {"x-error-code": code, **(headers or {})})


def lost(end: Step | None = None) -> list[Step]:
    """Return: the work is done, its answer never leaves. The connection is reset unless another end (`Hang()`, `Close()`) is given."""
    return [Perform(), end or Reset()]


def answer_head(
    status: int,
    content_type: str,
    headers: Mapping[str, str] | None = None,
    *,
    body_bytes: int | None = None,
    chunked: bool = False,
) -> bytes:
    """Return a head as Envoy writes it. Neither a length nor chunks: the body ends with the connection."""
    named = {
        "content-type": content_type,
        "server": "istio-envoy",
        "x-request-id": REQUEST_ID,
        "x-client-request-id": f"unknown-20251217142205-{REQUEST_ID[-20:]}",
        "x-envoy-upstream-service-time": "12",
    }
    if chunked:
        named["transfer-encoding"] = "chunked"
    elif body_bytes is not None:
        named["content-length"] = str(body_bytes)
    else:
        named["connection"] = "close"
    named.update({name.lower(): value for name, value in (headers or {}).items()})
    return head(status, named.items())


def _pieces(body: bytes, size: int | None) -> list[bytes]:
    if size is None:
        return [body] if body else []
    return [body[at : at + size] for at in range(0, len(body), size)]
