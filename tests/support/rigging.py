"""Rigs for a gateway process: it kills itself at a named point, or uses a clock that a test can set.

The points wrap the real functions of the running program, only in a process that a test has started. The program itself has no code for
this. ``before`` is before the first byte or statement, ``after`` is when the call has returned. Bytes that are given to the loop have
been sent by the turn after the next.
"""

import asyncio
import functools
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from proxy import clock
from proxy.billing import folding, holds
from proxy.billing.holds import Billing, Hold
from proxy.core.chat import answer
from proxy.core.chat.tap import Tap
from proxy.core.video import task as video_task
from proxy.core.video.task import Pace
from proxy.edge import connection as edge
from proxy.edge.request import Request
from proxy.gateway import process
from proxy.jobs import fold_requests, forget_keys, scheduler
from proxy.store.sqlite import admission, writer
from proxy.store.sqlite import folding as store_folding
from proxy.store.sqlite.file import migrations
from proxy.upstream.ark_client import ArkClient
from proxy.upstream.http1 import connection as upstream
from proxy.upstream.http1.pool import Pool
from proxy.videos import assembly
from proxy.videos.tasks import VideoJobs

LIFE = (
    "hold commit before", "hold commit after", "task commit before", "task commit after", "step commit before", "step commit after",
    "settlement commit before", "settlement commit after", "chat send before", "chat send after", "creation send before",
    "creation send after", "first byte before", "first byte after", "creation answer before", "poll answer before",
    "stream usage before", "stream usage after", "JSON usage before", "JSON usage after", "settlement before", "settlement after",
    "answer before", "answer after", "checkpoint before", "checkpoint after",
)  # fmt: skip
"""Points that a gateway passes while it serves."""
RECOVERY = (
    "opening before", "opening after", "recovery before", "recovery commit before", "recovery commit after", "recovery after",
    "video recovery before", "video recovery after",
)  # fmt: skip
"""Points that it passes at a start after a run that left something open."""
POINTS = LIFE + RECOVERY
FOLDING = ("fold commit before", "fold commit after")
"""Points that it passes when there are old requests."""
PAYMENT = ("payment commit before", "payment commit after")
"""Points that it passes when an operator books money."""
MIGRATION = "migration statement"
"""The point before each statement of a migration."""

_OPERATIONS = {
    "place_hold": "hold", "settle": "settlement", "place_task": "task", "advance": "step", "_fold": "fold", "credit_account": "payment",
}  # fmt: skip


def rig(
    *,
    die_at: str = "",
    hits: int = 1,
    clock_file: str = "",
    is_hasty: bool = False,
    checkpoint_frames: int = 0,
) -> None:
    """Rig this process.

    Args:
        die_at: the point, of `POINTS`, at which the process kills itself when it passes it for the `hits`-th time.
        clock_file: a file with the error of the wall clock in milliseconds; the test may write it at any time.
        is_hasty: shorten waits of seconds or minutes to moments: between looks for lost videos, after failed work on a task, for a
            settlement that the disk does not take, between looks at a clock that may have been set, at the disk, and for old
            requests, which are folded in small slices.
        checkpoint_frames: frames in the log after which it is checkpointed.
    """
    if clock_file:
        _set_clock(Path(clock_file))
    if is_hasty:
        _make_haste()
    if checkpoint_frames:
        writer.CHECKPOINT_FRAMES = checkpoint_frames
    if die_at:
        assert die_at in (*POINTS, *FOLDING, *PAYMENT, MIGRATION), die_at
        _Points(die_at, hits).wrap_everything()


def _make_haste() -> None:
    video_task.LOOKUP_PACE = Pace(first_ms=20, longest_ms=40)
    video_task.LOOKUP_MS = 2_000
    holds.SETTLE_WAIT_SECONDS = 1.0
    admission.LOOK_SECONDS = 0.1
    forget_keys.EVERY_SECONDS = fold_requests.EVERY_SECONDS = 0.05
    for slices in (folding, store_folding):
        _replace(slices, "FOLD_REQUESTS_MAX", 5)
    scheduler.SLEEP_SECONDS_MAX = 0.5
    _replace(assembly, "DueWork", functools.partial(scheduler.DueWork, rest_seconds=0.2))


def _set_clock(file: Path) -> None:
    class WrongClock(clock.SystemClock):
        __slots__ = ()

        def now_ms(self) -> int:
            return super().now_ms() + int(file.read_text())

    _replace(process, "SystemClock", WrongClock)


def _replace(owner: Any, name: str, wrapped: Any) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, wrapped)


