"""Writes a ledger of any length directly into the SQLite file, with every invariant of `ledger verify` true.

It holds whole chat requests: a hold and its charge, or, for one in `_RELEASED_EVERY`, its release. They are written in bulk without
syncs: ten million rows through the gateway would take a quarter of an hour. No gateway may have the file open meanwhile.
"""

import sqlite3
from pathlib import Path

from proxy.store.sqlite.ledger import REVENUE_ID

DAYS = 90
"""Age of the oldest requests; they are spread evenly up to now."""
HOLD_NANOS, CHARGE_NANOS = 8_500_000, 40_000
TRANSFERS_A_REQUEST = 2
_RELEASED_EVERY, _ESTIMATED_EVERY = 100, 50
_BATCH_REQUESTS = 250_000
_DAY_MS = 86_400_000
_CACHE_KIB = 500_000

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :end)"
_MOMENT = ":begin + n * :step_us / 1000"
_ID = f"printf('req_%012x%016x', {_MOMENT}, n + :there)"
"""Sorted by time, as the gateway's ids are; the second half is a counter here, instead of random."""

_REQUESTS = f"""{_NUMBERS}
    INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
      settled_at_ms, outcome, usage_source, charge_nanos, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, units,
      shortfall_nanos, http_status, upstream_id, first_byte_ms, total_ms, note)
    SELECT {_ID}, 'chat', account_id, key_id, 'doubao-pro-32k', 'ark', 'doubao-seed-2-0-lite-260428', n % 2, {HOLD_NANOS},
      '{{"input":800,"output":2000,"cached_input":160}}', {_MOMENT}, {_MOMENT} + 900,
      iif(n % {_RELEASED_EVERY}, 'complete', 'upstream_error'),
      CASE WHEN NOT n % {_RELEASED_EVERY} THEN 'none' WHEN n % {_ESTIMATED_EVERY} THEN 'reported' ELSE 'estimated' END,
      iif(n % {_RELEASED_EVERY}, {CHARGE_NANOS}, 0), iif(n % {_RELEASED_EVERY}, 20, 0), 0, iif(n % {_RELEASED_EVERY}, 12, 0), 0, 0, 0,
      iif(n % {_RELEASED_EVERY}, 200, 503), printf('0217%047x', n), 300, 900, ''
    FROM numbers CROSS JOIN owners ON place = n % (SELECT count(*) FROM owners)"""

_TRANSFERS = f"""{_NUMBERS}
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
    SELECT CASE WHEN half = 0 THEN 'hold' WHEN n % {_RELEASED_EVERY} THEN 'charge' ELSE 'release' END,
      account_id, {REVENUE_ID}, iif(half = 1 AND n % {_RELEASED_EVERY}, {CHARGE_NANOS}, {HOLD_NANOS}), {_ID}, {_MOMENT} + half * 900
    FROM numbers CROSS JOIN owners ON place = n % (SELECT count(*) FROM owners) CROSS JOIN (SELECT 0 AS half UNION ALL SELECT 1)
    ORDER BY n, half"""

_OWNERS = """CREATE TEMP TABLE owners AS
    SELECT row_number() OVER (ORDER BY accounts.id) - 1 AS place, accounts.id AS account_id, keys.id AS key_id
    FROM accounts JOIN keys ON keys.account_id = accounts.id WHERE kind = 'customer' GROUP BY accounts.id"""

_BALANCES = """UPDATE accounts SET balance_nanos = balance_nanos - (
      SELECT coalesce(sum(charge_nanos), 0) FROM requests WHERE account_id = accounts.id AND rowid > :there)
    WHERE kind = 'customer'"""


def extend(path: Path, transfers: int, now_ms: int) -> None:
    """Add settled requests of the accounts that have keys, in turn, until requests have ``transfers`` transfers.

    Args:
        now_ms: settlement time of the youngest, in unix ms.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        _prepare(connection)
        (there,) = connection.execute("SELECT count(*) FROM transfers WHERE request_id IS NOT NULL").fetchone()
        _fill(connection, max(0, transfers - there) // TRANSFERS_A_REQUEST, now_ms)
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _prepare(connection: sqlite3.Connection) -> None:
    """Set fast, unsafe modes: after a crash the measurement starts again."""
    for name, value in (("journal_mode", "OFF"), ("synchronous", "OFF"), ("cache_size", -_CACHE_KIB), ("locking_mode", "EXCLUSIVE")):
        connection.execute(f"PRAGMA {name} = {value}")
    connection.execute(_OWNERS)
    connection.execute("CREATE UNIQUE INDEX temp.owners_by_place ON owners (place)")


def _fill(connection: sqlite3.Connection, requests: int, now_ms: int) -> None:
    (there,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM requests").fetchone()
    if not requests:
        return
    step_us = DAYS * _DAY_MS * 1000 // requests
    for first in range(0, requests, _BATCH_REQUESTS):
        end = min(first + _BATCH_REQUESTS, requests)
        values = {"first": first, "end": end, "begin": now_ms - DAYS * _DAY_MS, "step_us": step_us, "there": there}
        connection.execute("BEGIN")
        connection.execute(_REQUESTS, values)
        connection.execute(_TRANSFERS, values)
        connection.execute("COMMIT")
    connection.execute(_BALANCES, {"there": there})
