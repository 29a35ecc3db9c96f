"""What the edge uses of aiohttp beyond its public interface: each private name stands here once, under a name of ours.

aiohttp promises nothing about these names from one patch to the next. So `pyproject.toml` asks for one patch, and
`tests/unit/edge/test_aiohttp_private.py` names what an upgrade took away.

An alias of a slot is that slot: the interpreter reads it at its offset, whatever it is called. It costs no call.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

_Aiohttp: Any = RequestHandler
"""Untyped: seen from its class, mypy does not know a slot's value. The types below are those of aiohttp's `__init__`."""


class RequestInProgress(Protocol):
    """What aiohttp's protocol needs of the request that is being answered."""

    def _cancel(self, fault: BaseException) -> None:
        """Tell whoever reads the body that the connection is gone. Called by `connection_lost` and `shutdown`."""


class ServerProtocol(RequestHandler):
    """aiohttp's protocol of one client's connection, with names for its inside.

    `Receiver` and `Connection` override the methods by which aiohttp and the event loop call it: `start`, `data_received`,
    `connection_lost`, `force_close`, `resume_reading`, `pause_writing` and `resume_writing`.
    """

    if not TYPE_CHECKING:  # mypy takes a slot for one only by the name that it was made with
        __slots__ = ()

    loop: asyncio.AbstractEventLoop = _Aiohttp._loop
    """The event loop."""
    task: asyncio.Task[None] | None = _Aiohttp._task_handler
    """The task that runs `start`. `shutdown` waits for it and then cancels it; None where there is nothing to wait for."""

    # receiving
    parser: Any = _Aiohttp._parser
    """The HTTP parser; None once the connection is lost. Of it `message_consumed` and `set_upgraded` are called."""
    messages: deque[tuple[RawRequestMessage | Any, StreamReader]] = _Aiohttp._messages
    """Requests that have been parsed and not begun, oldest first: a head, or what is wrong with it in ``exc``, and a body."""
    messages_resume_max: int = _Aiohttp._msg_queue_resume_size
    """Reading goes on once no more than so many messages wait."""
    waiter: asyncio.Future[None] | None = _Aiohttp._waiter
    """The future that `data_received` resolves when a message has come; None while nobody waits."""
    request_count: int = _Aiohttp._request_count
    """Requests received on this connection."""
    read_buffer_bytes: int = _Aiohttp._read_bufsize
    """How much of a body is kept before its sender is paused."""
    upgraded: bool = _Aiohttp._upgraded
    """Whether a request asked for another protocol: what comes behind it is not parsed."""
    upgraded_tail: bytes = _Aiohttp._message_tail
    """What has come behind such a request."""

    # pauses
    reading_paused: bool = _Aiohttp._reading_paused
    """Whether the sender is paused because a body's buffer is full."""
    buffer_paused: bool = _Aiohttp._buffer_paused
    """Whether the sender is paused because too many messages wait, or too much stands behind an upgrade."""
    writing_paused: bool = _Aiohttp._paused
    """Whether the transport holds more than it wants to. aiohttp has a property of this name, which costs a call."""
    resume_reading_if_drained: Callable[[], None] = _Aiohttp._resume_reading_if_drained
    """End a pause of `buffer_paused`, if its cause is gone."""
    resume_transport_reading: Callable[[], None] = _Aiohttp._resume_transport_reading
    """Let the transport read again."""
    drain: Callable[[], Awaitable[None]] = _Aiohttp._drain_helper
    """Wait until writing is not paused. Raises: ClientConnectionResetError, a ConnectionError, once the connection is lost."""

    # the request in progress
    current_request: RequestInProgress | None = _Aiohttp._current_request
    """The request that is being answered."""
    request_in_progress: bool = _Aiohttp._request_in_progress
    """Whether one is being answered: `shutdown` then waits for its end."""
    shutdown_waiter: asyncio.Future[None] | None = _Aiohttp._handler_waiter
    """The future that `shutdown` waits for meanwhile; None while nobody shuts down."""

    # the end
    is_closing: bool = _Aiohttp._close
    """Whether the connection ends with the answer in progress: nothing more is parsed."""
    is_force_closed: bool = _Aiohttp._force_close
    """Whether the connection has been ended: no request begins any more."""
    keepalive_seconds: float = _Aiohttp._keepalive_timeout
    """How long to wait for the next request's head."""
    keepalive_handle: asyncio.Handle | None = _Aiohttp._keepalive_handle
    """The timer of that wait."""
    keepalive_deadline: float = _Aiohttp._next_keepalive_close_time
    """When that wait ends, in the loop's time."""
    process_keepalive: Callable[[], None] = _Aiohttp._process_keepalive
    """Called by that timer: close if the deadline has passed and no request has come, else set the timer anew."""
