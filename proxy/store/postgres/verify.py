"""Audit of the books: everything is recomputed from the transfers and compared with the stored values, on one snapshot.

Functions of a connection that is in a transaction of `REPEATABLE READ`. Each check has a savepoint, so that one that the server cannot
carry out, such as over a damaged page, does not end the others.
"""

from collections.abc import Callable

import asyncpg

from proxy.store.audit import INVARIANTS, OPEN_INVARIANTS
from proxy.store.audit.booked import DAY, ZONE_MINUTES
from proxy.store.audit.dialect import Dialect
from proxy.store.audit.invariant import CHECKED, OFFENDERS_MAX, Invariant, result, unreadable
from proxy.store.limit_row import HAS_MONEY
from proxy.store.postgres.connection import Connection, is_lost
from proxy.store.progress import Progress, Report
from proxy.store.values import Check

OPEN_DAYS = 7
"""Days before the oldest open request in which `verify_open` looks for what is held for nobody; `verify` looks at all of them."""

_LIST = """CASE kind WHEN 'image' THEN units * (price::jsonb ->> 'image')::numeric ELSE (
    SELECT (prompt_tokens - cached_tokens) * (tier ->> 'input')::numeric + cached_tokens * (tier ->> 'cached_input')::numeric
      + completion_tokens * (tier ->> 'output')::numeric
    FROM jsonb_array_elements(price::jsonb -> 'tiers') WITH ORDINALITY AS tiers (tier, place)
    WHERE coalesce((tier ->> 'up_to')::bigint, prompt_tokens) >= prompt_tokens ORDER BY place LIMIT 1) END"""
_TODAY = f"((extract(epoch FROM clock_timestamp())::bigint + 60 * {ZONE_MINUTES}) / 86400)"
DIALECT = Dialect(
    date="to_char(DATE '1970-01-01' + ({})::integer, 'YYYY-MM-DD')",
    ordered_join="JOIN",
    names_indexes=False,
    discounted=f"""
        SELECT *, ceil(list_nanos * discount / 10000) AS due_nanos FROM (
          SELECT id, kind, hold_nanos, charge_nanos, shortfall_nanos, settled_at_ms, (price::jsonb ->> 'discount')::bigint AS discount,
            {_LIST} AS list_nanos
          FROM requests WHERE strpos(price, '"discount":') > 0) AS listed""",  # noqa: S608  its parts are constants
    # Of each limit a few days by the primary key: an index of what is held would cost each hold within a money limit a new entry.
    # OFFSET keeps the planner from reading all days of all limits instead.
    held_days=f"""
        SELECT days.* FROM limits CROSS JOIN LATERAL (
          SELECT * FROM spend WHERE spend.account_id = limits.account_id AND spend.identity = limits.identity AND held_nanos > 0
            AND day >= least((SELECT min({DAY}) FROM requests WHERE settled_at_ms IS NULL), {_TODAY}) - {OPEN_DAYS} OFFSET 0) AS days
        WHERE {HAS_MONEY}""",  # noqa: S608
)
REFERENCES = Invariant(
    name="every reference leads to a row",
    figures="SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM transfers)",
    say="of {} requests and {} transfers",
    # The database has no foreign keys where the money path writes. A node is forgotten once nothing of it is open.
    offenders="""SELECT 'transfer ' || id || ': there is no account ' || account_id
                 FROM transfers CROSS JOIN LATERAL (VALUES (debit_id), (credit_id)) AS of (account_id)
                 WHERE NOT EXISTS (SELECT 1 FROM accounts WHERE accounts.id = of.account_id)
                 UNION ALL
                 SELECT 'request ' || id || ': there is no account ' || account_id
                 FROM requests WHERE NOT EXISTS (SELECT 1 FROM accounts WHERE accounts.id = account_id)
                 UNION ALL
                 SELECT 'request ' || id || ': there is no key ' || key_id
                 FROM requests WHERE key_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM keys WHERE keys.id = key_id)
                 UNION ALL
                 SELECT 'request ' || id || ': there is no node ' || node_id
                 FROM requests WHERE settled_at_ms IS NULL AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.id = node_id)""",
)


async def verify_open(connection: Connection) -> list[Check]:
    """Return the checks of accounts, open holds and open tasks."""
    return [await _check(connection, invariant, DIALECT.of_open) for invariant in OPEN_INVARIANTS]


async def verify(connection: Connection, report: Report | None = None) -> list[Check]:
    """Return the result of every check."""
    checks = (REFERENCES, *INVARIANTS)
    results: list[Check] = []
    for invariant in checks:
        if report is not None:
            report(Progress(CHECKED, len(results), len(checks)))
        results.append(await _check(connection, invariant, DIALECT.of_all))
    if report is not None:
        report(Progress(CHECKED, len(results), len(checks)))
    return results


async def _check(connection: Connection, invariant: Invariant, words: Callable[[str], str]) -> Check:
    try:
        async with connection.transaction():
            figures = await connection.fetchrow(words(invariant.figures))
            rows = await connection.fetch(
                f"SELECT offender, count(*) OVER () FROM ({words(invariant.offenders)}) AS found (offender) LIMIT {OFFENDERS_MAX}"  # noqa: S608
            )
    except asyncpg.PostgresError as error:
        if is_lost(error):
            raise
        return unreadable(invariant.name, error)
    return result(invariant, tuple(figures), [offender for offender, _ in rows], rows[0][1] - len(rows) if rows else 0)
