"""Writes over a way that breaks: each is done once, or its caller is told that it was not, and then it was not."""

import asyncio
from typing import Any

import pytest

from proxy.core.money import Nanos
from proxy.core.settlement import Outcome
from proxy.store.errors import InsufficientFundsError, StoreUnavailableError
from proxy.store.postgres import ledger
from proxy.store.postgres import writer as writing
from proxy.store.postgres.connection import Connection
from proxy.store.postgres.session import LOCK_SECONDS
from proxy.store.values import Account, CommitStats, Settled
from tests.support.books import assert_books_balance
from tests.support.postgres_way import Way
from tests.support.store import NOW_MS, new_claim, new_request, reference, settlement
from tests.unit.store.postgres.conftest import Opens


async def books(sql: Connection) -> tuple[int, int, int]:
    """Return the requests, the transfers of requests, and the account's balance and hold as one number each."""
    return tuple(
        await sql.fetchrow(
            """SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM transfers WHERE request_id IS NOT NULL),
                 (SELECT balance_nanos * 10000 + held_nanos FROM accounts WHERE name = 'alice')"""
        )
    )


@pytest.mark.parametrize("broken", ["cut_answer", "cut_before"])
async def test_a_batch_whose_end_nobody_knows_is_sent_again_and_done_once(opens: Opens, sql: Connection, way: Way, broken: str) -> None:
    store = await opens(way.url)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.place_hold(new_request("req_0", account_id=alice.id, hold_nanos=300))
    setattr(way, broken, b"req_2")

    held = [store.place_hold(new_request(f"req_{n}", account_id=alice.id, hold_nanos=10)) for n in (1, 2, 3)]
    settled = store.settle("req_0", settlement(120), NOW_MS)

    assert await asyncio.gather(*held) == [None] * 3
    assert await settled in (Settled.NOW, Settled.BEFORE)  # both are success
    assert way.cuts == 1
    assert await books(sql) == (4, 5, 880 * 10_000 + 30)
    await assert_books_balance(store)


@pytest.mark.parametrize("broken", ["cut_answer", "cut_before"])
async def test_a_payment_whose_end_nobody_knows_is_booked_once_and_told_as_new(
    opens: Opens, sql: Connection, way: Way, broken: str
) -> None:
    store = await opens(way.url)
    await store.create_account("alice", Nanos(1000), NOW_MS)
    setattr(way, broken, b"COMMIT")

    booking = await store.credit_account("alice", Nanos(5), "", NOW_MS, reference())

    assert (booking.is_new, booking.account.balance_nanos) == (True, 1005)
    assert way.cuts == 1
    assert await sql.fetchval("SELECT count(*) FROM transfers") == 2
    await assert_books_balance(store)


async def test_a_batch_that_arrives_after_it_was_sent_again_is_refused(opens: Opens, sql: Connection, way: Way) -> None:
    store = await opens(way.url)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.place_hold(new_request("req_0", account_id=alice.id, hold_nanos=10))
    way.hold_back = b"req_1"
    await store.place_hold(new_request("req_1", account_id=alice.id, hold_nanos=10))
    await store.settle("req_1", settlement(7), NOW_MS)

    await way.deliver_late()
    await store.place_hold(new_request("req_2", account_id=alice.id, hold_nanos=10))

    await asyncio.sleep(0.2)  # the late one has been looked at by now; if not, the next line proves less, and nothing false
    assert await books(sql) == (3, 4, 993 * 10_000 + 20)
    await assert_books_balance(store)


