"""What a first money limit counts, while other nodes write: each movement once, and none is held up for it."""

import asyncio

import pytest

from proxy.core.days import CHINA
from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS
from proxy.store.contract import Store
from proxy.store.postgres import PostgresStore, admin, batch, counting
from proxy.store.postgres.connection import Connection
from proxy.store.values import Account, KeyUse, Spent
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_key, new_request, pay, settlement
from tests.unit.store.postgres.conftest import Opens, until

OLD_MS = CHINA.begins_ms(CHINA.day(NOW_MS) - 40)
LIMIT = LimitsChange(total_nanos=Nanos(500))
NO_LIMIT = LimitsChange(total_nanos=None)
COUNTS = "EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%node_writes%FOR SHARE%')"


def total(account: str, identity: str, spent: int, held: int) -> KeyUse:
    return KeyUse(account, identity, None, None, Spent(Nanos(spent), Nanos(held)))


@pytest.mark.parametrize("of_account", [True, False])
async def test_a_hold_that_is_committed_after_newer_ones_is_counted_and_holds_nobody_up(
    opens: Opens, store: PostgresStore, alice: Account, sql: Connection, writing: Connection, *, of_account: bool
) -> None:
    other = await opens(beat_seconds=3600)
    assert other.node is not None
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    await store.create_key("alice", new_key())
    row = batch.hold_row(new_request("late", account_id=alice.id, key_id="key_1", hold_nanos=40))
    await writing.execute("BEGIN")
    await writing.fetchrow(batch.BOOK, other.node.id, 1000, False, False, *batch.arguments([row], []))
    await store.place_hold(new_request("newer", account_id=bob.id))

    limited = store.set_account_limits("alice", LIMIT, NOW_MS) if of_account else store.set_key_limits("key_1", LIMIT, NOW_MS)
    await until(COUNTS, sql)
    await store.place_hold(new_request("meanwhile", account_id=bob.id))
    assert not limited.done()
    await writing.execute("COMMIT")
    await limited

    assert await store.key_use(NOW_MS) == [total("alice", "" if of_account else "key_1", 0, 40)]
    await assert_books_balance(store)


async def test_a_request_that_was_settled_and_folded_since_it_was_counted_is_counted_once(
    store: PostgresStore, alice: Account, sql: Connection
) -> None:
    """Its key is not known any more: what is left of it is a hold and a charge of its account."""
    for key_id in ("key_1", "key_2"):
        await store.create_key("alice", new_key(key_id))
        await store.place_hold(new_request(f"of_{key_id}", account_id=alice.id, key_id=key_id, created_at_ms=OLD_MS))
    counted = (await counting.first_of_key(sql, "key_1"), await counting.first_of_account(sql, "alice"))
    for key_id, charge in (("key_1", 7), ("key_2", 11)):
        await store.settle(f"of_{key_id}", settlement(charge), NOW_MS)
    assert await store.fold_requests(alice.id, OLD_MS + DAY_MS) == 2

    async with sql.transaction():
        await admin.set_account_limits(sql, "alice", LIMIT, NOW_MS, counted[1])
        await admin.set_key_limits(sql, "key_1", LIMIT, NOW_MS, counted[0])

    assert None not in counted
    assert await store.key_use(NOW_MS) == [total("alice", "", 18, 0), total("alice", "key_1", 7, 0)]
    await assert_books_balance(store)


async def test_a_count_goes_on_until_little_is_left_for_the_transaction_of_the_limit(
    store: PostgresStore, alice: Account, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held and settled during each count is counted by the next: 3, 2 and 1 requests, of 7 each."""
    monkeypatch.setattr(counting, "REST_TRANSFERS_MAX", 2)
    coming = [3, 2, 1]
    settled_until = counting._settled_until

    async def busy(connection: Connection) -> int:
        newest_id = await settled_until(connection)
        if coming:
            for number in range(count := coming.pop(0)):
                await pay(store, new_request(f"{count}_{number}", account_id=alice.id), settlement(7))
        return newest_id

    monkeypatch.setattr(counting, "_settled_until", busy)

    counted = await counting.first_of_account(sql, "alice")

    assert counted is not None
    assert counted.days == {CHINA.day(NOW_MS): (5 * 7, 0)}
    assert await sql.fetchval("SELECT count(*) FROM transfers WHERE id > $1", counted.until_id) == 2
    async with sql.transaction():
        await admin.set_account_limits(sql, "alice", LIMIT, NOW_MS, counted)
    assert await store.key_use(NOW_MS) == [total("alice", "", 6 * 7, 0)]
    await assert_books_balance(store)


async def test_limits_that_come_and_go_amid_calls_and_folding_say_what_the_books_say_all_the_time(
    opens: Opens, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes hold and settle requests of several days and keys, and fold them, while first limits are set on both."""
    monkeypatch.setattr(counting, "REST_TRANSFERS_MAX", 4)
    nodes: list[Store] = [store, await opens()]
    alice = await store.create_account("alice", Nanos(10**9), NOW_MS)
    for number in range(3):
        await store.create_key("alice", new_key(f"key_{number}"))
    is_over = asyncio.Event()

    async def calls(caller: int) -> None:
        node, number = nodes[caller % 2], 0
        while not is_over.is_set():
            number += 1
            day_ms = OLD_MS + number % 4 * DAY_MS
            request = new_request(
                f"{caller}_{number}", account_id=alice.id, key_id=f"key_{number % 3}", hold_nanos=9, created_at_ms=day_ms
            )
            await node.place_hold(request)
            if number % 5:
                await node.settle(request.id, settlement(number % 7), NOW_MS)

    async def fold(node: Store) -> None:
        while not is_over.is_set():
            await node.fold_requests(alice.id, OLD_MS + 2 * DAY_MS)

    much = LimitsChange(total_nanos=Nanos(10**12))
    async with asyncio.TaskGroup() as group:
        for caller in range(6):
            group.create_task(calls(caller))
        group.create_task(fold(nodes[1]))
        for turn in range(8):
            node = nodes[turn % 2]
            await asyncio.gather(node.set_account_limits("alice", much, NOW_MS), nodes[0].set_key_limits("key_1", much, NOW_MS))
            await assert_books_balance(store)
            await asyncio.gather(node.set_account_limits("alice", NO_LIMIT, NOW_MS), node.set_key_limits("key_1", NO_LIMIT, NOW_MS))
        is_over.set()

    await assert_books_balance(store)
