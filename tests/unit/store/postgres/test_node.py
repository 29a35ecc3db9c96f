"""Nodes: who beats lives, who is found silent is dead for good, and nothing of a dead one is committed."""

import asyncio
from typing import Any

import pytest

from proxy.core.money import Nanos
from proxy.store.errors import StoreCorruptError, StoreFencedError
from proxy.store.postgres import PostgresStore, batch
from proxy.store.postgres.connection import Connection, Connector
from proxy.store.postgres.lease import Watch
from proxy.store.values import Account
from tests.support.books import assert_books_balance
from tests.support.postgres_way import Way
from tests.support.store import NOW_MS, new_request, reference, settlement
from tests.unit.store.postgres.conftest import Opens, until

QUICK: dict[str, Any] = {"beat_seconds": 0.05}


def quick_watch() -> Watch:
    return Watch(lease_seconds=0.6, gap_seconds=5)


def id_of(store: PostgresStore) -> int:
    assert store.node is not None
    return store.node.id


async def test_a_node_beats_and_sees_the_others(opens: Opens, sql: Connection) -> None:
    one, other = await opens(**QUICK), await opens(**QUICK)

    await until("(SELECT min(beat) FROM nodes) > 3", sql)

    assert one.node is not None
    assert set(one.node.living) == {id_of(one), id_of(other)}
    assert one.node.seconds_unconfirmed() < 10
    assert await sql.fetchval("SELECT count(*) FROM nodes WHERE dead_at IS NOT NULL") == 0


async def test_a_node_that_falls_silent_is_set_dead_by_the_others_and_ends(opens: Opens, sql: Connection, way: Way) -> None:
    ends: list[BaseException] = []
    ended = asyncio.Event()

    def end(error: BaseException) -> None:
        ends.append(error)
        ended.set()

    silent = await opens(way.url, on_corrupt=end, **QUICK)
    alice = await silent.create_account("alice", Nanos(1000), NOW_MS)
    await silent.place_hold(new_request("req_open", account_id=alice.id))
    watcher = await opens(watch=quick_watch(), **QUICK)
    way.close_all()

    await until(f"(SELECT dead_at IS NOT NULL FROM nodes WHERE id = {id_of(silent)})", sql)
    way.is_closed = False
    await asyncio.wait_for(ended.wait(), 30)

    assert len(ends) == 1
    assert isinstance(ends[0], StoreFencedError)
    for attempt in (
        silent.place_hold(new_request("req_late", account_id=alice.id)),
        silent.settle("req_open", settlement(60), NOW_MS),
        silent.credit_account("alice", Nanos(5), "", NOW_MS, reference()),
    ):
        with pytest.raises(StoreCorruptError):
            await attempt
    assert [request.id for request in await watcher.orphaned_requests()] == ["req_open"]
    assert (await watcher.account("alice")).held_nanos == 100
    assert watcher.node is not None
    await assert_books_balance(watcher)


async def test_each_write_of_a_dead_node_is_refused_before_it_has_noticed(opens: Opens, sql: Connection) -> None:
    """The fence, not the node, sees to it: its next beat is an hour away."""
    ends: list[BaseException] = []
    stores = [await opens(on_corrupt=ends.append, beat_seconds=3600) for _ in range(3)]
    alice = await stores[0].create_account("alice", Nanos(1000), NOW_MS)
    for number, store in enumerate(stores):
        await store.place_hold(new_request(f"req_{number}", account_id=alice.id))
        assert await sql.fetchval("SELECT end_node($1, NULL)", id_of(store))

    late = (
        stores[0].place_hold(new_request("req_late", account_id=alice.id)),
        stores[1].settle("req_1", settlement(60), NOW_MS),
        stores[2].credit_account("alice", Nanos(5), "", NOW_MS, reference()),
    )

    for attempt in late:
        with pytest.raises(StoreFencedError, match="was set dead by the others"):
            await attempt
    assert len(ends) == 3
    alive = await opens()
    assert await alive.account("alice") == Account(alice.id, "alice", Nanos(1000), Nanos(300), NOW_MS)
    assert len(await alive.orphaned_requests()) == 3
    await assert_books_balance(alive)


