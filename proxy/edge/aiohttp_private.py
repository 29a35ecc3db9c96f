"""The private names of aiohttp that the edge uses, each given once, under a name of ours.

aiohttp may change these names in any patch release. So `pyproject.toml` pins one patch release, and
`tests/unit/edge/test_aiohttp_private.py` names what an upgrade took away.

An alias of a slot is that slot: the interpreter reads it at its offset, under either name. It costs no call.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import base_protocol, web_protocol
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler


def _leave_nodelay(_transport: asyncio.Transport, _value: bool) -> None:
    """Do nothing, in the place of aiohttp's `tcp_nodelay`: both loops set the option themselves.

    To set it once more, uvloop duplicates the socket's descriptor.
    """


base_protocol.tcp_nodelay = _leave_nodelay  # type: ignore[assignment,attr-defined]  # imported there, not exported

web_protocol.MAX_MSG_QUEUE_SIZE = 2
"""Requests that may wait behind the one in progress. Of aiohttp's 32, each with a large head, a connection took 53 MB."""

_Aiohttp: Any = RequestHandler
"""Untyped: mypy does not know the type of a slot that is read from its class. The types below are from aiohttp's `__init__`."""


class RequestInProgress(Protocol):
    """The one method that aiohttp's protocol calls on the request being answered."""

    def _cancel(self, fault: BaseException) -> None:
        """Tell the body's reader that the connection is gone. Called by `connection_lost` and `shutdown`."""


class ServerProtocol(RequestHandler):
    """aiohttp's protocol of one client's connection, with public names for its internals.

    `Receiver` and `Connection` override the methods that aiohttp and the event loop call: `start`, `data_received`,
    `connection_lost`, `force_close`, `resume_reading`, `pause_writing` and `resume_writing`.
    """

    if not TYPE_CHECKING:  # mypy recognises a slot only by its original name
        __slots__ = ()

    loop: asyncio.AbstractEventLoop = _Aiohttp._loop
    """The event loop."""
    task: asyncio.Task[None] | None = _Aiohttp._task_handler
    """The task that runs `start`. `shutdown` waits for it and then cancels it; None if there is nothing to wait for."""

    # receiving
    parser: Any = _Aiohttp._parser
    """The HTTP parser; None once the connection is lost. The edge calls its `message_consumed` and `set_upgraded`."""
    messages: deque[tuple[RawRequestMessage | Any, StreamReader]] = _Aiohttp._messages
    """Requests parsed but not begun, oldest first: a head (or a parse error in ``exc``) and a body."""
    messages_resume_max: int = _Aiohttp._msg_queue_resume_size
    """Reading resumes when at most this many messages wait."""
    waiter: asyncio.Future[None] | None = _Aiohttp._waiter
    """The future that `data_received` resolves when a message arrives; None while nothing waits."""
    request_count: int = _Aiohttp._request_count
    """Requests received on this connection."""
    read_buffer_bytes: int = _Aiohttp._read_bufsize
    """Bytes of a body that are buffered before its sender is paused."""
    upgraded: bool = _Aiohttp._upgraded
    """True if a request asked for another protocol: the bytes after it are not parsed."""
    upgraded_tail: bytes = _Aiohttp._message_tail
    """Bytes received after such a request."""

    # pauses
    reading_paused: bool = _Aiohttp._reading_paused
    """True while the sender is paused because a body's buffer is full."""
    buffer_paused: bool = _Aiohttp._buffer_paused
    """True while the sender is paused because too many messages, or too many bytes after an upgrade, wait."""
    writing_paused: bool = _Aiohttp._paused
    """True while the transport's buffer is above its high-water mark. aiohttp's property of this name costs a call."""
    resume_reading_if_drained: Callable[[], None] = _Aiohttp._resume_reading_if_drained
    """End the pause that `buffer_paused` shows, if its cause is gone."""
    resume_transport_reading: Callable[[], None] = _Aiohttp._resume_transport_reading
    """Let the transport read again."""
    drain: Callable[[], Awaitable[None]] = _Aiohttp._drain_helper
    """Wait until writing is not paused. Raises: ClientConnectionResetError (a ConnectionError) once the connection is lost."""

    # the request in progress
    current_request: RequestInProgress | None = _Aiohttp._current_request
    """The request that is being answered."""
    request_in_progress: bool = _Aiohttp._request_in_progress
    """True while a request is being answered: `shutdown` waits for its end."""
    shutdown_waiter: asyncio.Future[None] | None = _Aiohttp._handler_waiter
    """The future that `shutdown` waits for meanwhile; None unless it waits."""

    # the end
    is_closing: bool = _Aiohttp._close
    """True if the connection ends with the answer in progress: nothing more is parsed."""
    is_force_closed: bool = _Aiohttp._force_close
    """True once the connection has been ended: no further request begins."""
    keepalive_seconds: float = _Aiohttp._keepalive_timeout
    """Seconds to wait for the next request's head."""
    keepalive_handle: asyncio.Handle | None = _Aiohttp._keepalive_handle
    """The timer of that wait."""
    keepalive_deadline: float = _Aiohttp._next_keepalive_close_time
    """The end of that wait, in the loop's time."""
    process_keepalive: Callable[[], None] = _Aiohttp._process_keepalive
    """The timer's callback: close if the deadline has passed without a request, else set the timer again."""
