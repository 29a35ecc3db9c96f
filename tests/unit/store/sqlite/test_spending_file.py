"""Money limits and the file: what an opening makes of another time zone, an older version, and ten thousand keys."""

import asyncio
import sqlite3
import time
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.core.days import CHINA, DAY_MS, UTC
from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.store.errors import SpendLimitError, StoreRefusedError
from proxy.store.sqlite import admin, counting, ledger, open_store
from proxy.store.sqlite.batch import OpenHolds
from proxy.store.sqlite.file import migrations
from proxy.store.sqlite.spending import DAYS_KEPT, Spending, adopt_zone
from proxy.store.sqlite.writer import _Operation, transact
from proxy.store.values import KeyUse, NewRequest, Spent
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, OWNER, new_key, new_request, pay, settlement

DAILY = LimitsChange(day_nanos=Nanos(500))
REQUESTS = 100_000
DAY_NANOS = 10**9


def day_of(spent: int, held: int) -> list[KeyUse]:
    return [KeyUse("alice", "", Spent(Nanos(spent), Nanos(held)), None, None)]


async def test_another_time_zone_counts_the_days_anew(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    store = await open_store(path, zone=CHINA)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.set_account_limits("alice", DAILY, NOW_MS)
    await pay(store, new_request("yesterday", account_id=alice.id, created_at_ms=NOW_MS - 1), settlement(7))
    await store.place_hold(new_request("today", account_id=alice.id))
    assert await store.key_use(NOW_MS) == day_of(0, 100)
    await store.close()

    store = await open_store(path, zone=UTC)  # of which NOW is the afternoon

    assert store.zone == UTC
    assert await store.key_use(NOW_MS) == day_of(7, 100)
    await assert_books_balance(store)
    reader = await open_store(path, read_only=True, zone=CHINA)
    assert (reader.zone, await reader.key_use(NOW_MS)) == (UTC, day_of(7, 100))
    await reader.close()
    with pytest.raises(SpendLimitError):
        await store.place_hold(new_request("more", account_id=alice.id, hold_nanos=394))
    await store.close()


async def test_a_request_that_was_settled_and_folded_since_it_was_counted_is_counted_once(tmp_path: Path) -> None:
    """Its key is not known any more: what is left of it is a hold and a charge of its account."""
    path, old_ms = tmp_path / "books.db", CHINA.begins_ms(CHINA.day(NOW_MS) - 40)
    store = await open_store(path)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    for key_id in ("key_1", "key_2"):
        await store.create_key("alice", new_key(key_id))
        await store.place_hold(new_request(f"of_{key_id}", account_id=alice.id, key_id=key_id, created_at_ms=old_ms))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        counted = (counting.first_of_key(reader, "key_1"), counting.first_of_account(reader, "alice"))
    for key_id, charge in (("key_1", 7), ("key_2", 11)):
        await store.settle(f"of_{key_id}", settlement(charge), NOW_MS)
    assert await store.fold_requests(alice.id, old_ms + DAY_MS) == 2
    await store.close()

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        open_holds = OpenHolds(OWNER, Spending.opened(connection, CHINA))
        change = LimitsChange(total_nanos=Nanos(500))
        operations = [
            _Operation(cast("Any", None), admin.set_key_limits, ("key_1", change, NOW_MS, open_holds.spending, counted[0])),
            _Operation(cast("Any", None), admin.set_account_limits, ("alice", change, NOW_MS, open_holds.spending, counted[1])),
        ]
        assert transact(connection, operations, open_holds) is None
        assert [operation.error for operation in operations] == [None, None]

    store = await open_store(path)
    assert await store.key_use(NOW_MS) == [
        KeyUse("alice", "", None, None, Spent(Nanos(18), Nanos(0))),
        KeyUse("alice", "key_1", None, None, Spent(Nanos(7), Nanos(0))),
    ]
    await assert_books_balance(store)
    await store.close()


async def test_a_first_limit_leaves_its_transaction_no_more_than_what_came_while_it_was_counted(tmp_path: Path) -> None:
    """2,000 requests are there, and 150 come afterwards: the transaction looks at the transfers of these alone."""
    path = tmp_path / "books.db"
    store = await open_store(path)
    alice = await store.create_account("alice", Nanos(10**9), NOW_MS)
    holds = [new_request(f"old_{number}", account_id=alice.id) for number in range(2_000)]
    await asyncio.gather(*(pay(store, hold, settlement(7)) for hold in holds))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        counted = counting.first_of_account(connection, "alice")
        assert counted is not None
        await asyncio.gather(*(pay(store, new_request(f"new_{number}", account_id=alice.id), settlement(3)) for number in range(150)))
        steps = []
        connection.set_progress_handler(lambda: steps.append(1), 100)
        rest = counting.count_rest(connection, counted)
        of_the_rest, steps = len(steps), []
        connection.set_progress_handler(lambda: steps.append(1), 100)
        whole = counting.count(connection, alice.id, "")

    assert rest.days == whole.days == {CHINA.day(NOW_MS): (2_000 * 7 + 150 * 3, 0)}
    assert of_the_rest < len(steps) / 2
    await store.close()


async def test_another_time_zone_is_refused_where_days_are_folded_and_what_to_set_is_said(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    store = await open_store(path, zone=CHINA)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await pay(store, new_request("old", account_id=alice.id, created_at_ms=NOW_MS - 1), settlement(7))
    assert await store.fold_requests(alice.id, NOW_MS) == 1
    await store.close()

    with pytest.raises(StoreRefusedError, match=r'days of the time zone "\+08:00".* set billing.time_zone = "\+08:00"$'):
        await open_store(path, zone=UTC)

    store = await open_store(path, zone=CHINA)
    await assert_books_balance(store)
    await store.close()


async def test_a_file_of_the_version_before_with_a_hundred_thousand_requests_gets_limits_that_count_them(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for script in migrations.scripts()[:6]:
            connection.executescript(script)
        connection.executescript(f"PRAGMA user_version = 6; BEGIN;{_old_books(REQUESTS)}COMMIT;")
    began = time.perf_counter()

    store = await open_store(path)

    opened = time.perf_counter()
    await store.set_key_limits("key_1", LimitsChange(day_nanos=Nanos(10**9), total_nanos=Nanos(10**9)), NOW_MS)
    print(f"opened in {opened - began:.2f} s, a first limit set in {time.perf_counter() - opened:.2f} s")
    (used,) = await store.key_use(NOW_MS)
    assert used.total == Spent(Nanos(REQUESTS // 2 * 3), Nanos(0))
    assert [key.limits is not None for key in await store.keys()] == [True, False]
    await assert_books_balance(store)
    await store.close()


def _old_books(requests: int) -> str:
    """Return the rows of an account that has made so many requests at 3 nano-yuan over 30 days, every other one with ``key_1``."""
    one = f"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {requests - 1})"
    at = f"({NOW_MS - 30 * DAY_MS} + i * {30 * DAY_MS} / {requests})"
    return f"""
        INSERT INTO accounts (id, kind, name, balance_nanos, created_at_ms) VALUES (3, 'customer', 'alice', {requests * 10}, 0);
        INSERT INTO keys VALUES ('key_1', 3, '', 'sk_a', zeroblob(32), 0, NULL), ('key_2', 3, '', 'sk_b', randomblob(32), 1, NULL);
        INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('credit', 1, 3, {requests * 13}, 0);
        INSERT INTO payments VALUES ('transfer', '1', 3, {requests * 13}, 1, 0);
        {one} INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price,
            created_at_ms, settled_at_ms, outcome, usage_source, charge_nanos, prompt_tokens, cached_tokens, completion_tokens,
            reasoning_tokens, units, shortfall_nanos)
          SELECT 'req_' || i, 'chat', 3, 'key_' || (1 + i % 2), 'm', 'ark', 'm', 0, 9, '{{}}', {at}, {at} + 1, 'complete', 'reported',
            3, 1, 0, 1, 0, 0, 0 FROM n;
        {one} INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
          SELECT 'hold', 3, 2, 9, 'req_' || i, {at} FROM n;
        {one} INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
          SELECT 'charge', 3, 2, 3, 'req_' || i, {at} + 1 FROM n;
    """


def test_holds_that_take_all_that_is_left_are_written_with_the_others() -> None:
    with closing(_books_with_keys(1)) as connection:
        open_holds = OpenHolds(OWNER, Spending.opened(connection, CHINA))
        said: list[str] = []
        connection.set_trace_callback(said.append)
        halves = [new_request(f"req_{n}", account_id=3, key_id="key_0", hold_nanos=DAY_NANOS // 2) for n in range(3)]

        operations = [_hold(request, open_holds) for request in halves]
        assert transact(connection, operations, open_holds) is None

        connection.set_trace_callback(None)
        assert [type(one.error) for one in operations] == [type(None), type(None), SpendLimitError]
        assert sum(statement.startswith("SAVEPOINT") for statement in said) == 1
        assert connection.execute("SELECT held_nanos FROM spend").fetchall() == [(DAY_NANOS,)]


def test_a_change_of_limits_is_undone_with_its_operation() -> None:
    with closing(_books_with_keys(1)) as connection:
        open_holds = OpenHolds(OWNER, Spending.opened(connection, CHINA))

        def change_and_fail(its: sqlite3.Connection) -> None:
            admin.set_key_limits(its, "key_0", LimitsChange(day_nanos=None, month_nanos=None), NOW_MS, open_holds.spending)
            raise RuntimeError("a bug")

        assert transact(connection, [_Operation(cast("Any", None), change_and_fail, ())], open_holds) is None
        much = _hold(new_request(account_id=3, key_id="key_0", hold_nanos=DAY_NANOS + 1), open_holds)
        assert transact(connection, [much], open_holds) is None

        assert isinstance(much.error, SpendLimitError)


def test_days_that_are_over_are_not_remembered_for_ever() -> None:
    with closing(_books_with_keys(1)) as connection:
        open_holds = OpenHolds(OWNER, Spending.opened(connection, CHINA))
        for day in range(4 * DAYS_KEPT):
            request = new_request(f"req_{day}", account_id=3, key_id="key_0", created_at_ms=NOW_MS + day * DAY_MS)
            assert transact(connection, [_hold(request, open_holds)], open_holds) is None

        assert len(open_holds.spending.by_key["key_0"].days) <= DAYS_KEPT


def test_ten_thousand_keys_with_limits_cost_a_start_little_memory_and_a_hold_nothing_more() -> None:
    seconds, statements = {}, {}
    for count in (10, 10_000):
        with closing(_books_with_keys(count)) as connection:
            began = time.process_time()
            Spending.opened(connection, CHINA)
            opened = time.process_time() - began
            tracemalloc.start()
            spending = Spending.opened(connection, CHINA)
            size, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            open_holds = OpenHolds(OWNER, spending)
            seconds[count] = min(_seconds_of_a_batch(connection, open_holds, count, turn) for turn in range(12))
            said: list[str] = []
            connection.set_trace_callback(said.append)
            _seconds_of_a_batch(connection, open_holds, count, 12)
            connection.set_trace_callback(None)
            statements[count] = len(said)
            print(
                f"{count} keys: opened in {1000 * opened:.1f} ms, {size / 1024:.0f} KiB, a hold {1e6 * seconds[count] / 64:.1f} µs CPU"
            )
            assert size < 100_000 + 700 * count
    assert statements[10] <= statements[10_000] <= statements[10] + 2 + 64  # more rows of `spend`, and a first look at each key's day
    assert seconds[10_000] < 3 * seconds[10]


def _books_with_keys(count: int) -> sqlite3.Connection:
    """Return books in which account 3 has so many keys, each with a daily and a monthly limit."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(connection, 0)
    adopt_zone(connection, CHINA)
    admin.create_account(connection, "alice", cast("Any", 10**15), NOW_MS)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO keys (id, account_id, name, prefix, sha256, created_at_ms) VALUES ('key_' || ?1, 3, '', '', randomblob(32), 0)",
        [(number,) for number in range(count)],
    )
    connection.execute(
        "INSERT INTO limits (account_id, identity, day_nanos, month_nanos) SELECT 3, id, 1000000000, 9000000000 FROM keys"
    )
    connection.execute("COMMIT")
    return connection


def _hold(request: NewRequest, open_holds: OpenHolds) -> _Operation:
    return _Operation(cast("Any", None), ledger.place_hold, (request, OWNER, open_holds.spending))


def _seconds_of_a_batch(connection: sqlite3.Connection, open_holds: OpenHolds, keys: int, turn: int) -> float:
    """Hold for 64 requests of ten keys in turn, whose day is known already from the second turn on."""
    requests = [new_request(f"req_{turn}_{n}", account_id=3, key_id=f"key_{n % 10 * (keys // 10)}") for n in range(64)]
    operations = [_hold(request, open_holds) for request in requests]
    began = time.process_time()
    assert transact(connection, operations, open_holds) is None
    ended = time.process_time()
    assert [one.error for one in operations if one.error is not None] == []
    return ended - began
