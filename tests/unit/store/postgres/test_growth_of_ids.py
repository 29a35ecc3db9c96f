"""Transaction ids and multixacts that the money path uses up: 2³² of each, before a server must have frozen all of its rows."""

import asyncio

from proxy.core.money import Nanos
from proxy.store.postgres.connection import Connection
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, pay, settlement
from tests.unit.store.postgres.conftest import Opens

CALLS = 600
XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
MULTIXACT = "SELECT next_multixact_id::text::bigint FROM pg_control_checkpoint()"


async def test_a_batch_is_one_transaction_id_and_locks_of_rows_are_no_multixacts(opens: Opens, sql: Connection) -> None:
    """A row that several transactions lock together becomes a multixact: foreign keys on the money path would make one a batch."""
    stores = [await opens() for _ in range(3)]
    account = await stores[0].create_account("alice", Nanos(10**6), NOW_MS)
    await sql.execute("CHECKPOINT")
    xid, multixact = await sql.fetchval(XID), await sql.fetchval(MULTIXACT)

    await asyncio.gather(
        *(pay(stores[n % 3], new_request(f"req_{n}", account_id=account.id, hold_nanos=20), settlement(7)) for n in range(CALLS))
    )

    await sql.execute("CHECKPOINT")
    used = await sql.fetchval(XID) - xid, await sql.fetchval(MULTIXACT) - multixact
    print(f"{CALLS} calls on 3 nodes: {used[0]} transaction ids, {used[1]} multixacts")
    assert used[0] < CALLS / 5  # a hold and a settlement each, gathered, and beats
    assert used[1] <= 3
    await assert_books_balance(stores[0])


async def test_gateways_at_rest_use_an_id_a_beat_and_nothing_else(opens: Opens, sql: Connection) -> None:
    await opens(beat_seconds=0.1)
    before, beats = await sql.fetchval(XID), await sql.fetchval("SELECT sum(beat)::bigint FROM nodes")
    async with asyncio.timeout(20):
        while (more := await sql.fetchval("SELECT sum(beat)::bigint FROM nodes") - beats) < 10:
            await sql.execute("SELECT pg_sleep(0.05)")

    assert await sql.fetchval(XID) - before <= more + 2
