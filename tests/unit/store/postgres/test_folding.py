"""Folding and forgetting by several nodes: each row is one node's, and the sums are those of all."""

import asyncio

import pytest

from proxy.core.days import CHINA
from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS
from proxy.store.contract import CLAIM_LIFE_MS, FOLD_REQUESTS_MAX
from proxy.store.postgres import PostgresStore, folding
from proxy.store.postgres.connection import Connection
from proxy.store.postgres.session import LOCK_SECONDS
from proxy.store.values import Account, StoredAnswer, UsageQuery
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_claim, new_request, pay, reference, settlement
from tests.unit.store.postgres.conftest import Opens, until

DAY_1 = CHINA.begins_ms(CHINA.day(NOW_MS))
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FROM accounts%'"
DAY_2, DAY_3 = DAY_1 + DAY_MS, DAY_1 + 2 * DAY_MS


async def test_nodes_that_fold_one_account_at_once_fold_each_request_once(opens: Opens, store: PostgresStore, alice: Account) -> None:
    nodes = [store, await opens(), await opens()]
    count = 2 * FOLD_REQUESTS_MAX + 30
    requests = [
        new_request(f"req_{n}", account_id=alice.id, hold_nanos=1, model=f"model {n % 5}", created_at_ms=(DAY_1, DAY_2)[n % 2] + n)
        for n in range(count)
    ]
    await asyncio.gather(*(pay(store, request, settlement(1)) for request in requests))
    sums = [await store.usage(UsageQuery(by)) for by in ("model", "day")]

    folded = 0
    while step := sum(await asyncio.gather(*(node.fold_requests(alice.id, DAY_3) for node in nodes))):
        folded += step

    assert folded == count
    assert [await store.usage(UsageQuery(by)) for by in ("model", "day")] == sums
    assert (await store.account("alice")).balance_nanos == 1000 - count
    await assert_books_balance(store)


async def test_what_one_node_gives_back_while_another_folds_is_in_the_sums_once(
    opens: Opens, store: PostgresStore, alice: Account
) -> None:
    other = await opens()
    names = [f"req_{n:03}" for n in range(120)]
    requests = [new_request(name, account_id=alice.id, hold_nanos=2, created_at_ms=DAY_1) for name in names]
    await asyncio.gather(*(pay(store, request, settlement(2)) for request in requests))

    async def fold_all() -> int:
        folded = 0
        while folded < len(names):
            folded += await store.fold_requests(alice.id, DAY_2)
        return folded

    async def give_back() -> None:
        for name in names:
            await other.refund_request(name, Nanos(1), "", NOW_MS, reference(name))

    folded, _ = await asyncio.gather(fold_all(), give_back())

    (row,) = await store.usage(UsageQuery("day"))
    assert (folded, row.requests, row.charge_nanos, row.refunded_nanos) == (120, 120, 240, 120)
    assert (await store.account("alice")).balance_nanos == 1000 - 120
    await assert_books_balance(store)


async def test_a_request_that_is_being_refunded_is_folded_later(
    opens: Opens, store: PostgresStore, alice: Account, sql: Connection
) -> None:
    other = await opens()
    await pay(store, new_request("req_1", account_id=alice.id, created_at_ms=DAY_1), settlement(2))

    await sql.execute("BEGIN")
    await sql.execute("SELECT 1 FROM accounts WHERE name = 'alice' FOR NO KEY UPDATE")
    refund = store.refund_request("req_1", None, "", NOW_MS, reference())
    async with asyncio.timeout(30):
        while not await sql.fetchval(_WAITING):
            await sql.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0.01)
    meanwhile = await other.fold_requests(alice.id, DAY_2)
    await sql.execute("COMMIT")

    assert (await refund).is_new
    assert (meanwhile, await other.fold_requests(alice.id, DAY_2)) == (0, 1)
    await assert_books_balance(store)


@pytest.mark.parametrize("what", ["requests", "claims"])
async def test_rows_that_another_node_has_under_its_hands_are_left_to_it(
    store: PostgresStore, alice: Account, sql: Connection, what: str
) -> None:
    for name in ("req_1", "req_2"):
        claim = new_claim(name) if what == "claims" else None
        await store.place_hold(new_request(name, account_id=alice.id, created_at_ms=DAY_1, claim=claim))
        await store.settle(name, settlement(Nanos(1)), DAY_1, StoredAnswer(200, b"{}"))

    async def tidy() -> int:
        return await (store.forget_claims(DAY_1 + CLAIM_LIFE_MS) if what == "claims" else store.fold_requests(alice.id, DAY_2))

    locked = {"requests": "requests WHERE id", "claims": "idempotency WHERE request_id"}[what]
    await sql.execute("BEGIN")
    await sql.execute(f"SELECT 1 FROM {locked} = 'req_1' FOR UPDATE")
    async with asyncio.timeout(LOCK_SECONDS):
        meanwhile = await tidy()
    await sql.execute("COMMIT")

    assert (meanwhile, await tidy(), await tidy()) == (1, 1, 0)
    await assert_books_balance(store)


async def test_a_refund_of_a_request_that_is_being_folded_waits_and_is_in_its_days_sums(
    store: PostgresStore, alice: Account, sql: Connection, writing: Connection
) -> None:
    await pay(store, new_request("req_1", account_id=alice.id, created_at_ms=DAY_1), settlement(7))
    await writing.execute("BEGIN")
    assert await folding.fold(writing, alice.id, DAY_2, CHINA) == 1

    refunded = store.refund_request("req_1", Nanos(3), "", NOW_MS, reference())
    await until("EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR KEY SHARE%')", sql)
    assert not refunded.done()
    await writing.execute("COMMIT")

    assert (await refunded).is_new
    assert [(row.group, row.refunded_nanos) for row in await store.usage(UsageQuery("model"))] == [("", 3), ("doubao-pro-32k", 0)]
    await assert_books_balance(store)