async def test_setting_a_node_dead_waits_for_its_write_that_is_under_way(opens: Opens, sql: Connection, url: str) -> None:
    store = await opens(beat_seconds=3600)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    writing = await Connector(url).connect()
    await writing.execute("BEGIN")
    row = batch.hold_row(new_request(account_id=alice.id))
    await writing.fetchrow(batch.BOOK, id_of(store), 1000, False, False, *batch.arguments([row], []))

    killing = asyncio.ensure_future(sql.fetchval("SELECT end_node($1, NULL)", id_of(store)))  # noqa: TID251
    other = await Connector(url).connect()
    await until("EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%end_node%')", other)
    assert await other.fetchval("SELECT dead_at IS NULL FROM nodes WHERE id = $1", id_of(store))
    await other.fetch("SELECT * FROM beat_node($1, 0, 0)", id_of(store))  # a beat passes beside the write
    await writing.execute("COMMIT")

    assert await killing
    assert await other.fetchval("SELECT count(*) FROM requests") == 1
    with pytest.raises(StoreFencedError):
        await store.settle("req_1", settlement(60), NOW_MS)
    for connection in (writing, other):
        await connection.close()
    await assert_books_balance(await opens())


async def test_a_node_whose_beat_has_moved_since_is_not_set_dead(opens: Opens, sql: Connection) -> None:
    store = await opens(beat_seconds=3600)
    await store.create_account("alice", Nanos(1000), NOW_MS)
    await until(f"(SELECT beat > 1 FROM nodes WHERE id = {id_of(store)})", sql)  # it hears of the change
    await sql.execute("UPDATE nodes SET beat = 7 WHERE id = $1", id_of(store))

    assert not await sql.fetchval("SELECT end_node($1, 6)", id_of(store))
    await store.set_discount("alice", 9000)
    await until(f"(SELECT beat = 8 FROM nodes WHERE id = {id_of(store)})", sql)
    await sql.execute("UPDATE nodes SET beat = 7 WHERE id = $1", id_of(store))
    assert await sql.fetchval("SELECT end_node($1, 7)", id_of(store))
    assert not await sql.fetchval("SELECT end_node($1, 7)", id_of(store))  # once


async def test_a_node_leaves_at_its_close_and_what_it_held_is_an_orphan_at_once(opens: Opens, sql: Connection) -> None:
    store = await opens()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    other = await opens()
    queued = [store.place_hold(new_request(f"req_{n}", account_id=alice.id, hold_nanos=1)) for n in range(30)]

    await store.close()

    assert all(future.done() and future.exception() is None for future in queued)
    assert await sql.fetchval("SELECT dead_at IS NOT NULL FROM nodes WHERE id = $1", id_of(store))
    assert len(await other.orphaned_requests()) == 30
    await assert_books_balance(other)


async def test_an_outage_longer_than_the_lease_kills_nobody(opens: Opens, sql: Connection, way: Way) -> None:
    """Both nodes are cut off alike: neither saw the other's beat stand still."""
    ends: list[BaseException] = []
    watch = [Watch(lease_seconds=0.6, gap_seconds=0.3) for _ in range(2)]
    stores = [await opens(way.url, on_corrupt=ends.append, watch=one, **QUICK) for one in watch]
    alice = await stores[0].create_account("alice", Nanos(1000), NOW_MS)
    await until("(SELECT min(beat) FROM nodes) > 3", sql)
    way.close_all()
    beats = await sql.fetchval("SELECT max(beat) FROM nodes")
    await asyncio.sleep(1.5)  # time itself is tested: more than two leases

    way.is_closed = False
    await until(f"(SELECT min(beat) FROM nodes) > {beats + 3}", sql)

    assert ends == []
    assert await sql.fetchval("SELECT count(*) FROM nodes WHERE dead_at IS NOT NULL") == 0
    for number, store in enumerate(stores):
        await store.place_hold(new_request(f"req_{number}", account_id=alice.id))
    await assert_books_balance(stores[0])
