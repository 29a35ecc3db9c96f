"""A whole file of the version before limits, discounts, refunds and routes: brought up to date it says the same, and life goes on."""

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from proxy.core.days import CHINA, UTC
from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.store.contract import Store
from proxy.store.errors import SpendLimitError, StoreRefusedError
from proxy.store.sqlite import open_store
from proxy.store.values import Settled, Spent, StoredAnswer, UsageQuery
from tests.support import version_six
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, made, new_request, reference, settlement, submitted

LENGTHS = [2_000, pytest.param(100_000, marks=pytest.mark.long)]
SUMS = {
    "model": "model",
    "key": "coalesce(key_id, '')",
    "day": "date({day} * 86400, 'unixepoch')",
}


def cost(requests: int, account: int, key: int | None = None) -> int:
    """Return what the settled requests of an account, or of its key, have cost in nano-yuan."""
    its = [n for n in range(requests) if n % 4 == account and n % 50 > 1]
    return 30 * len([n for n in its if key is None or (n % 7 and n % 2 == key)])


def sums_of(path: Path, by: str) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Return requests, charges and prompt tokens by account and group, as plain SQL finds them in a file of version 6."""
    of = SUMS[by]
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"""
            SELECT name, of, sum(requests), sum(charge), sum(tokens) FROM (
              SELECT account_id, {of.format(day="(created_at_ms / 86400000)")} AS of, 1 AS requests, charge_nanos AS charge,
                prompt_tokens AS tokens FROM requests WHERE settled_at_ms IS NOT NULL
              UNION ALL SELECT account_id, {of.format(day="day")}, requests, charge_nanos, prompt_tokens FROM request_days)
            JOIN accounts ON accounts.id = account_id GROUP BY 1, 2""")
        return {(name, group): (requests, charge, tokens) for name, group, requests, charge, tokens in rows}


async def said(store: Store, by: str) -> dict[tuple[str, str], tuple[int, int, int]]:
    rows = await store.usage(UsageQuery(by))  # type: ignore[arg-type]
    return {(row.account, row.group): (row.requests, row.charge_nanos, row.prompt_tokens) for row in rows}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("requests", LENGTHS)
async def test_the_books_say_what_they_said_and_life_goes_on(tmp_path: Path, requests: int) -> None:
    path = tmp_path / "books.db"
    version_six.write(path, requests)
    before = {by: sums_of(path, by) for by in SUMS}
    began = time.perf_counter()

    async with opened(path) as store:
        print(f"{requests} requests: opened in {time.perf_counter() - began:.2f} s")
        await assert_books_balance(store)
        assert {by: await said(store, by) for by in SUMS} == before
        await what_is_under_way_is_there(store, requests)
        await what_is_under_way_ends(store)
        await first_limits_count_it_all(store, requests)
        await it_is_refunded_folded_and_closed(store, requests)
        await assert_books_balance(store)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = await open_store(path, zone=UTC)
    try:
        yield store
    finally:
        await store.close()


async def what_is_under_way_is_there(store: Store, requests: int) -> None:
    accounts = await store.accounts()
    assert [account.held_nanos for account in accounts] == [6 * 100 + held for held in (70, 70, 0, 70)]  # the videos
    assert [account.balance_nanos for account in accounts] == [
        version_six.CREDIT_NANOS - cost(requests, account) - (70 if account == 1 else 0) for account in range(4)
    ]
    assert [(account.discount, account.limits, account.closed_at_ms) for account in accounts] == [(10_000, None, None)] * 4
    assert len(await store.orphaned_requests()) == version_six.OPEN + 3
    assert {task.id for task in await store.orphaned_tasks()} == {"video_pending", "video_processing", "video_submitting"}
    assert {grant.key_id for grant in await store.grants()} == {f"key_{account}_{key}" for account in range(4) for key in (0, 1)}
    answered = requests - 95  # the last that was claimed
    name = f"req_{answered:08d}"
    found = await store.receipt(name)
    assert found is not None
    assert (found[0].request.key_name, found[0].refunded_nanos) == ("", 0)
    claimed = await store.claimed_key(3 + answered % 4, f"answered-{name}", found[0].request.created_at_ms + 1000)
    assert claimed is not None
    assert (claimed.request_id, claimed.answer) == (name, StoredAnswer(200, b'{"answer":1}'))
    waiting = await store.claimed_key(3 + 20 % 4, "open-open_20", NOW_MS)
    assert waiting is not None
    assert (waiting.request_id, waiting.answer) == ("open_20", None)
    folded = await store.folded("req_00000002")
    assert folded is not None
    assert (folded.account, folded.charge_nanos) == ("acme_2", 30)


async def what_is_under_way_ends(store: Store) -> None:
    for number in range(version_six.OPEN):
        answer = StoredAnswer(200, b"{}") if number >= 16 else None
        assert await store.settle(f"open_{number}", settlement(7), NOW_MS, answer) is Settled.NOW
    for name in ("video_pending", "video_processing"):
        await store.advance_task(name, made(), NOW_MS)
    await store.advance_task("video_submitting", submitted("cgt-found"), NOW_MS)
    await store.advance_task("video_submitting", made(), NOW_MS)
    assert [account.held_nanos for account in await store.accounts()] == [0] * 4
    await assert_books_balance(store)


async def first_limits_count_it_all(store: Store, requests: int) -> None:
    """All requests, the folded ones too: of account 0 six that were open, and the video that is fourth."""
    spent = cost(requests, 0) + 6 * 7 + 70
    of_key = cost(requests, 0, key=0) + 6 * 7
    await store.set_account_limits("acme_0", LimitsChange(total_nanos=Nanos(spent + 100)), NOW_MS)
    await store.set_key_limits("key_0_0", LimitsChange(total_nanos=Nanos(10**9)), NOW_MS)

    assert [(use.identity, use.total) for use in await store.key_use(NOW_MS)] == [
        ("", Spent(Nanos(spent), Nanos(0))),
        ("key_0_0", Spent(Nanos(of_key), Nanos(0))),
    ]
    with pytest.raises(SpendLimitError):
        await store.place_hold(new_request("much", account_id=3, hold_nanos=101))
    await store.place_hold(new_request("fits", account_id=3, hold_nanos=100, key_id="key_0_0"))
    await store.settle("fits", settlement(99), NOW_MS)


async def it_is_refunded_folded_and_closed(store: Store, requests: int) -> None:
    last = f"req_{requests - 1:08d}"  # the last one, of acme_3
    for number, name in enumerate(("req_00000002", last)):  # the first is folded
        await store.refund_request(name, Nanos(10), "", NOW_MS, reference(f"refund {number}"))
    refunds = {row.account: row.refunded_nanos for row in await store.usage(UsageQuery("day")) if row.refunded_nanos}
    assert refunds == {"acme_2": 10, "acme_3": 10}
    before_ms = version_six.BEGIN_MS + (version_six.FOLDED_DAYS + 1) * version_six.DAY_MS
    sums = await said(store, "key")
    while await store.fold_requests(3, before_ms):
        pass
    assert await said(store, "key") == sums
    await store.set_discount("acme_1", 8_500)
    closed = await store.close_account("acme_3", NOW_MS)
    assert closed.closed_at_ms == NOW_MS
    task = await store.task("video_made")
    assert task is not None
    assert task.prompt == "a cat"  # of acme_1


async def test_days_that_are_folded_by_utc_are_not_read_by_another_clock(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    version_six.write(path, 500)

    with pytest.raises(StoreRefusedError, match=r'set billing\.time_zone = "\+00:00"'):
        await open_store(path, zone=CHINA)

    async with opened(path) as store:
        await assert_books_balance(store)
