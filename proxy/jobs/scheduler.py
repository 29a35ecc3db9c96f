"""Background work of the gateway: work that falls due, and jobs every so many seconds.

The store keeps the due times, so that a restart resumes what was due. Between two of them this sleeps, until the next one or until it
is told of an earlier one. A piece of work that fails is logged and rests before it is tried again; the others go on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from proxy.clock import Clock
from proxy.store.contract import TASK_CLAIM_SECONDS
from proxy.store.errors import StoreUnavailableError
from proxy.tasks import TaskGroup

logger = logging.getLogger(__name__)

RUNNING_MAX = 256
"""Pieces of due work under way at a time. Most of them wait for a turn (`rates`)."""
REST_SECONDS = 30.0
"""Rest of work that failed by a bug or by the store, in seconds."""
SLEEP_SECONDS_MAX = 60.0
"""Longest sleep between looks: due times are wall-clock times, and that clock may be set."""
RENEWAL_SECONDS = TASK_CLAIM_SECONDS / 3
"""Longest sleep while work is under way: a look renews this owner's claims of it, also of what waits for its turn."""
STORE_RETRY_SECONDS = 1.0
_EVER = 2**63


class Item(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Item)
T_co = TypeVar("T_co", bound=Item, covariant=True)


class Agenda(Protocol[T_co]):
    """A source of due work."""

    async def due(self, now_ms: int, limit: int) -> Sequence[T_co]:
        """Return what is due by now, the most overdue first: also what was returned before, until it is done."""

    async def next_due_at_ms(self, after_ms: int) -> int | None:
        """Return the first due time later than ``after_ms``; None where there is none."""