async def test_a_hold_whose_caller_was_told_that_it_failed_is_undone(
    opens: Opens, sql: Connection, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed, its answer was lost, and the database could not be asked for longer than anybody waits."""
    monkeypatch.setattr(writing, "PATIENCE_SECONDS", 0.5)
    store = await opens(way.url)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.place_hold(new_request("req_0", account_id=alice.id, hold_nanos=10))
    way.cut_answer = b"req_1"
    request = new_request("req_1", account_id=alice.id, hold_nanos=300, claim=new_claim())
    lost = store.place_hold(request)
    await asyncio.wait_for(way.has_cut.wait(), 30)
    way.close_all()
    with pytest.raises(StoreUnavailableError, match="nobody knows yet whether this was written"):
        await lost
    assert await sql.fetchval("SELECT held_nanos FROM accounts WHERE name = 'alice'") == 310

    way.is_closed = False
    await store.place_hold(new_request("req_2", account_id=alice.id, hold_nanos=990))

    found = await store.receipt("req_1")
    assert found is not None
    assert found[0].settlement is not None
    assert (found[0].settlement.outcome, found[0].settlement.charge_nanos) == (Outcome.INTERRUPTED, 0)
    assert await sql.fetchval("SELECT count(*) FROM idempotency") == 0  # a retry may run
    await assert_books_balance(store)


async def test_what_never_arrived_is_refused_and_the_next_write_goes_on(
    opens: Opens, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PATIENCE_SECONDS", 0.3)
    store = await opens(way.url)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    way.close_all()
    for attempt in (
        store.place_hold(new_request("req_1", account_id=alice.id)),
        store.settle("req_1", settlement(7), NOW_MS),
        store.credit_account("alice", Nanos(5), "", NOW_MS, reference()),
    ):
        with pytest.raises(StoreUnavailableError):
            await attempt
    with pytest.raises(StoreUnavailableError):
        await store.ping()
    assert store.backlog.failures >= 3

    way.is_closed = False

    await store.ping()
    await store.place_hold(new_request("req_1", account_id=alice.id))
    assert (await store.credit_account("alice", Nanos(5), "", NOW_MS, reference())).is_new
    await assert_books_balance(store)


async def test_what_waited_behind_a_write_that_failed_is_not_tried_for_as_long_again(
    opens: Opens, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PATIENCE_SECONDS", 0.5)
    store = await opens(way.url)
    await store.create_account("alice", Nanos(1000), NOW_MS)
    way.close_all()

    asked = [store.credit_account("alice", Nanos(5), "", NOW_MS, reference(f"payment-{n}")) for n in range(400)]
    told = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)  # 400 half seconds would be 200

    assert {type(one) for one in told} == {StoreUnavailableError}
    assert store.backlog.failures < 200  # each of them tried for itself would be 400
    way.is_closed = False
    await assert_books_balance(store)


async def test_the_server_ends_connections_under_load_and_every_write_is_done_once(opens: Opens, sql: Connection) -> None:
    store = await opens()
    alice = await store.create_account("alice", Nanos(10_000), NOW_MS)

    async def one(number: int) -> Settled:
        await store.place_hold(new_request(f"req_{number}", account_id=alice.id, hold_nanos=20))
        return await store.settle(f"req_{number}", settlement(7), NOW_MS)

    async def disturb() -> int:
        ended: int = 0
        while True:
            ended += await sql.fetchval(
                """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%book%'"""
            )
            if ended >= 10:
                return ended
            await asyncio.sleep(0.02)

    async def calls() -> list[Settled]:
        done: list[Settled] = []
        while not disturbing.done():
            begin = len(done)
            done += await asyncio.gather(*(one(number) for number in range(begin, begin + 20)))
        return done

    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as group:
            disturbing = group.create_task(disturb())
            calling = group.create_task(calls())

    done = calling.result()
    assert set(done) <= {Settled.NOW, Settled.BEFORE}
    account = await store.account("alice")
    assert (account.balance_nanos, account.held_nanos) == (10_000 - 7 * len(done), 0)
    assert await sql.fetchval("SELECT count(*) FROM requests") == len(done)
    await assert_books_balance(store)


async def test_a_value_that_the_server_does_not_take_fails_by_itself(opens: Opens) -> None:
    store = await opens()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    requests = [new_request(f"req_{n}", account_id=alice.id, hold_nanos=10) for n in range(5)]
    requests[2] = new_request("req_\0", account_id=alice.id, hold_nanos=10)
    requests[3] = new_request("req_3", account_id=2**70, hold_nanos=10)

    told = await asyncio.gather(*map(store.place_hold, requests), return_exceptions=True)

    assert [type(one) for one in told] == [type(None), type(None), ValueError, ValueError, type(None)]
    assert (await store.account("alice")).held_nanos == 30
    await assert_books_balance(store)


