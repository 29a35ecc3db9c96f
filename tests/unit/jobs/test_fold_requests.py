"""The job folds by `[retention]` alone: what is older than configured, and nothing younger."""

from pathlib import Path

from proxy.config import load
from proxy.core.days import CHINA
from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS, REQUEST_DAYS_MIN
from proxy.jobs.fold_requests import FoldRequests
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance
from tests.support.settings import CONFIGURATION, live
from tests.support.store import NOW_MS, new_request, pay, settlement
from tests.support.video_jobs import Clock

DAYS = REQUEST_DAYS_MIN


async def test_the_job_folds_what_is_older_than_configured_and_nothing_younger(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "books.db")
    account = await store.create_account("acme", Nanos(1_000), NOW_MS)
    for number in range(5):
        await pay(store, new_request(f"req_{number}", account_id=account.id), settlement(7), NOW_MS)

    async def left_after(clock_days: int, request_days: int) -> int:
        config = load(None, {**CONFIGURATION, "LLM_PROXY_RETENTION__REQUEST_DAYS": str(request_days)})
        await FoldRequests(store, Clock(NOW_MS + clock_days * DAY_MS), live(config), CHINA)()
        return sum((await store.old_requests(NOW_MS + DAY_MS)).values())

    assert await left_after(100, 0) == 5  # kept for ever
    assert await left_after(DAYS, DAYS) == 5  # the day is kept whole
    assert await left_after(DAYS + 1, DAYS) == 0
    await assert_books_balance(store)
    await store.close()
