"""Idempotency keys are forgotten once their day is over, and the books stay as they are."""

from pathlib import Path

from proxy.core.retention import DAY_MS
from proxy.jobs.forget_keys import ForgetKeys
from proxy.store.sqlite import open_store
from proxy.store.values import StoredAnswer
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_claim, new_request, settlement
from tests.support.video_jobs import Clock


async def test_a_key_is_forgotten_after_a_day_unless_its_request_is_open(tmp_path: Path) -> None:
    store, clock = await open_store(tmp_path / "books.db"), Clock()
    account = await store.create_account("acme", settlement(1_000).charge_nanos, NOW_MS)
    for number in range(3):
        await store.place_hold(new_request(f"req_{number}", account_id=account.id, claim=new_claim(f"key-{number}")))
    for number in range(2):
        await store.settle(f"req_{number}", settlement(7), NOW_MS, StoredAnswer(200, b"{}"))

    async def kept_after(after_ms: int) -> list[bool]:
        clock.at_ms = NOW_MS + after_ms
        await ForgetKeys(store, clock)()
        # Asked as of the start, so that what is found is what is still there.
        return [await store.claimed_key(account.id, f"key-{number}", NOW_MS) is not None for number in range(3)]

    assert await kept_after(DAY_MS - 1) == [True, True, True]
    assert await kept_after(DAY_MS + 1) == [False, False, True]  # the last one's request is not settled
    await store.settle("req_2", settlement(7), NOW_MS)
    await assert_books_balance(store)
    await store.close()
