"""Due work: done when it is due, never twice concurrently, with limited concurrency, whatever fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from proxy.clock import Clock, SystemClock
from proxy.jobs.scheduler import DueWork, Scheduler
from proxy.store.errors import StoreUnavailableError

NEVER_MS = 10**15


@dataclass(frozen=True)
class Thing:
    id: str


@dataclass
class Book:
    """Due times by name, in place of a store."""

    due_at_ms: dict[str, int] = field(default_factory=dict)
    looks: int = 0
    fault: Exception | None = None
    due_read: Callable[[], Awaitable[None]] | None = None
    """Called when due work has been read, before the reader has it."""
    once_read: Callable[[], None] | None = None
    """Called when the next due time has been read, before the reader has it."""

    async def due(self, now_ms: int, limit: int) -> list[Thing]:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        await asyncio.sleep(0)
        ready = sorted((at, name) for name, at in self.due_at_ms.items() if at <= now_ms)
        if self.due_read is not None:
            await self.due_read()
        return [Thing(name) for _, name in ready[:limit]]

    async def next_due_at_ms(self, after_ms: int) -> int | None:
        await asyncio.sleep(0)
        first = min((at for at in self.due_at_ms.values() if at > after_ms), default=None)
        if self.once_read is not None:
            self.once_read()
        return first


@dataclass
class Workshop:
    """A running scheduler, and a record of its work."""

    book: Book
    due_work: DueWork[Thing]
    deaths: list[BaseException | None]
    begun: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    running: int = 0
    running_most: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await self.changed.wait()

    def plan(self, name: str, in_ms: int = 0) -> None:
        self.book.due_at_ms[name] = at = SystemClock().now_ms() + in_ms
        self.due_work.expect(at)

    async def work(self, thing: Thing) -> None:
        """Work on a thing until `hold` is set, then mark it done."""
        self.begun.append(thing.id)
        self.running += 1
        self.running_most = max(self.running, self.running_most)
        self.note()
        try:
            await self.hold.wait()
        finally:
            self.running -= 1
        del self.book.due_at_ms[thing.id]
        self.done.append(thing.id)
        self.note()


@asynccontextmanager
async def workshop(
    *,
    running_max: int = 10,
    rest_seconds: float = 30.0,
    work: Callable[[Thing], Awaitable[None]] | None = None,
    book: Book | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Workshop]:
    deaths: list[BaseException | None] = []
    book = book or Book()
    due_work = DueWork(book, clock or SystemClock(), running_max=running_max, rest_seconds=rest_seconds)
    shop = Workshop(book, due_work, deaths)
    shop.hold.set()

    def die(fault: BaseException | None) -> None:
        deaths.append(fault)
        shop.note()

    scheduler = Scheduler(die)
    scheduler.whenever_due(due_work, work or shop.work, "things")
    try:
        yield shop
    finally:
        await scheduler.close()


async def test_what_is_due_at_the_start_is_done_at_once() -> None:
    async with workshop(book=Book({"old": 0, "older": -5})) as shop:
        await shop.until(lambda: len(shop.done) == 2)

    assert shop.done == ["older", "old"]


async def test_it_sleeps_until_the_next_due_time_and_no_longer() -> None:
    async with workshop() as shop:
        now_ms = SystemClock().now_ms()
        shop.plan("later", in_ms=80)
        await shop.until(lambda: shop.done == ["later"])

        assert SystemClock().now_ms() >= now_ms + 80
        assert shop.book.looks <= 4  # at the start, when notified, when due; never in between


async def test_an_earlier_due_time_wakes_it() -> None:
    async with workshop(book=Book({"far": NEVER_MS})) as shop:
        await asyncio.sleep(0.02)
        shop.plan("near")

        await shop.until(lambda: shop.done == ["near"])


async def test_while_work_is_under_way_it_looks_again_so_that_its_claims_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.jobs.scheduler.RENEWAL_SECONDS", 0.02)
    async with workshop(book=Book({"slow": 0})) as shop:

        async def note() -> None:
            shop.note()

        shop.book.due_read = note
        shop.hold.clear()
        await shop.until(lambda: shop.running == 1)

        await shop.until(lambda: shop.book.looks >= 4)

        shop.hold.set()
        await shop.until(lambda: shop.done == ["slow"])
    assert shop.begun == ["slow"]


async def test_a_due_time_told_while_it_looks_is_not_missed() -> None:
    async with workshop() as shop:

        def plan_too_late_for_this_look() -> None:
            if "first" in shop.book.due_at_ms and len(shop.book.due_at_ms) == 1 and SystemClock().now_ms() >= first_at_ms:
                shop.book.once_read = None
                shop.plan("second", in_ms=20)

        first_at_ms = SystemClock().now_ms() + 30
        shop.hold.clear()
        shop.plan("first", in_ms=30)
        shop.book.once_read = plan_too_late_for_this_look
        await shop.until(lambda: shop.running == 1)
        shop.hold.set()

        await shop.until(lambda: shop.done == ["first", "second"])


async def test_no_more_than_so_many_run_at_a_time_and_all_are_done() -> None:
    async with workshop(running_max=4, book=Book({str(number): number for number in range(50)})) as shop:
        shop.hold.clear()
        await shop.until(lambda: shop.running == 4)
        shop.hold.set()
        await shop.until(lambda: len(shop.done) == 50)

        assert shop.running_most == 4
        assert shop.book.looks < 50  # not one look for each


async def test_what_runs_is_not_started_again_and_hides_nothing() -> None:
    async with workshop() as shop:
        shop.hold.clear()
        shop.plan("slow")
        await shop.until(lambda: shop.running == 1)
        shop.plan("next", in_ms=30)
        await shop.until(lambda: shop.running == 2)
        shop.hold.set()
        await shop.until(lambda: len(shop.done) == 2)

    assert sorted(shop.done) == ["next", "slow"]


async def test_what_is_due_again_while_it_still_runs_is_done_again_afterwards() -> None:
    runs: list[str] = []
    first_may_end = asyncio.Event()

    async def work(thing: Thing) -> None:
        runs.append(thing.id)
        shop.plan(thing.id, in_ms=0)
        if len(runs) == 1:
            await first_may_end.wait()
        else:
            shop.book.due_at_ms.clear()
        shop.note()

    async with workshop(work=work) as shop:
        shop.plan("busy")
        await asyncio.sleep(0.05)
        assert runs == ["busy"]
        first_may_end.set()
        await shop.until(lambda: len(runs) == 2)


async def test_work_that_fails_rests_and_the_others_never_notice(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[str] = []

    async def work(thing: Thing) -> None:
        tries.append(thing.id)
        shop.note()
        if thing.id == "bad" and tries.count("bad") < 3:
            raise ZeroDivisionError
        del shop.book.due_at_ms[thing.id]

    async with workshop(work=work, rest_seconds=0.05) as shop:
        shop.plan("bad")
        shop.plan("good")
        await shop.until(lambda: "good" in tries)
        first_at = SystemClock().monotonic()
        await shop.until(lambda: tries.count("bad") == 3)

        assert SystemClock().monotonic() - first_at >= 0.08  # it rested twice
        assert shop.book.looks < 12
        assert shop.deaths == []
    assert caplog.text.count("work on bad failed") == 2


class SteppedClock(SystemClock):
    """The system clock plus a step that the test sets."""

    step_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.step_ms


async def test_a_clock_that_is_set_back_lengthens_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.jobs.scheduler.SLEEP_SECONDS_MAX", 0.05)
    clock, tries = SteppedClock(), []

    async def work(thing: Thing) -> None:
        tries.append(thing.id)
        shop.note()
        if len(tries) == 1:
            raise ZeroDivisionError
        del shop.book.due_at_ms[thing.id]

    async with workshop(work=work, rest_seconds=0.05, book=Book({"bad": 0}), clock=clock) as shop:
        await shop.until(lambda: len(tries) == 1)
        clock.step_ms = -3_600_000

        await shop.until(lambda: len(tries) == 2)


async def test_work_that_leaves_its_due_time_as_it_is_does_not_spin() -> None:
    runs: list[str] = []

    async def idle(thing: Thing) -> None:
        runs.append(thing.id)

    async with workshop(work=idle, book=Book({"stuck": 0})) as shop:
        await asyncio.sleep(0.1)

        assert len(runs) <= 2
        assert shop.book.looks <= 3


async def test_a_store_that_fails_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.jobs.scheduler.STORE_RETRY_SECONDS", 0.02)
    async with workshop(book=Book({"thing": 0}, fault=StoreUnavailableError("disk full"))) as shop:
        await asyncio.sleep(0.05)
        assert shop.done == []
        shop.book.fault = None

        await shop.until(lambda: shop.done == ["thing"])
        assert shop.deaths == []


async def test_a_bug_of_its_own_is_its_death_and_is_told() -> None:
    bug = ZeroDivisionError()

    async with workshop(book=Book(fault=bug)) as shop:
        await shop.until(lambda: bool(shop.deaths))

        assert shop.deaths == [bug]


async def test_closing_cancels_what_runs_and_is_no_death() -> None:
    async with workshop() as shop:
        shop.hold.clear()
        shop.plan("endless")
        await shop.until(lambda: shop.running == 1)

    assert (shop.running, shop.done, shop.deaths) == (0, [], [])


async def test_a_job_runs_every_so_often_and_survives_its_own_failures() -> None:
    runs = 0
    enough = asyncio.Event()

    async def job() -> None:
        nonlocal runs
        runs += 1
        if runs == 4:
            enough.set()
        if runs % 2:
            raise ZeroDivisionError

    deaths: list[BaseException | None] = []
    scheduler = Scheduler(deaths.append)
    scheduler.every(0.01, job, "job")
    async with asyncio.timeout(10):
        await enough.wait()
    await scheduler.close()

    assert runs >= 4
    assert deaths == []


async def test_what_ends_while_it_is_read_as_due_is_not_done_again() -> None:
    async with workshop() as shop:
        shop.hold.clear()
        shop.plan("one")
        await shop.until(lambda: shop.running == 1)

        async def let_it_end() -> None:
            shop.book.due_read = None
            shop.hold.set()
            await shop.until(lambda: shop.done == ["one"])
            await asyncio.sleep(0)

        shop.book.due_read = let_it_end
        looks = shop.book.looks
        shop.plan("two")
        await shop.until(lambda: "two" in shop.done)

        assert shop.begun == ["one", "two"]
        assert shop.book.looks > looks
        assert shop.deaths == []
