"""`requests` and `transfers` by days: a database whose two largest tables are partitioned works as one whose are not.

Partitions are ranges of request ids, which sort by time: so what keeps a request, its hold and its end unique stays as it is. All that
a migration to them must change is said here.
"""

import asyncio

from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS
from proxy.store.postgres import open_store
from proxy.store.postgres.connection import Connection
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, pay, settlement

DAYS = 3
PARTITION = """
    ALTER TABLE {table} RENAME TO {table}_before;
    CREATE TABLE {table} (LIKE {table}_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE ({key});
    CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT;
"""
REQUESTS = """
    ALTER TABLE requests ADD PRIMARY KEY (id);
    CREATE INDEX ON requests (account_id, created_at_ms);
    CREATE INDEX ON requests (node_id, created_at_ms) WHERE settled_at_ms IS NULL;
    CREATE TRIGGER only_folded BEFORE DELETE ON requests FOR EACH ROW EXECUTE FUNCTION refuse_unfolded();
    ALTER TABLE video_tasks DROP CONSTRAINT video_tasks_id_fkey, ADD FOREIGN KEY (id) REFERENCES requests;
    ALTER TABLE idempotency DROP CONSTRAINT idempotency_request_id_fkey, ADD FOREIGN KEY (request_id) REFERENCES requests;
"""
# A transfer's own id is unique by its sequence alone then, and `verify` checks what a payment refers to.
TRANSFERS = """
    ALTER TABLE payments DROP CONSTRAINT payments_transfer_id_fkey;
    ALTER TABLE transfers ALTER COLUMN id SET DEFAULT nextval('transfers_of_all_days');
    CREATE INDEX ON transfers (id);
    CREATE UNIQUE INDEX ON transfers (request_id) WHERE kind = 'hold';
    CREATE UNIQUE INDEX ON transfers (request_id) WHERE kind IN ('charge', 'release');
    CREATE INDEX ON transfers (request_id) WHERE kind = 'reversal';
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON transfers FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""


def id_at(now_ms: int, number: int = 0) -> str:
    """Return a request's id of a moment."""
    return "req_" + (now_ms << 64 | number).to_bytes(14, "big").hex()


async def by_days(sql: Connection) -> None:
    """Partition both tables of an empty ledger, with a partition for each of some days."""
    await sql.execute("CREATE SEQUENCE transfers_of_all_days START WITH 1000")
    await sql.execute(PARTITION.format(table="requests", key="id") + REQUESTS)
    await sql.execute(PARTITION.format(table="transfers", key="request_id") + TRANSFERS)
    for day in range(DAYS):
        begin, end = id_at(NOW_MS + day * DAY_MS), id_at(NOW_MS + (day + 1) * DAY_MS)
        for table in ("requests", "transfers"):
            await sql.execute(f"CREATE TABLE {table}_{day} PARTITION OF {table} FOR VALUES FROM ('{begin}') TO ('{end}')")


async def test_a_ledger_by_days_holds_settles_refuses_folds_and_verifies(url: str, sql: Connection) -> None:
    await (await open_store(url)).close()
    await by_days(sql)
    store = await open_store(url)
    account = await store.create_account("alice", Nanos(1000), NOW_MS)
    requests = [
        new_request(id_at(NOW_MS + day * DAY_MS, n), account_id=account.id, hold_nanos=20, created_at_ms=NOW_MS + day * DAY_MS)
        for day in range(DAYS)
        for n in range(4)
    ]

    await asyncio.gather(*(pay(store, request, settlement(7)) for request in requests))
    again = await store.settle(requests[0].id, settlement(7), NOW_MS)

    assert again.name == "BEFORE"
    counts = [
        await sql.fetchval(f"SELECT (SELECT count(*) FROM requests_{day}) * 100 + (SELECT count(*) FROM transfers_{day})")
        for day in range(DAYS)
    ]
    assert counts == [408] * DAYS
    assert (await store.account("alice")).balance_nanos == 1000 - 12 * 7
    await assert_books_balance(store)

    zone_ms = store.zone.minutes * 60_000
    day_ends_ms = ((NOW_MS + zone_ms) // DAY_MS + 1) * DAY_MS - zone_ms
    assert await store.fold_requests(account.id, day_ends_ms) == 4
    await sql.execute("ALTER TABLE requests DETACH PARTITION requests_0; DROP TABLE requests_0")
    assert await sql.fetchval("SELECT count(*) FROM requests") == 8
    await assert_books_balance(store)
    await store.close()
