"""What a batch looks at: the rows that it is about, whatever the tables hold and whenever the server planned it."""

from collections.abc import AsyncIterator

import pytest

from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.store.postgres import PostgresStore, batch
from proxy.store.postgres.connection import Connection, Connector
from tests.support.books import assert_books_balance
from tests.support.postgres import database
from tests.support.store import NOW_MS, new_claim, new_key, new_request, settlement
from tests.unit.store.postgres.conftest import Opens

SIZE = 8
"""Holds of a batch, and settlements."""
ACCOUNTS = 120


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with database(is_fresh=True) as lent:  # tables that were emptied are planned as large ones
        yield lent


async def looked_at(connection: Connection) -> dict[str, int]:
    """Return the rows of each table that the transaction has read, or the whole table where one was read from end to end."""
    rows = await connection.fetch(
        """SELECT relname, seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0)
           FROM pg_stat_xact_user_tables WHERE seq_scan + idx_scan > 0"""
    )
    whole = {name for name, scans, _ in rows if scans}
    assert whole <= {"limits", "nodes", "facts"}, f"read from end to end: {whole}"
    return {name: read for name, _, read in rows}


async def fill(store: PostgresStore, first: int, accounts: int) -> None:
    """Make accounts with a key each, every other one with a money limit, and ten open requests of each."""
    for number in range(first, first + accounts):
        account = await store.create_account(f"account {number}", Nanos(10**9), NOW_MS)
        await store.create_key(account.name, new_key(f"key_{number}"))
        if number % 2 == 0:
            await store.set_account_limits(account.name, LimitsChange(month_nanos=Nanos(10**9)), NOW_MS)
        for n in range(10):
            request = new_request(f"open_{number}_{n}", account_id=account.id, key_id=f"key_{number}", hold_nanos=5)
            opened = store.place_hold(request)
    await opened


@pytest.mark.parametrize("is_careful", [False, True])
@pytest.mark.parametrize("accounts_at_first", [1, ACCOUNTS])
async def test_a_batch_reads_only_the_rows_that_it_is_about(
    opens: Opens, url: str, sql: Connection, accounts_at_first: int, is_careful: bool
) -> None:
    """A plan is kept for the life of a connection: one that was made when the tables were small serves for millions of rows."""
    store, batching = await opens(), await opens()  # whose writes are sent by hand below, under numbers of its own
    assert batching.node is not None
    node_id = batching.node.id
    connection = await Connector(url).connect()

    async def run(turn: int, size: int) -> dict[str, int]:
        ids = [account_id for (account_id,) in await sql.fetch("SELECT id FROM accounts WHERE id > 2 ORDER BY id LIMIT $1", size)]
        holds = [
            batch.hold_row(
                new_request(f"r{turn}_{n}", account_id=ids[n], key_id=f"key_{n}", hold_nanos=5, claim=new_claim(f"{turn}_{n}"))
            )
            for n in range(size)
        ]
        ends = [batch.settlement_row(f"open_{n}_{turn}", settlement(3), NOW_MS, None) for n in range(size)]
        await connection.execute("BEGIN")
        told = await connection.fetchrow(batch.BOOK, node_id, turn + 1, is_careful, False, *batch.arguments(holds, ends))
        assert (told[0], told[2]) == ([1] * size, [1] * size)
        read = await looked_at(connection)
        await connection.execute("COMMIT")
        return read

    await fill(store, 0, accounts_at_first)
    await run(0, min(SIZE, accounts_at_first))
    await fill(store, accounts_at_first, ACCOUNTS - accounts_at_first + 1)

    read = await run(1, SIZE)

    assert read["requests"] <= 3 * SIZE
    assert read["accounts"] <= 6 * SIZE
    assert read["keys"] <= 8 * SIZE
    assert read["limits"] <= 8 * SIZE
    assert read["spend"] <= 6 * SIZE
    assert read.get("idempotency", 0) <= 2 * SIZE
    await connection.close()
    await assert_books_balance(store)
