"""Counts what the books show of an account or key that gets its first money limit: most of it before the transaction of the limit.

Rule: what transfers have moved up to one of them, and what later ones have, are together what `BOOKED` says. Transfers are never
changed or removed, so the rest can be counted at any later time: last under the account's lock, in the transaction of the limit.

Nodes write beside one another: a transfer may be committed after others with higher ids. So a count goes up to the newest transfer only
once all writes have ended that were under way when it was looked up; from then on none appears below it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.store.audit.booked import BOOKED, HOLD_DAY, LIMITED
from proxy.store.limit_row import IDENTITY
from proxy.store.postgres import limits
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import Connection

REST_TRANSFERS_MAX = 200
"""Transfers that may be left for the transaction of the limit: a few milliseconds' work."""
ROUNDS_MAX = 10
"""Each counts what came during the one before, which is less and less."""
_ID_MAX = 2**63 - 1

_COUNT = f"""
    WITH limited AS (SELECT $1::bigint AS account_id, $2::text AS identity), {BOOKED}
    SELECT day, spent::bigint, held::bigint FROM booked"""  # noqa: S608
_REBUILD = f"""
    WITH {LIMITED}, {BOOKED}
    INSERT INTO spend (account_id, identity, day, spent_nanos, held_nanos) SELECT account_id, identity, day, spent, held FROM booked"""  # noqa: S608
# LIMIT keeps the planner from joining the tables as wholes: of each new transfer its hold and its request are looked up.
_MOVED = f"""
    SELECT {HOLD_DAY} AS day, coalesce(sum(moved.amount_nanos) FILTER (WHERE moved.kind = 'charge'), 0)::bigint,
      sum(CASE moved.kind WHEN 'hold' THEN hold.amount_nanos ELSE -hold.amount_nanos END)::bigint, bool_or(requests.id IS NULL)
    FROM transfers AS moved
    CROSS JOIN LATERAL (
      SELECT amount_nanos, created_at_ms FROM transfers WHERE request_id = moved.request_id AND kind = 'hold' LIMIT 1) AS hold
    LEFT JOIN LATERAL (SELECT id, key_id FROM requests WHERE id = moved.request_id LIMIT 1) AS requests ON true
    LEFT JOIN LATERAL (SELECT id, identity FROM keys WHERE id = requests.key_id LIMIT 1) AS keys ON true
    WHERE moved.id > $3 AND moved.id <= $4 AND moved.debit_id = $1 AND moved.kind IN ('hold', 'charge', 'release')
      AND ($2 = '' OR {IDENTITY} = $2 OR requests.id IS NULL)
    GROUP BY 1"""  # noqa: S608

Days = Mapping[int, tuple[int, int]]
"""Nano-yuan spent and held, by the day of the requests' creation."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one account (``identity`` is empty) or key has spent and holds, up to a transfer."""

    account_id: int
    identity: str
    until_id: int
    days: Days


# before the transaction of the limit, on a connection of its own


async def first_of_key(connection: Connection, key_id: str) -> Counted | None:
    """Count for a key's first money limit. None: it has one, or there is no such key, or nothing can be said beforehand."""
    found = f"SELECT account_id, {IDENTITY} FROM keys WHERE id = $1"  # noqa: S608
    return await _first(connection, await connection.fetchrow(found, shown(key_id)))


async def first_of_account(connection: Connection, name: str) -> Counted | None:
    """Count for an account's first money limit. None: likewise."""
    found = "SELECT id, '' FROM accounts WHERE name = $1 AND kind = 'customer'"
    return await _first(connection, await connection.fetchrow(found, shown(name)))


async def _first(connection: Connection, whose: tuple[int, str] | None) -> Counted | None:
    if whose is None or (await limits.read(connection, *whose)).spend:
        return None
    counted = await count(connection, *whose)
    for _ in range(ROUNDS_MAX):
        if counted is None or await _last_transfer(connection) - counted.until_id <= REST_TRANSFERS_MAX:
            break
        until_id = await _settled_until(connection)
        days = await _moved(connection, *whose, counted.until_id, until_id)
        counted = None if days is None else Counted(*whose, until_id, _sum(counted.days, days))
    return counted


async def count(connection: Connection, account_id: int, identity: str) -> Counted | None:
    """Count all requests, and the days that are folded, on a snapshot; what came since its last settled transfer is taken off again.

    None: a request of that little while is folded already, so that its key is not known.
    """
    until_id = await _settled_until(connection)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        shows = await _booked(connection, account_id, identity)
        since = await _moved(connection, account_id, identity, until_id, _ID_MAX)
    if since is None:
        return None
    return Counted(account_id, identity, until_id, _sum(shows, {day: (-spent, -held) for day, (spent, held) in since.items()}))


async def _settled_until(connection: Connection) -> int:
    """Return the newest transfer, once all writes have ended that may still commit one before it. It holds nobody up."""
    newest_id = await _last_transfer(connection)
    for (node_id,) in await connection.fetch("SELECT node_id FROM node_writes WHERE NOT is_fenced"):
        # Each write of a node holds this row to its end; a node that enters later takes higher ids.
        await connection.execute("SELECT 1 FROM node_writes WHERE node_id = $1 FOR SHARE", node_id)
    return newest_id


# in the transaction of the limit, whose account is locked


async def write_first(connection: Connection, account_id: int, identity: str, counted: Counted | None) -> None:
    """Write what is spent and held by days. Args: counted: before this transaction, so that only the rest is counted in it."""
    days = None
    if counted is not None and (counted.account_id, counted.identity) == (account_id, identity):
        rest = await _moved(connection, account_id, identity, counted.until_id, _ID_MAX)
        days = None if rest is None else _sum(counted.days, rest)
    if days is None:
        days = await _booked(connection, account_id, identity)
    rows = [(account_id, identity, day, spent, held) for day, (spent, held) in sorted(days.items()) if spent or held]
    await connection.executemany(
        "INSERT INTO spend (account_id, identity, day, spent_nanos, held_nanos) VALUES ($1, $2, $3, $4, $5)", rows
    )


async def rebuild(connection: Connection) -> None:
    """Write the days of all who have a money limit, of whom there is no row."""
    await connection.execute(_REBUILD)


async def _booked(connection: Connection, account_id: int, identity: str) -> Days:
    return {day: (spent, held) for day, spent, held in await connection.fetch(_COUNT, account_id, identity)}


async def _moved(connection: Connection, account_id: int, identity: str, after_id: int, until_id: int) -> Days | None:
    """Return what the transfers after one and up to another have moved. None: one is of a folded request, which may be any key's."""
    rows = await connection.fetch(_MOVED, account_id, identity, after_id, until_id)
    if identity and any(is_folded for *_, is_folded in rows):
        return None
    return {day: (spent, held) for day, spent, held, _ in rows}


async def _last_transfer(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT coalesce(max(id), 0) FROM transfers"))


def _sum(days: Days, others: Days) -> Days:
    sums = dict(days)
    for day, (spent, held) in others.items():
        known_spent, known_held = sums.get(day, (0, 0))
        sums[day] = (known_spent + spent, known_held + held)
    return sums
