"""Scripts: short lists of steps, played in order, that determine the bytes of an answer and their timing.

`cut` and the `answer_*` helpers make the usual steps. Every default answer of the stand-in is a script too, so a test may put
`Perform()` or `Answer()` among its own steps: `[Perform(), Reset()]` is an answer that was lost after the work was done.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from proxy.demo.ark.call import Call
from proxy.demo.ark.dialect import ArkError, head, render_error

REQUEST_ID = "021765952525000c0ffee0c0ffee0c0ffee0c0f"
"""The request id in answers that are written before their call is known."""

Framing = Literal["chunked", "content-length", "until-close"]


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes unchanged, then let the event loop run, so that they are not merged with the next ones."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """Write each piece unchanged, the first at once, the others `every_seconds` apart. Each piece costs only one timer."""

    pieces: Iterable[bytes]
    every_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Continue when the test sets the event."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Check:
    """Call the callback, awaiting a coroutine. If it raises, the connection is reset and `StandIn.close()` raises the same."""

    callback: Callable[[Call], object]


@dataclass(frozen=True, slots=True)
class Perform:
    """Do what the call asks for, such as making a task, and keep the answer for a later `Answer()`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Play the default answer of the call. Does the work first if no `Perform()` came before."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Send RST, so that the peer reads a reset, not an end. Everything before it has been sent."""


@dataclass(frozen=True, slots=True)
class Close:
    """Send FIN after everything else."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Send nothing until the connection is closed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Play the steps that the function returns for the call."""

    function: Callable[[Call], "Sequence[Step]"]


Step = Send | Stream | Pause | Wait | Check | Perform | Answer | Ask | Reset | Close | Hang
Script = Sequence[Step] | Callable[[Call], Sequence[Step]]
"""Steps, or a function that returns them for a call that has arrived."""

LAST_CHUNK = b"0\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    """Return one chunk of chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def cut(body: bytes, size: int | None) -> list[Send]:
    """Return the body in chunked encoding, at most `size` bytes a chunk (None: one chunk), without the empty last chunk."""
    return [Send(chunk(piece)) for piece in _pieces(body, size)]


def answer_json(status: int, obj: Any, headers: Mapping[str, str] | None = None) -> list[Step]:
    """Return a complete answer in one write. `obj` is serialised unless it is bytes; `headers` are added to Ark's or replace them."""
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
        cut: bytes in each piece (a chunk, or a write in the other framings); None: one piece.
        end: False leaves out the last chunk or the close, so that the caller can append steps that break the stream.
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
    """Return one of Ark's errors, with "Request id: …" after the message. Unwrapped, its fields are at the top level."""
    fault = ArkError(status, code, message, param, type)
    return answer_json(status, render_error(fault, REQUEST_ID, wrapped=wrapped), {"x-error-code": code, **(headers or {})})


def lost(end: Step | None = None) -> list[Step]:
    """Return steps that do the work but never send its answer. The connection is reset unless `end` is `Hang()` or `Close()`."""
    return [Perform(), end or Reset()]


def answer_head(
    status: int,
    content_type: str,
    headers: Mapping[str, str] | None = None,
    *,
    body_bytes: int | None = None,
    chunked: bool = False,
) -> bytes:
    """Return a head as Envoy writes it. With neither a length nor chunks, the end of the connection ends the body."""
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