async def test_texts_of_an_upstream_never_stop_a_settlement(opens: Opens) -> None:
    store = await opens()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.place_hold(new_request(account_id=alice.id))
    ending: Any = settlement(7)
    ending = type(ending)(**{name: getattr(ending, name) for name in ending.__struct_fields__} | {"upstream_id": "a\0b", "note": "c\0"})

    assert await store.settle("req_1", ending, NOW_MS) is Settled.NOW
    await assert_books_balance(store)


async def test_calls_gather_while_a_batch_is_under_way_and_each_commit_is_told(opens: Opens) -> None:
    commits: list[CommitStats] = []
    store = await opens(on_commit=commits.append)
    alice = await store.create_account("alice", Nanos(100_000), NOW_MS)
    commits.clear()

    await asyncio.gather(*(store.place_hold(new_request(f"req_{n}", account_id=alice.id)) for n in range(600)))

    assert sum(commit.operations for commit in commits) == 600
    assert max(commit.operations for commit in commits) == 512
    assert len(commits) == 2
    await assert_books_balance(store)


async def test_two_nodes_cannot_overdraw_one_balance(opens: Opens) -> None:
    one, other = await opens(), await opens()
    alice = await one.create_account("alice", Nanos(37 * 10 + 9), NOW_MS)

    told = await asyncio.gather(
        *((one, other)[n % 2].place_hold(new_request(f"req_{n}", account_id=alice.id, hold_nanos=10)) for n in range(200)),
        return_exceptions=True,
    )

    assert told.count(None) == 37
    assert {type(one) for one in told if one is not None} == {InsufficientFundsError}
    assert (await other.account("alice")).held_nanos == 370
    await assert_books_balance(one)


async def test_overlapping_batches_of_several_nodes_never_wait_in_a_circle(
    opens: Opens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writing, "BATCH_OPERATIONS_MAX", 10)  # many of them, of most of the accounts each
    stores = [await opens() for _ in range(4)]
    accounts = [await stores[0].create_account(f"account {n}", Nanos(10**9), NOW_MS) for n in range(12)]

    async def life(node: int, number: int) -> Settled:
        store, account = stores[node], accounts[(number * (2 * node + 1)) % 12]
        request_id = f"req_{node}_{number}"
        await store.place_hold(new_request(request_id, account_id=account.id, hold_nanos=50))
        return await store.settle(request_id, settlement(number % 51), NOW_MS)

    told = await asyncio.gather(*(life(node, number) for number in range(250) for node in range(4)))

    assert told == [Settled.NOW] * 1000
    assert "deadlock" not in caplog.text  # the server ends one that waits in a circle, and it is tried again
    await assert_books_balance(stores[0])


async def test_a_node_that_stands_still_in_a_transaction_holds_up_the_others_for_a_second_and_does_it_once(opens: Opens) -> None:
    """To the server, a process that is stopped is one that says nothing. It wakes, finds its transaction ended, and begins it anew."""
    stopped, other = await opens(), await opens()
    alice = await other.create_account("alice", Nanos(1000), NOW_MS)
    locks, wakes = asyncio.Event(), asyncio.Event()
    runs: list[Account] = []

    async def stand_still(connection: Connection) -> None:
        account = await ledger.locked_by_name(connection, "alice")
        runs.append(account)
        if len(runs) == 1:
            locks.set()
            await wakes.wait()
        await connection.execute("UPDATE accounts SET discount = discount - 5 WHERE id = $1", account.id)

    changing = stopped._write(stand_still)
    await locks.wait()
    began = asyncio.get_running_loop().time()
    await other.place_hold(new_request("req_1", account_id=alice.id, hold_nanos=100))
    waited_seconds = asyncio.get_running_loop().time() - began
    wakes.set()
    await changing

    assert waited_seconds < LOCK_SECONDS / 2
    assert len(runs) == 2
    account = await other.account("alice")
    assert (account.balance_nanos, account.held_nanos, account.discount) == (1000, 100, 9995)
    await assert_books_balance(other)
