"""Connections: reads outlive a server that went and came, a pooler is found out, and what an error means."""

import asyncio

import asyncpg
import pytest

from proxy.core.money import Nanos
from proxy.store.errors import AccountNotFoundError, StoreUnavailableError
from proxy.store.postgres.connection import Connection, Connector, failure
from tests.support.books import assert_books_balance
from tests.support.postgres_way import Way
from tests.support.store import NOW_MS, new_request, settlement
from tests.unit.store.postgres.conftest import Opens

PREPARED = "SELECT count(*) FROM pg_prepared_statements"


async def test_a_read_finds_another_connection_where_its_own_has_gone(opens: Opens, way: Way) -> None:
    store = await opens(way.url)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    assert await asyncio.gather(*(store.account("alice") for _ in range(10))) == [alice] * 10
    way.close_all()
    with pytest.raises(StoreUnavailableError):
        await store.account("alice")

    way.is_closed = False

    assert await asyncio.gather(*(store.account("alice") for _ in range(10))) == [alice] * 10
    way.close_all()
    way.is_closed = False  # cut, and there again before the next read
    assert await store.account("alice") == alice


async def test_a_read_does_not_try_one_connection_after_the_other_that_has_gone(opens: Opens, way: Way) -> None:
    store = await opens(way.url)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await asyncio.gather(*(store.account("alice") for _ in range(10)))

    way.go_stale()

    assert await store.account("alice") == alice


async def test_a_read_that_its_caller_gives_up_holds_up_no_other(opens: Opens, sql: Connection) -> None:
    store = await opens()
    await store.create_account("alice", Nanos(1000), NOW_MS)
    await sql.execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
    for _ in range(12):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.account("alice"), 0.05)
    await sql.execute("COMMIT")

    assert (await store.account("alice")).balance_nanos == 1000


async def test_a_refusal_of_a_read_costs_no_connection(opens: Opens, sql: Connection) -> None:
    store = await opens()
    for _ in range(3):
        with pytest.raises(AccountNotFoundError):
            await store.account("nobody")

    began = await sql.fetch(
        """SELECT pid FROM pg_stat_activity
           WHERE datname = current_database() AND query LIKE '%FROM accounts%' AND pid <> pg_backend_pid()"""
    )

    assert len(began) == 1


async def test_no_read_begins_once_the_store_is_closed(opens: Opens) -> None:
    store = await opens()
    await store.accounts()

    await store.close()

    with pytest.raises(StoreUnavailableError, match="the store is closed"):
        await store.accounts()


@pytest.mark.parametrize("is_pooler", [False, True])
async def test_behind_a_pooler_no_statement_is_prepared_by_name(opens: Opens, way: Way, is_pooler: bool) -> None:
    way.is_pooler = is_pooler
    connection = await Connector(way.url).connect()
    for _ in range(2):
        await connection.fetchval("SELECT $1::text", "again")

    prepared = await connection.fetchval(PREPARED)

    assert (prepared == 0) == is_pooler
    await connection.close()
    store = await opens(way.url)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    for number in range(5):
        await store.place_hold(new_request(f"req_{number}", account_id=alice.id))
        await store.settle(f"req_{number}", settlement(7), NOW_MS)
    assert (await store.account("alice")).balance_nanos == 965
    await assert_books_balance(store)


async def test_a_password_is_in_no_message_of_a_connection_that_was_refused(way: Way) -> None:
    way.close_all()

    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)) as refused:
        await Connector(way.url, "canary").connect()

    assert "canary" not in f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"


def test_an_error_that_says_nothing_is_called_by_its_kind() -> None:
    assert str(failure(TimeoutError())) == "nothing was written: TimeoutError"
    assert str(failure(TimeoutError("too late"))) == "nothing was written: too late"
