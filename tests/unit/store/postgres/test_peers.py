"""Nodes of one database: what each hears of the others, and what one does for all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest

from proxy.core.money import Nanos
from proxy.store.errors import NotSeenError
from proxy.store.postgres import PostgresStore, open_store, peers
from proxy.store.postgres.connection import Connector
from proxy.store.postgres.lease import Watch
from proxy.store.postgres.peers import PostgresPeers
from proxy.store.values import Account
from proxy.tasks import TaskGroup
from tests.support.books import assert_books_balance
from tests.support.postgres import database
from tests.support.store import NOW_MS, new_request, settlement

BEAT_SECONDS = 0.1
LEASE_SECONDS = 1.0
Enter = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
async def enter() -> AsyncIterator[Enter]:
    """Return a function that opens one database again, as another node with short beats."""
    async with database() as url, AsyncExitStack() as nodes:

        async def open_again(*, serves: bool = True, lease_seconds: float = LEASE_SECONDS) -> PostgresStore:
            watch = Watch(lease_seconds, lease_seconds)
            store = await open_store(url, serves=serves, watch=watch, beat_seconds=BEAT_SECONDS)
            nodes.push_async_callback(store.close)
            return store

        yield open_again


def peers_of(store: PostgresStore) -> PostgresPeers:
    assert store.peers is not None
    return store.peers


async def silence(store: PostgresStore) -> None:
    """Stop a node's beat, as a stopped process does."""
    assert store.node is not None
    await store.node._tasks.cancel()


async def until(holds: Callable[[], bool], looker: PostgresPeers) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await looker.looked()


async def test_a_change_of_keys_is_heard_of_by_every_node_at_once(enter: Enter) -> None:
    first, second = await enter(), await enter()
    before = peers_of(second).keys_version

    await first.create_account("alice", Nanos(0), NOW_MS)

    await until(lambda: peers_of(second).keys_version == before + 1, peers_of(second))


async def test_a_change_of_keys_waits_for_those_that_serve(enter: Enter) -> None:
    operator, serving = await enter(serves=False), await enter()
    await enter(serves=False)  # which has no keys to go by, and is not waited for
    await operator.create_account("alice", Nanos(0), NOW_MS)

    waiting = TaskGroup("waiting").spawn(peers_of(operator).all_saw_keys(), "for the keys")
    done, _ = await asyncio.wait([waiting], timeout=LEASE_SECONDS / 4)
    peers_of(serving).saw_keys(peers_of(serving).keys_version)
    async with asyncio.timeout(10):
        await waiting

    assert not done


async def test_a_change_of_keys_waits_for_no_dead_node(enter: Enter) -> None:
    operator, serving = await enter(serves=False), await enter()
    await silence(serving)
    await operator.create_account("alice", Nanos(0), NOW_MS)

    async with asyncio.timeout(10):
        await peers_of(operator).all_saw_keys()

    assert peers_of(serving).node not in peers_of(operator).living


async def test_a_node_that_lives_and_does_not_go_by_a_change_is_named(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "LATE_BEATS", -LEASE_SECONDS / BEAT_SECONDS)
    operator, _ = await enter(serves=False), await enter()

    with pytest.raises(NotSeenError, match=r"have not said that they go by it: \S+ \d+$"):
        await peers_of(operator).all_saw_keys()


async def test_how_old_the_keys_of_a_node_may_be_is_known(enter: Enter) -> None:
    store = await enter()
    mine = peers_of(store)
    mine.saw_keys(mine.keys_version)
    await mine.looked()
    fresh = mine.keys_seconds

    await store.create_account("alice", Nanos(0), NOW_MS)
    await until(lambda: mine.keys_version > 1, mine)
    await asyncio.sleep(BEAT_SECONDS * 5)
    stale = mine.keys_seconds
    mine.saw_keys(mine.keys_version)
    await mine.looked()

    assert stale > BEAT_SECONDS * 4
    assert mine.keys_seconds < stale
    assert fresh < stale


async def test_a_job_is_one_nodes_until_its_death(enter: Enter) -> None:
    first, second = await enter(), await enter()

    assert await peers_of(first).take_job("census")
    assert await peers_of(first).take_job("census")
    assert not await peers_of(second).take_job("census")
    assert await peers_of(second).take_job("another")
    await first.close()

    assert await peers_of(second).take_job("census")


async def test_a_node_that_came_alone_counts_at_once_and_a_later_one_once_the_others_have_told_so(enter: Enter) -> None:
    await enter(serves=False)
    first, second = await enter(lease_seconds=3600), await enter(lease_seconds=3600)
    both = (peers_of(first).node, peers_of(second).node)
    before = peers_of(first).is_counted, peers_of(second).is_counted
    await until(lambda: peers_of(first).serving == both, peers_of(first))
    await peers_of(second).looked()
    unaware = peers_of(second).is_counted  # it is seen, and nothing is shared out to it

    peers_of(first).saw_nodes(both)

    await until(lambda: peers_of(second).is_counted, peers_of(second))
    assert before == (True, False)
    assert not unaware
    assert peers_of(second).serving == both


async def test_a_node_counts_a_lease_after_its_coming_whatever_the_others_tell(enter: Enter) -> None:
    await enter()
    second = await enter()

    assert not peers_of(second).is_counted
    await until(lambda: peers_of(second).is_counted, peers_of(second))


async def test_an_unconfirmed_node_knows_for_how_long(enter: Enter) -> None:
    store = await enter()
    await silence(store)

    before = peers_of(store).unconfirmed_seconds
    await asyncio.sleep(BEAT_SECONDS)

    assert peers_of(store).unconfirmed_seconds >= before + BEAT_SECONDS * 0.9


async def test_a_node_that_is_dead_for_a_day_and_left_nothing_open_is_forgotten(enter: Enter) -> None:
    """Its id is never given again, so that no late write of it can pass for another's."""
    alive, gone, holding, working, young = [await enter() for _ in range(5)]
    account = await alice_of(alive)
    await holding.place_hold(new_request("req_open", account_id=account.id, hold_nanos=1))
    await gone.place_hold(new_request("req_done", account_id=account.id, hold_nanos=1))
    await gone.settle("req_done", settlement(1), NOW_MS)
    assert await peers_of(working).take_job("census")
    ids = [peers_of(store).node for store in (alive, gone, holding, working, young)]
    for store in (gone, holding, working, young):
        await store.close()
    sql = await Connector(alive._connector.url).connect()
    await sql.execute("UPDATE nodes SET dead_at = dead_at - interval '25 hours' WHERE id <> $1", ids[4])

    forgotten = await peers_of(alive).forget_dead()

    left = [node_id for (node_id,) in await sql.fetch("SELECT id FROM nodes ORDER BY id")]
    assert (forgotten, left) == (1, [ids[0], *ids[2:]])
    assert await sql.fetchval("SELECT count(*) FROM node_writes") == 4
    with pytest.raises(asyncpg.PostgresError, match=f"node {ids[1]} is dead"):
        await sql.execute(f"SELECT fence({ids[1]}, 1000000, false)")
    assert await peers_of(alive).forget_dead() == 0
    assert peers_of(await enter()).node > ids[4]
    await sql.close()
    await assert_books_balance(alive)


async def alice_of(store: PostgresStore) -> Account:
    return await store.create_account("alice", Nanos(1000), NOW_MS)
