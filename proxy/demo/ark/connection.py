"""One TCP connection: reads requests and plays scripts.

A connection plays one script at a time; requests that arrive meanwhile wait. The call that was being answered records which side ended
the connection.
"""

import asyncio
import inspect
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from proxy.demo.ark.call import Call, State
from proxy.demo.ark.dialect import head as render_head
from proxy.demo.ark.reader import Head, MalformedRequestError, Reader
from proxy.demo.ark.script import Answer, Ask, Check, Close, Hang, Pause, Perform, Reset, Send, Step, Stream, Wait
from proxy.tasks import TaskGroup

_LINGER_ZERO = struct.pack("ii", 1, 0)


class Owner(Protocol):
    """The interface that a connection needs from the stand-in that accepted it."""

    def opened(self, connection: "Connection") -> Sequence[Step] | None:
        """Record an opened connection. Return steps to play before anything is read, or None."""

    def closed(self, connection: "Connection", call: Call | None) -> None:
        """Record a closed connection and the call that it cut off."""

    def arrived(self, connection: "Connection", head: Head, body: bytes | None) -> tuple[Call, Sequence[Step]] | None:
        """Return the call and its script. Called first with the head alone (None: read the body), then with the body."""

    def perform(self, call: Call) -> Sequence[Step]:
        """Do the work of a call once and return its default answer."""

    def changed(self) -> None:
        """React to a changed state of a call."""

    def failed(self, fault: BaseException) -> None:
        """Record what a script raised."""


