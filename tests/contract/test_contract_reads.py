"""Receipts, usage and the audit, through the contract alone."""

import asyncio

import pytest

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome, Settlement, TokenUsage, UsageSource
from proxy.core.video.record import TaskState
from proxy.store.contract import Store
from proxy.store.errors import AccountNotFoundError
from proxy.store.values import Account, Census, OpenTasks, Receipt, UsageQuery, UsageRow
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_key, new_request, new_video, settlement, submitted, task_of

DAY_MS = 86_400_000


async def used(store: Store, request_id: str, account: Account, charge: int, **request: object) -> None:
    """Place a hold of 100 and settle it with 10 prompt tokens, 4 of them cached, and 3 completion tokens."""
    await store.place_hold(new_request(request_id, account_id=account.id, hold_nanos=100, **request))  # type: ignore[arg-type]
    await store.settle(request_id, settlement(charge, usage=TokenUsage(10, 3, cached_tokens=4)), NOW_MS + 3 * DAY_MS)


async def test_a_receipt_says_all_that_is_known_of_a_request(store: Store, alice: Account) -> None:
    await store.create_key("alice", new_key())
    request = new_request(account_id=alice.id, hold_nanos=900, kind=Kind.IMAGE, key_id="key_1", stream=True)
    ending = Settlement(
        outcome=Outcome.UPSTREAM_CUT,
        usage_source=UsageSource.ESTIMATED,
        charge_nanos=Nanos(900),
        usage=TokenUsage(11, 12, cached_tokens=5, reasoning_tokens=7),
        units=2,
        shortfall_nanos=Nanos(33),
        http_status=200,
        upstream_id="02176",
        first_byte_ms=210,
        total_ms=None,
        note="idle for 60 s",
    )

    await store.place_hold(request)
    pending = await store.receipt("req_1")
    await store.settle("req_1", ending, NOW_MS + 7)
    settled = await store.receipt("req_1")

    assert pending == (Receipt(request, "alice", None, None), alice.id)
    assert settled == (Receipt(request, "alice", ending, NOW_MS + 7), alice.id)
    await assert_books_balance(store)


async def test_a_census_counts_what_is_open_and_nothing_that_has_ended(store: Store, alice: Account) -> None:
    empty = await store.census()
    await used(store, "req_0", alice, 40)
    await store.place_hold(new_request("req_1", account_id=alice.id, hold_nanos=100, created_at_ms=NOW_MS - 9_000))
    await store.place_hold(new_request("req_2", account_id=alice.id, hold_nanos=200, kind=Kind.IMAGE))
    for name, due_at_ms in (("vreq_1", NOW_MS + 5), ("vreq_2", NOW_MS + 3), ("vreq_3", NOW_MS + 4)):
        video = new_video(name, account_id=alice.id, hold_nanos=50, created_at_ms=NOW_MS - 60_000)  # older, but a video
        await store.place_task(video, task_of(video), due_at_ms)
    await store.advance_task("vreq_3", submitted("cgt-3"), NOW_MS)  # due in 3 s

    census = await store.census()

    assert empty == Census(Nanos(0), 0, None, [])
    assert (census.held_nanos, census.holds, census.oldest_hold_at_ms) == (100 + 200 + 3 * 50, 5, NOW_MS - 9_000)
    assert sorted(census.tasks, key=str) == [
        OpenTasks("ark", TaskState.PENDING, 1, NOW_MS + 3_000),
        OpenTasks("ark", TaskState.SUBMITTING, 2, NOW_MS + 3),
    ]
    await assert_books_balance(store)


@pytest.mark.parametrize("writes", [0, 40])
async def test_a_turn_of_the_writer_comes_and_ends_idle_or_not(store: Store, alice: Account, writes: int) -> None:
    """The watchdog's beat waits for it: one that never ended would end a gateway that works."""
    holds = [store.place_hold(new_request(f"req_{number}", account_id=alice.id, hold_nanos=1)) for number in range(writes)]

    async with asyncio.timeout(20):
        await store.turn()
        await asyncio.gather(*holds)
        await store.turn()

    await assert_books_balance(store)