class Scheduler:
    """Runs all that it is given until `close`. ``on_death`` is called when a loop ends by a bug of its own."""

    def __init__(self, on_death: Callable[[BaseException | None], None]) -> None:
        self._on_death = on_death
        self._tasks = TaskGroup("scheduler")
        self._due_works: list[DueWork[Any]] = []

    def every(self, seconds: float, job: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a job every ``seconds``, the first time after as many. One that fails is logged and runs again next time."""
        self._tasks.spawn(_repeat(seconds, job, name), name, on_death=self._on_death)

    def whenever_due(self, due_work: "DueWork[T]", work: Callable[[T], Awaitable[None]], name: str) -> None:
        """Run ``work`` on all that falls due."""
        self._due_works.append(due_work)
        self._tasks.spawn(due_work.run(work), name, on_death=self._on_death)

    async def turn(self) -> None:
        """Return once each loop of due work has looked again: not while one is stuck. One that has ended is not waited for.

        A loop ends by a bug, which ``on_death`` was told, or by `close`: either way the process is stopping, within its own time limit.
        """
        for due_work in self._due_works:
            await due_work.turn()

    async def close(self) -> None:
        """Stop, and cancel work under way. Whatever it had asked to be stored is stored all the same."""
        await self._tasks.cancel()


class DueWork(Generic[T]):
    """One kind of work that falls due: at most ``running_max`` pieces at a time, never one twice at a time."""

    def __init__(
        self,
        agenda: Agenda[T],
        clock: Clock,
        *,
        running_max: int = RUNNING_MAX,
        rest_seconds: float = REST_SECONDS,
        sleep_seconds_max: float | None = None,
    ) -> None:
        self._agenda = agenda
        self._clock = clock
        self._running_max = running_max
        self._rest_seconds = rest_seconds
        self._sleep_seconds_max = SLEEP_SECONDS_MAX if sleep_seconds_max is None else sleep_seconds_max
        self._tasks = TaskGroup("due")
        self._running: dict[str, bool] = {}
        """Work under way; True: it was seen to be due meanwhile."""
        self._ended_since_look: set[str] = set()
        """Work that has ended since due work was last asked for: the answer may still show it as due."""
        self._resting_until_ms: dict[str, int] = {}
        self._is_full = False
        self._wake = asyncio.Event()
        self._alarm_at_ms = _EVER
        self._turns: list[asyncio.Future[None]] = []
        self._has_ended = False

    def expect(self, due_at_ms: int) -> None:
        """Note a due time that was just stored."""
        if due_at_ms < self._alarm_at_ms:
            self._wake.set()

    async def turn(self) -> None:
        """Make this look at what is due, and return once it has; at once if it has ended."""
        if self._has_ended:
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._wake.set()
        await turn

    async def run(self, work: Callable[[T], Awaitable[None]]) -> None:
        """Start what is due and sleep until the next due time, for ever. At its end, work under way is cancelled."""
        try:
            while True:
                self._wake.clear()
                self._alarm_at_ms = _EVER  # a due time noted from here on may be too late for this look
                self._alarm_at_ms = await self._look(work)
                self._tell_turns()
                await self._sleep()
        finally:
            self._has_ended = True
            self._tell_turns()
            await self._tasks.cancel()

    def _tell_turns(self) -> None:
        for turn in self._turns:
            if not turn.done():  # the waiter may have been cancelled
                turn.set_result(None)
        self._turns.clear()

    async def _look(self, work: Callable[[T], Awaitable[None]]) -> int:
        """Start what is due and return when to look again, in unix milliseconds."""
        now_ms = self._clock.now_ms()
        rest_ms = round(self._rest_seconds * 1000)  # a longer rest means that the clock has been set back since
        self._resting_until_ms = {
            name: until_ms for name, until_ms in self._resting_until_ms.items() if 0 < until_ms - now_ms <= rest_ms
        }
        try:
            await self._start_due(now_ms, work)
            next_ms = None if self._is_full else await self._agenda.next_due_at_ms(now_ms)
        except StoreUnavailableError as fault:
            logger.error("what is due cannot be read: %s", fault)  # noqa: TRY400 - expected when a disk fails
            return now_ms + round(STORE_RETRY_SECONDS * 1000)
        seconds_max = min(RENEWAL_SECONDS, self._sleep_seconds_max) if self._running else self._sleep_seconds_max
        latest_ms = now_ms + round(seconds_max * 1000)
        return min(latest_ms, next_ms or latest_ms, *self._resting_until_ms.values())

    async def _start_due(self, now_ms: int, work: Callable[[T], Awaitable[None]]) -> None:
        """Start what is due, as far as there is room."""
        # Items that run or rest are still due in the store: so many are asked for that enough others are among them.
        self._ended_since_look.clear()
        due = await self._agenda.due(now_ms, self._running_max + len(self._resting_until_ms))
        for item in due:
            if item.id in self._running:
                self._running[item.id] = True
            elif item.id in self._ended_since_look:
                self._wake.set()  # look again: it has just been done, and may no longer be due
            elif item.id not in self._resting_until_ms and len(self._running) < self._running_max:
                self._running[item.id] = False
                self._tasks.spawn(self._do(work, item), item.id)
        self._is_full = len(self._running) >= self._running_max

    async def _do(self, work: Callable[[T], Awaitable[None]], item: T) -> None:
        try:
            await work(item)
        except StoreUnavailableError as fault:
            logger.error("work on %s could not be stored, it is tried again in %g s: %s", item.id, self._rest_seconds, fault)  # noqa: TRY400
            self._rest(item.id)
        except Exception:
            logger.exception("work on %s failed; it is tried again in %g s", item.id, self._rest_seconds)
            self._rest(item.id)
        finally:
            was_due_meanwhile = self._running.pop(item.id)
            self._ended_since_look.add(item.id)
            # A look reads a page: if there was no room, wait until a quarter is free.
            if was_due_meanwhile or (self._is_full and len(self._running) <= self._running_max * 3 // 4):
                self._wake.set()

    def _rest(self, name: str) -> None:
        until_ms = self._clock.now_ms() + round(self._rest_seconds * 1000)
        self._resting_until_ms[name] = until_ms
        self.expect(until_ms)

    async def _sleep(self) -> None:
        seconds = (self._alarm_at_ms - self._clock.now_ms()) / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(seconds, self._sleep_seconds_max))):
                await self._wake.wait()


async def _repeat(seconds: float, job: Callable[[], Awaitable[None]], name: str) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await job()
        except Exception:
            logger.exception("%s failed; it is tried again in %g s", name, seconds)
