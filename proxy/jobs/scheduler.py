"""What the gateway does of itself: work that falls due, and work every so many seconds.

Due times are kept by the store, so that a restart resumes what was due. Between two of them this sleeps, until the next one or until it
is told of an earlier one. A piece of work that fails is logged and rests before it is tried again; the others never notice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from proxy.clock import Clock
from proxy.store.errors import StoreUnavailableError
from proxy.tasks import TaskGroup

logger = logging.getLogger(__name__)

RUNNING_MAX = 256
"""Pieces of due work under way at a time. Most of them wait for a turn (`rates`)."""
REST_SECONDS = 30.0
"""How long work rests that failed by a bug or by the store."""
SLEEP_SECONDS_MAX = 60.0
"""Then look again in any case: due times are of the wall clock, which may be set forward, or back."""
STORE_RETRY_SECONDS = 1.0
_EVER = 2**63


class Item(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Item)
T_co = TypeVar("T_co", bound=Item, covariant=True)


class Agenda(Protocol[T_co]):
    """Who knows what is due."""

    async def due(self, now_ms: int, limit: int) -> Sequence[T_co]:
        """Return what is due by now, the longest due first."""

    async def next_due_at_ms(self, after_ms: int) -> int | None:
        """Return the first due time later than ``after_ms``; None where there is none."""


class Scheduler:
    """Everything here runs from its start until `close`. ``on_death`` is told when a loop ends by a bug of its own."""

    def __init__(self, on_death: Callable[[BaseException | None], None]) -> None:
        self._on_death = on_death
        self._tasks = TaskGroup("scheduler")
        self._due_works: list[DueWork[Any]] = []

    def every(self, seconds: float, job: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a job now and then, the first time after ``seconds``. One that fails is logged and has its next turn."""
        self._tasks.spawn(_repeat(seconds, job, name), name, on_death=self._on_death)

    def whenever_due(self, due_work: "DueWork[T]", work: Callable[[T], Awaitable[None]], name: str) -> None:
        """Do what is due, whenever it is."""
        self._due_works.append(due_work)
        self._tasks.spawn(due_work.run(work), name, on_death=self._on_death)

    async def turn(self) -> None:
        """Return once each loop of due work has looked again: not while one is stuck. One that has ended is not waited for.

        Such an end was told to ``on_death``, or is that of `close`: either way the process is stopping, and has its time for that.
        """
        for due_work in self._due_works:
            await due_work.turn()

    async def close(self) -> None:
        """Stop. Work under way is cancelled: whatever it had asked to be stored is stored all the same."""
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
    ) -> None:
        self._agenda = agenda
        self._clock = clock
        self._running_max = running_max
        self._rest_seconds = rest_seconds
        self._tasks = TaskGroup("due")
        self._running: dict[str, bool] = {}
        """What is under way, and whether it was seen to be due meanwhile."""
        self._ended_since_look: set[str] = set()
        """What was under way when what is due was last asked for, and is no longer: it may have been read as due all the same."""
        self._resting_until_ms: dict[str, int] = {}
        self._is_full = False
        self._wake = asyncio.Event()
        self._alarm_at_ms = _EVER
        self._turns: list[asyncio.Future[None]] = []
        self._has_ended = False

    def expect(self, due_at_ms: int) -> None:
        """Take note of a due time that the store has now."""
        if due_at_ms < self._alarm_at_ms:
            self._wake.set()

    async def turn(self) -> None:
        """Return once this has looked at what is due, which it is made to do; at once where it has ended."""
        if self._has_ended:
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._wake.set()
        await turn

    async def run(self, work: Callable[[T], Awaitable[None]]) -> None:
        """Start what is due and sleep until the next of it, for ever. What is under way ends with this."""
        try:
            while True:
                self._wake.clear()
                self._alarm_at_ms = _EVER  # what is expected from here on may be too late for this look
                self._alarm_at_ms = await self._look(work)
                self._tell_turns()
                await self._sleep()
        finally:
            self._has_ended = True
            self._tell_turns()
            await self._tasks.cancel()

    def _tell_turns(self) -> None:
        for turn in self._turns:
            if not turn.done():  # who waited may have been cancelled
                turn.set_result(None)
        self._turns.clear()

    async def _look(self, work: Callable[[T], Awaitable[None]]) -> int:
        """Start what is due and return when to look again, in unix milliseconds."""
        now_ms = self._clock.now_ms()
        latest_ms = now_ms + round(SLEEP_SECONDS_MAX * 1000)
        rest_ms = round(self._rest_seconds * 1000)  # who rests for longer does so by a clock that has been set back since
        self._resting_until_ms = {
            name: until_ms for name, until_ms in self._resting_until_ms.items() if 0 < until_ms - now_ms <= rest_ms
        }
        try:
            await self._start_due(now_ms, work)
            next_ms = None if self._is_full else await self._agenda.next_due_at_ms(now_ms)
        except StoreUnavailableError as fault:
            logger.error("what is due cannot be read: %s", fault)  # noqa: TRY400 - expected when a disk fails
            return now_ms + round(STORE_RETRY_SECONDS * 1000)
        return min(latest_ms, next_ms or latest_ms, *self._resting_until_ms.values())

    async def _start_due(self, now_ms: int, work: Callable[[T], Awaitable[None]]) -> None:
        """Start what is due, as far as there is room."""
        # What runs or rests is still due in the store; asked for so many, enough others are among them.
        self._ended_since_look.clear()
        due = await self._agenda.due(now_ms, self._running_max + len(self._resting_until_ms))
        for item in due:
            if item.id in self._running:
                self._running[item.id] = True
            elif item.id in self._ended_since_look:
                self._wake.set()  # look again: what has just been done may be due no more
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
            # Looking costs a page of reading: where there was no room, wait for some more of it.
            if was_due_meanwhile or (self._is_full and len(self._running) <= self._running_max * 3 // 4):
                self._wake.set()

    def _rest(self, name: str) -> None:
        until_ms = self._clock.now_ms() + round(self._rest_seconds * 1000)
        self._resting_until_ms[name] = until_ms
        self.expect(until_ms)

    async def _sleep(self) -> None:
        seconds = (self._alarm_at_ms - self._clock.now_ms()) / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(seconds, SLEEP_SECONDS_MAX))):
                await self._wake.wait()


async def _repeat(seconds: float, job: Callable[[], Awaitable[None]], name: str) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await job()
        except Exception:
            logger.exception("%s failed; it is tried again in %g s", name, seconds)