async def test_what_waits_to_be_written_is_told_until_it_is(store: Store, alice: Account) -> None:
    writes = [store.place_hold(new_request(f"req_{number}", account_id=alice.id, hold_nanos=1)) for number in range(3)]
    waiting = store.backlog
    await asyncio.gather(*writes)

    assert (waiting.waiting, store.backlog.waiting, store.backlog.failures) == (3, 0, 0)


async def test_a_request_that_never_was_has_no_receipt(store: Store) -> None:
    assert await store.receipt("req_9") is None


async def test_usage_sums_what_was_settled_by_model(store: Store, alice: Account) -> None:
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    await used(store, "req_1", alice, 40, model="lite")
    await used(store, "req_2", alice, 50, model="lite")
    await used(store, "req_3", alice, 60, model="pro")
    await used(store, "req_4", bob, 70, model="pro")
    await store.place_hold(new_request("req_5", account_id=alice.id, model="pro"))  # open: not yet used

    rows = await store.usage(UsageQuery(by="model"))

    assert rows == [
        UsageRow("alice", "lite", 2, 20, 8, 6, 0, Nanos(90), Nanos(0), 0),
        UsageRow("alice", "pro", 1, 10, 4, 3, 0, Nanos(60), Nanos(0), 0),
        UsageRow("bob", "pro", 1, 10, 4, 3, 0, Nanos(70), Nanos(0), 0),
    ]
    assert await store.usage(UsageQuery(by="model", account="bob")) == rows[2:]
    await assert_books_balance(store)


async def test_usage_by_day_counts_the_day_of_the_request_in_the_ledgers_time_zone(store: Store, alice: Account) -> None:
    midnight_ms = NOW_MS  # 2025-11-25T00:00:00+08:00
    await used(store, "req_1", alice, 1, created_at_ms=midnight_ms - 1)
    await used(store, "req_2", alice, 2, created_at_ms=midnight_ms)
    await used(store, "req_3", alice, 4, created_at_ms=midnight_ms + DAY_MS)

    rows = await store.usage(UsageQuery(by="day"))
    one_day = await store.usage(UsageQuery(by="day", since_ms=midnight_ms, until_ms=midnight_ms + DAY_MS))

    assert [(row.group, row.charge_nanos) for row in rows] == [("2025-11-24", 1), ("2025-11-25", 2), ("2025-11-26", 4)]
    assert [(row.group, row.charge_nanos) for row in one_day] == [("2025-11-25", 2)]
    await assert_books_balance(store)


async def test_usage_by_key_tells_estimates_units_and_shortfalls(store: Store, alice: Account) -> None:
    await store.create_key("alice", new_key())
    await used(store, "req_1", alice, 1)
    await store.place_hold(new_request("req_2", account_id=alice.id, hold_nanos=100, key_id="key_1"))
    await store.settle("req_2", settlement(100, usage_source=UsageSource.ESTIMATED, units=3, shortfall_nanos=9), NOW_MS)

    rows = await store.usage(UsageQuery(by="key"))

    assert [(row.group, row.requests, row.units, row.shortfall_nanos, row.estimated) for row in rows] == [
        ("", 1, 0, 0, 0),
        ("key_1", 1, 3, 9, 1),
    ]
    await assert_books_balance(store)


async def test_usage_of_nobody_is_refused_and_of_nothing_is_empty(store: Store, alice: Account) -> None:
    with pytest.raises(AccountNotFoundError, match="nobody"):
        await store.usage(UsageQuery(account="nobody"))

    assert await store.usage(UsageQuery(account="alice")) == []


async def test_the_audit_names_each_invariant_and_its_figures(store: Store, alice: Account) -> None:
    await used(store, "req_1", alice, 40)
    await store.place_hold(new_request("req_2", account_id=alice.id, hold_nanos=25))

    checks = {check.name: check for check in await store.verify()}

    assert checks["transfers sum to zero"].figures == "customers ¥0.00000096 + revenue ¥0.00000004 = cash ¥0.000001"
    assert checks["held = sum of open holds"].figures == "1 open holds, ¥0.000000025"
    assert checks["each settled request has one charge or release"].figures == "1 settled requests, ¥0.00000004 charged"
    assert len(checks) >= 8
    await assert_books_balance(store)


async def test_a_store_that_works_answers_a_ping(store: Store) -> None:
    await store.ping()
