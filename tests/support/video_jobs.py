"""A store with an account, and what moves its video tasks, by a clock that a test sets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import new_task
from proxy.core.video.report import Report
from proxy.core.video.request import VideoCall
from proxy.store.contract import Store
from proxy.store.sqlite import open_store
from proxy.store.values import NewRequest
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing
from proxy.videos.calls import VideoCalls
from proxy.videos.tasks import VideoJobs
from tests.support.books import assert_books_balance
from tests.support.settings import live

MINUTE_MS = 60_000
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
    """Video jobs without a gateway around them."""

    store: Store
    clock: Clock
    jobs: VideoJobs
    account_id: int

    async def task(self, task_id: str, *reports: Report) -> None:
        """Record a task, and what was seen of it."""
        request = NewRequest(task_id, Kind.VIDEO, self.account_id, "", "m", "ark", "m-1", False, HOLD, "{}", self.clock.now_ms())
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


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[House]:
    """Open a house; its books are checked at the end."""
    store = await open_store(folder / "house.db")
    clock, metrics = Clock(), Metrics()
    account = await store.create_account("acme", CREDIT, START_MS)
    jobs = VideoJobs(
        store=store,
        calls=VideoCalls(live(), metrics, Routing(clock)),
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
