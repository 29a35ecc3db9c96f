"""The sweep ends what nothing else can end, and nothing else; retention forgets keys whose time is over."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome, Settlement, UsageSource
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import new_task
from proxy.core.video.report import Polled, Report, Submitted, SubmitUnknown
from proxy.core.video.request import VideoCall
from proxy.core.video.task import Pace
from proxy.jobs.forget_keys import ForgetKeys
from proxy.store.contract import Store
from proxy.store.sqlite import open_store
from proxy.store.values import IdempotencyClaim, NewRequest, StoredAnswer
from proxy.telemetry.metrics import Metrics
from proxy.videos.calls import VideoCalls
from proxy.videos.poll import DueVideos
from proxy.videos.sweep import OverdueTasks
from proxy.videos.tasks import VideoJobs
from tests.support.books import assert_books_balance
from tests.support.settings import live

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
START_MS = 1_764_000_000_000
CREDIT = Nanos(10_000_000_000)
HOLD = Nanos(864_000_000)


@dataclass
class Clock:
    """Time by hand."""

    at_ms: int = START_MS

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic(self) -> float:
        return self.at_ms / 1000


@dataclass
class House:
    store: Store
    clock: Clock
    jobs: VideoJobs
    account_id: int

    def request(self, request_id: str, kind: Kind, claim: IdempotencyClaim | None = None) -> NewRequest:
        return NewRequest(
            request_id, kind, self.account_id, "", "m", "ark", "m-1", False, HOLD, "{}", self.clock.now_ms(), claim
        )  # fmt: skip

    async def task(self, task_id: str, *reports: Report) -> None:
        """Record a task, and what was seen of it."""
        request = self.request(task_id, Kind.VIDEO)
        task = new_task(
            request_id=task_id,
            account_id=self.account_id,
            model="m",
            upstream="ark",
            upstream_model="m-1",
            call=VideoCall("a cat"),
            safety_identifier="somebody",
            billing=VideoBilling.FORMULA,
            hold_nanos=HOLD,
            quote_nanos=HOLD,
            rate_nanos_per_kilotoken=8_000_000,
            now_ms=self.clock.now_ms(),
        )
        await self.store.place_task(request, task, self.clock.now_ms() + MINUTE_MS)
        for report in reports:
            await self.jobs.advance(task_id, report)

    async def sweep(self, after_ms: int) -> dict[str, str]:
        """Sweep at a time after the start; return the state of each task then."""
        self.clock.at_ms = START_MS + after_ms
        await OverdueTasks(self.store, self.jobs, self.clock)()
        return {task.id: task.state.value for task in await self.store.tasks(self.account_id, 100, 0)}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    store = await open_store(tmp_path / "house.db")
    clock, metrics = Clock(), Metrics()
    account = await store.create_account("acme", CREDIT, START_MS)
    jobs = VideoJobs(
        store=store,
        calls=VideoCalls(live(), metrics),
        live=live(),
        clock=clock,
        metrics=metrics,
        jitter=lambda: 0.0,
        expect=lambda *_: None,
    )
    try:
        yield House(store, clock, jobs, account.id)
        await assert_books_balance(store)
    finally:
        await store.close()


async def test_a_task_is_swept_once_its_upstream_has_forgotten_it(house: House) -> None:
    await house.task("queued", Submitted("cgt-1"))
    await house.task("running", Submitted("cgt-2"), Polled("running"))

    # Ark gives a task up after 2 days, but may still say on the seventh what became of it.
    assert await house.sweep(3 * DAY_MS) == {"queued": "pending", "running": "processing"}
    assert await house.sweep(7 * DAY_MS - 1) == {"queued": "pending", "running": "processing"}
    assert await house.sweep(7 * DAY_MS) == {"queued": "failed", "running": "failed"}
    account = await house.store.account_by_id(house.account_id)
    assert (account.balance_nanos, account.held_nanos) == (CREDIT, 0)


async def test_a_lost_submit_is_swept_after_six_hours_of_looking(house: House) -> None:
    await house.task("lost", SubmitUnknown("no answer"))

    assert await house.sweep(6 * HOUR_MS - 1) == {"lost": "submitting"}
    assert await house.sweep(6 * HOUR_MS) == {"lost": "failed"}
    assert (await house.store.account_by_id(house.account_id)).held_nanos == 0


async def test_a_submit_without_a_word_is_first_looked_for(house: House) -> None:
    await house.task("mute")

    assert await house.sweep(10 * MINUTE_MS - 1) == {"mute": "submitting"}
    fresh = await house.store.task("mute")
    assert await house.sweep(10 * MINUTE_MS) == {"mute": "submitting"}
    swept = await house.store.task("mute")
    assert await house.sweep(10 * MINUTE_MS + 6 * HOUR_MS) == {"mute": "failed"}

    assert fresh is not None
    assert fresh.lost_at_ms is None
    assert swept is not None
    assert swept.lost_at_ms == START_MS + 10 * MINUTE_MS


async def test_what_is_due_later_than_anything_is_put_off_is_due_now(house: House) -> None:
    """The clock was set back: 3 s to the first poll, and nothing waits for longer than 5 minutes (a Retry-After) and 1 to spare."""
    await house.task("soon", Submitted("cgt-1"))
    due = DueVideos(house.store, "ark", live())

    async def due_at(time_ms: int, limit: int = 10) -> list[str]:
        return [task.id for task in await due.due(START_MS + time_ms, limit)]

    longest_ms = 6 * MINUTE_MS
    assert await due_at(0) == []
    assert await due_at(3_000) == ["soon"]
    assert await due_at(3_000 - longest_ms) == []
    assert await due_at(3_000 - longest_ms - 1) == ["soon"]
    assert await due_at(-HOUR_MS, limit=0) == []
    house.clock.at_ms -= HOUR_MS
    await house.jobs.advance("soon", Polled("running"))
    assert await due_at(-HOUR_MS) == []
    slow = DueVideos(house.store, "ark", live(pace=Pace(first_ms=3_000, longest_ms=HOUR_MS)))  # 4 h for flex
    assert await slow.due(START_MS - 4 * HOUR_MS, 10) == []


async def test_retention_forgets_keys_after_a_day_and_keeps_the_books(house: House) -> None:
    for number in range(3):
        claim = IdempotencyClaim(f"key-{number}", bytes(32))
        await house.store.place_hold(house.request(f"img-{number}", Kind.IMAGE, claim))
    done = Settlement(Outcome.COMPLETE, UsageSource.REPORTED, HOLD, units=1)
    for number in range(2):
        await house.store.settle(f"img-{number}", done, START_MS, StoredAnswer(200, b"{}"))

    async def kept_after(after_ms: int) -> list[bool]:
        house.clock.at_ms = START_MS + after_ms
        await ForgetKeys(house.store, house.clock)()
        # Asked as of the start, so that what is found is what is still there.
        return [await house.store.claimed_key(house.account_id, f"key-{number}", START_MS) is not None for number in range(3)]

    assert await kept_after(DAY_MS - 1) == [True, True, True]
    assert await kept_after(DAY_MS + 1) == [False, False, True]  # the last one's request is not settled
    await house.store.settle("img-2", done, START_MS)
