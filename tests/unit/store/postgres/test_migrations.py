"""The schema: made once, however many start at once, and left alone where it is another's or too new."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.days import CHINA, UTC
from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.store.errors import StoreRefusedError, StoreVersionError
from proxy.store.postgres import open_store
from proxy.store.postgres.connection import Connection, Connector
from proxy.store.postgres.migrations import scripts
from proxy.store.values import KeyUse, Spent
from tests.support.books import assert_books_balance
from tests.support.postgres import database
from tests.support.store import NOW_MS, new_request, settlement
from tests.unit.store.postgres.conftest import Opens


@pytest.fixture
async def empty() -> AsyncIterator[str]:
    async with database(is_empty=True) as lent:
        yield lent


@pytest.fixture
async def sql(empty: str) -> AsyncIterator[Connection]:
    connection = await Connector(empty).connect()
    yield connection
    await connection.close()


async def test_many_that_start_at_once_on_an_empty_database_make_one_schema(empty: str, sql: Connection) -> None:
    stores = await asyncio.gather(*(open_store(empty) for _ in range(8)))

    assert await sql.fetchval("SELECT version FROM llm_proxy_schema") == len(scripts())
    assert await sql.fetchval("SELECT count(*) FROM nodes WHERE dead_at IS NULL") == 8
    assert await sql.fetchval("SELECT count(*) FROM accounts") == 2  # cash and revenue, once
    await asyncio.gather(*(store.create_account(f"account {n}", Nanos(n), NOW_MS) for n, store in enumerate(stores)))
    assert len(await stores[0].accounts()) == 8
    for store in stores:
        await store.close()


async def test_a_database_of_another_program_is_left_alone(empty: str, sql: Connection) -> None:
    await sql.execute("CREATE TABLE customers (id integer)")

    with pytest.raises(StoreRefusedError, match="is the database of another program: it has a table customers"):
        await open_store(empty)

    assert await sql.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 1


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_schema_that_a_newer_program_made_incompatible_is_refused_in_words(
    empty: str, sql: Connection, read_only: bool
) -> None:
    await (await open_store(empty)).close()
    newer = len(scripts()) + 1
    await sql.execute("UPDATE llm_proxy_schema SET version = $1, compatible_from = $1", newer)

    with pytest.raises(StoreVersionError, match=f"has version {newer}, .* this program knows up to {newer - 1}: update the program"):
        await open_store(empty, read_only=read_only)


async def test_a_newer_schema_that_only_added_is_written_by_programs_before_it(empty: str, sql: Connection) -> None:
    await (await open_store(empty)).close()
    await sql.execute("UPDATE llm_proxy_schema SET version = version + 1")
    await sql.execute("ALTER TABLE accounts ADD COLUMN added_later text")

    store = await open_store(empty)

    await store.create_account("alice", Nanos(1000), NOW_MS)
    await assert_books_balance(store)
    await store.close()
    assert await sql.fetchval("SELECT version FROM llm_proxy_schema") == len(scripts()) + 1


async def test_what_is_opened_to_be_read_makes_nothing(empty: str, sql: Connection) -> None:
    with pytest.raises(StoreRefusedError, match="has not been brought up to date yet: start the gateway once"):
        await open_store(empty, read_only=True)

    assert await sql.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


async def test_a_reader_is_no_node_and_writes_nothing(empty: str, sql: Connection) -> None:
    writing = await open_store(empty, zone=UTC)
    alice = await writing.create_account("alice", Nanos(1000), NOW_MS)

    reading = await open_store(empty, read_only=True, zone=CHINA)

    assert await reading.account("alice") == alice
    assert reading.zone == UTC
    for attempt in (reading.create_account("bob", Nanos(1), NOW_MS), reading.place_hold(new_request(account_id=alice.id))):
        with pytest.raises(StoreRefusedError, match="opened to be read only"):
            await attempt
    assert await sql.fetchval("SELECT count(*) FROM nodes") == 1
    await reading.close()
    await writing.close()


async def test_all_nodes_count_days_in_one_time_zone(opens: Opens) -> None:
    store = await opens(zone=CHINA)

    with pytest.raises(StoreRefusedError, match=r'count days in the time zone "\+08:00": set billing.time_zone = "\+08:00"'):
        await opens(zone=UTC)

    await store.close()
    await opens(zone=UTC)


async def test_a_new_time_zone_counts_what_is_spent_anew(opens: Opens) -> None:
    """The request of 16:00 UTC is of the next day in China."""
    store = await opens(zone=CHINA)
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.set_account_limits("alice", LimitsChange(day_nanos=Nanos(500)), NOW_MS)
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=100, created_at_ms=NOW_MS))
    await store.settle("req_1", settlement(70), NOW_MS)
    evening_ms = NOW_MS - 1000  # the same day in UTC, the day before in China
    assert await store.key_use(evening_ms) == [KeyUse("alice", "", Spent(Nanos(0), Nanos(0)), None, None)]
    await store.close()

    again = await opens(zone=UTC)

    assert await again.key_use(evening_ms) == [KeyUse("alice", "", Spent(Nanos(70), Nanos(0)), None, None)]
    await assert_books_balance(again)