class _Points:
    """The armed point."""

    def __init__(self, die_at: str, hits: int) -> None:
        self._die_at = die_at
        self._hits = hits
        self._batch: set[str] = set()
        """Names of the operations in the current transaction."""
        self._recovers = False

    def passed(self, point: str) -> None:
        if point == self._die_at:
            self._hits -= 1
            if self._hits == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def sent(self, point: str) -> None:
        """Pass a point once the written bytes have been sent: the loop writes at the end of its turn."""
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(self.passed, point))

    def wrap_everything(self) -> None:
        self._wrap_commits()
        self._wrap_upstream()
        self._wrap_money()
        self._wrap_recovery()

    # The wrapped functions.

    def _wrap_commits(self) -> None:
        points = self

        class Dying(sqlite3.Connection):
            def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
                if statement != "COMMIT":
                    return super().execute(statement, *parameters)
                points.commit("before")
                cursor = super().execute(statement)
                points.commit("after")
                return cursor

            def executescript(self, script: str) -> sqlite3.Cursor:
                if points._die_at == MIGRATION:
                    self.set_trace_callback(lambda _: points.passed(MIGRATION))
                return super().executescript(script)

        _replace(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Dying))

        transact = writer.transact

        def watched(connection: sqlite3.Connection, batch: Any, *more: Any) -> Exception | None:
            self._batch = {_OPERATIONS.get(operation.function.__name__, "") for operation in batch}
            return transact(connection, batch, *more)

        _replace(writer, "transact", watched)
        self._around(writer.Writer, "_checkpoint", "checkpoint")

    def commit(self, when: str) -> None:
        for operation in self._batch - {""}:
            name = "recovery" if self._recovers and operation == "settlement" else operation
            self.passed(f"{name} commit {when}")

    def _wrap_upstream(self) -> None:
        self._before(upstream.Connection, "_send", "chat send before", sent="chat send after")
        self._before(upstream.Connection, "_receive_head", "first byte before")
        self._async_around(Pool, "ask", "", "first byte after")
        for name in ("create_image", "create_task"):
            self._async_around(ArkClient, name, "creation send before", "creation answer before")
        self._async_around(ArkClient, "get_task", "", "poll answer before")
        send = aiohttp.ClientRequest.send

        async def watched(request: aiohttp.ClientRequest, *arguments: Any) -> Any:
            response = await send(request, *arguments)
            if request.method == "POST":
                self.sent("creation send after")
            return response

        _replace(aiohttp.ClientRequest, "send", watched)

    def _wrap_money(self) -> None:
        feed = Tap.feed

        def watched(tap: Tap, payload: bytes) -> bytes:
            if b'"usage":{' in payload:
                self.passed("stream usage before")
            passed = feed(tap, payload)
            if tap.usage is not None:
                self.passed("stream usage after")
            return passed

        _replace(Tap, "feed", watched)
        self._around(answer, "plain_usage", "JSON usage")
        self._around(Hold, "settle", "settlement")
        finish = edge.Connection._finish

        def finished(connection: edge.Connection, request: Request, response: Any) -> None:
            paid = request.method == "POST"
            if paid:
                self.passed("answer before")
            finish(connection, request, response)
            if paid:
                self.sent("answer after")

        _replace(edge.Connection, "_finish", finished)

    def _wrap_recovery(self) -> None:
        self._around(migrations, "migrate", "opening")
        self._async_around(VideoJobs, "recover", "video recovery before", "video recovery after")
        recover = Billing.recover

        async def watched(one: Billing) -> int:
            self.passed("recovery before")
            self._recovers = True
            recovered = await recover(one)
            self._recovers = False
            self.passed("recovery after")
            return recovered

        _replace(Billing, "recover", watched)

    # Wrappers.

    def _around(self, owner: Any, name: str, point: str) -> None:
        self._wrap(owner, name, lambda: self.passed(f"{point} before"), lambda: self.passed(f"{point} after"))

    def _before(self, owner: Any, name: str, point: str, *, sent: str = "") -> None:
        self._wrap(owner, name, lambda: self.passed(point), (lambda: self.sent(sent)) if sent else (lambda: None))

    def _wrap(self, owner: Any, name: str, before: Callable[[], None], after: Callable[[], None]) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            before()
            result = function(*arguments, **named)
            after()
            return result

        _replace(owner, name, watched)

    def _async_around(self, owner: Any, name: str, before: str, after: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        async def watched(*arguments: Any, **named: Any) -> Any:
            self.passed(before)
            result = await function(*arguments, **named)
            self.passed(after)
            return result

        _replace(owner, name, watched)