class Connection(asyncio.Protocol):
    """One accepted connection. `number` counts from 1 in the order of acceptance."""

    def __init__(self, number: int, owner: Owner, tasks: TaskGroup) -> None:
        self.number = number
        self._owner = owner
        self._tasks = tasks
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._head_seen = False
        self._call: Call | None = None
        self._play_task: asyncio.Task[None] | None = None
        self._performed: Sequence[Step] | None = None
        self._closes_after = False
        self._drained: asyncio.Event = asyncio.Event()
        self._on_drained: Callable[[], None] | None = None
        self._drained.set()

    # Callbacks of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Each write goes to the kernel at once, and a full buffer is noticed: a reset then loses nothing that was sent.
        self._transport.set_write_buffer_limits(high=0)
        if steps := self._owner.opened(self):
            self._start(None, steps)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            self._advance()
        except MalformedRequestError:
            self._write(render_head(400, [("content-length", "0"), ("connection", "close"), ("server", "istio-envoy")]))
            self.close()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()
        if self._on_drained is not None:
            self._on_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        call, self._transport = self._call, None
        self._mark(call, "closed_by_peer")
        if self._play_task is not None:
            self._play_task.cancel()
        self._owner.closed(self, call)

    # Called by the stand-in.

    @property
    def is_idle(self) -> bool:
        return self._play_task is None and not self._head_seen

    def close(self) -> None:
        """Send FIN after everything that was written."""
        self._mark(self._call, "closed")
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Send RST at once."""
        self._mark(self._call, "reset")
        if self._transport is None:
            return
        if not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()

    # Playing.

    def _advance(self) -> None:
        while self._play_task is None and (found := self._next()) is not None:
            call, steps = found
            self._start(call, steps)

    def _next(self) -> tuple[Call, Sequence[Step]] | None:
        head = self._reader.head()
        if head is None or self._closing:
            return None
        if not self._head_seen:
            self._head_seen = True
            if (early := self._owner.arrived(self, head, None)) is not None:
                self._closes_after = True  # the rest of the body could not be told from a next request
                return early
            if head.expects_continue:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._reader.body()
        if body is None:
            return None
        self._head_seen = False
        self._closes_after = head.closes
        return self._owner.arrived(self, head, body)

    def _start(self, call: Call | None, steps: Sequence[Step]) -> None:
        self._call, self._performed = call, None
        self._mark(call, "playing")
        if len(steps) == 1 and isinstance(steps[0], Send) and self._drained.is_set():
            self._write(steps[0].payload)  # a whole answer in one write needs no task, which saves a third of the CPU of a JSON call
            self._finish()
            return
        self._play_task = self._tasks.spawn(self._play(call, steps), f"connection {self.number}", on_death=self._ended)

    async def _play(self, call: Call | None, steps: Sequence[Step], is_end: bool = True) -> None:
        """Play the steps. `is_end`: nothing follows them, so a peer that leaves after the last byte has not left early."""
        for left, step in zip(range(len(steps) - 1, -1, -1), steps, strict=True):
            await self._step(call, step, is_end and left == 0)
            if self._closing:
                return

    def _ended(self, fault: BaseException | None) -> None:
        self._play_task = None
        if fault is not None:
            self._mark(self._call, "failed")
            self._owner.failed(fault)
            self.reset()
        elif not self._closing:
            self._finish()
            self._advance_safely()

    def _advance_safely(self) -> None:
        self.data_received(b"")

    def _finish(self) -> None:
        self._mark(self._call, "played")
        self._call = None
        if self._closes_after and self._transport is not None:
            self._transport.close()

    async def _step(self, call: Call | None, step: Step, is_last: bool) -> None:
        match step:
            case Send(payload):
                await self._send(payload, is_last)
            case Stream():
                await self._stream(step, is_last)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Wait(event):
                await event.wait()
            case Hang():
                await asyncio.get_running_loop().create_future()
            case Reset():
                await self._drained.wait()
                self.reset()
            case Close():
                self.close()
            case Check() | Perform() | Answer() | Ask():
                await self._act(_needed(call), step, is_last)

    async def _act(self, call: Call, step: Check | Perform | Answer | Ask, is_last: bool) -> None:
        if isinstance(step, Check):
            result = step.callback(call)
            if inspect.isawaitable(result):
                await result
            return
        if isinstance(step, Ask):
            await self._play(call, step.function(call), is_last)
            return
        if self._performed is None:
            self._performed = self._owner.perform(call)
        if isinstance(step, Answer):
            await self._play(call, self._performed, is_last)

    async def _send(self, payload: bytes, is_last: bool) -> None:
        self._write(payload)
        await self._drained.wait()
        if is_last:
            self._mark(self._call, "played")
            return
        # Two turns of the loop: in the first, a reader in this process may still be queued behind us; in the second it has read.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _stream(self, step: Stream, is_last: bool) -> None:
        pacer = _Pacer(step, self._write, self._drained.is_set, self._played if is_last else None)
        self._on_drained = pacer.resume
        try:
            await pacer.run()
        finally:
            self._on_drained = None
            pacer.stop()

    def _played(self) -> None:
        self._mark(self._call, "played")

    def _write(self, payload: bytes) -> None:
        if self._transport is None or self._closing:
            return
        if self._call is not None:
            self._call.bytes_sent += len(payload)
        self._transport.write(payload)

    @property
    def _closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _mark(self, call: Call | None, state: State) -> None:
        """Set the state of a call, unless the call has ended."""
        if call is not None and call.state in ("arrived", "playing"):
            call.state = state
            self._owner.changed()


class _Pacer:
    """Writes pieces on schedule, each with one timer and no task switch. Pauses while the transport is full."""

    __slots__ = ("_done", "_every", "_loop", "_next", "_next_at", "_on_end", "_pieces", "_ready", "_timer", "_write")

    def __init__(
        self, step: Stream, write: Callable[[bytes], None], ready: Callable[[], bool], on_end: Callable[[], None] | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces = iter(step.pieces)
        self._every = step.every_seconds
        self._write = write
        self._ready = ready
        self._on_end = on_end
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._next = next(self._pieces, None)
        self._next_at = self._loop.time()
        self._timer: asyncio.Handle | None = None

    async def run(self) -> None:
        self._tick()
        await self._done

    def resume(self) -> None:
        if self._timer is None and not self._done.done():
            self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        if not self._ready():
            return  # resume() continues
        if self._next is not None:
            self._write(self._next)
            self._next = next(self._pieces, None)
        if self._next is None:
            if not self._done.done() and self._ready():
                self._done.set_result(None)
                if self._on_end is not None:
                    self._on_end()
            return
        self._next_at += self._every
        self._timer = self._loop.call_at(self._next_at, self._tick) if self._every else self._loop.call_soon(self._tick)


def _needed(call: Call | None) -> Call:
    assert call is not None, "a step that needs a call, in a script for connections"
    return call
