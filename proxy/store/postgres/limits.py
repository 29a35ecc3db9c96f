"""Limits of accounts and keys as rows, and what is spent within those of money. Functions of a connection.

A row belongs to an account and an identity: a key's, with all of its secrets, or the empty text, which is the account itself.
"""

import orjson

from proxy.core.days import Zone, month_of
from proxy.core.limits import NO_LIMITS, Limits
from proxy.core.money import NANOS_MAX, Nanos
from proxy.store.errors import StoreRefusedError
from proxy.store.limit_row import HAS_MONEY, NAMES, columns, of_columns
from proxy.store.postgres.connection import Connection
from proxy.store.values import KeyUse, Spent

_SUM = "coalesce(sum(spend.{0}) FILTER (WHERE {1}), 0)::bigint"
_DAY, _MONTH, _TOTAL = "spend.day = $1", "spend.day >= $2 AND spend.day < $3", "true"
_PERIODS = ", ".join(
    f"CASE WHEN limits.{period}_nanos IS NOT NULL THEN {_SUM.format('spent_nanos', when)} END, {_SUM.format('held_nanos', when)}"
    for period, when in (("day", _DAY), ("month", _MONTH), ("total", _TOTAL))
)
_USE = f"""
    SELECT accounts.name, limits.identity, {_PERIODS}
    FROM limits JOIN accounts ON accounts.id = limits.account_id
    LEFT JOIN spend ON spend.account_id = limits.account_id AND spend.identity = limits.identity
      AND (spend.day >= $2 OR limits.total_nanos IS NOT NULL)
    WHERE {HAS_MONEY} AND ($4::bigint IS NULL OR limits.account_id = $4) AND ($5::text IS NULL OR limits.identity = $5)
    GROUP BY limits.account_id, limits.identity, accounts.name ORDER BY accounts.name, limits.identity"""  # noqa: S608
_PLACES = ", ".join(f"${place}" for place in range(1, len(NAMES) + 3))
_WRITE = f"""
    INSERT INTO limits (account_id, identity, {", ".join(NAMES)}) VALUES ({_PLACES})
    ON CONFLICT (account_id, identity) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in NAMES)}"""  # noqa: S608


async def read(connection: Connection, account_id: int, identity: str) -> Limits:
    row = await connection.fetchrow(
        f"SELECT {columns()} FROM limits WHERE account_id = $1 AND identity = $2",  # noqa: S608
        account_id,
        identity,
    )
    return (of_columns(tuple(row)) if row else None) or NO_LIMITS


async def write(connection: Connection, account_id: int, identity: str, limits: Limits) -> None:
    """Store limits in place of those that were. Raises: StoreRefusedError: one that nothing could ever pass."""
    if limits == NO_LIMITS:
        await connection.execute("DELETE FROM limits WHERE account_id = $1 AND identity = $2", account_id, identity)
        return
    counts = (limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)
    money = (limits.spend.day, limits.spend.month, limits.spend.total)
    if any(limit is not None and not 0 < limit <= NANOS_MAX for limit in (*counts, *money)):
        raise StoreRefusedError("a limit must be above 0, and within what a balance can be")
    lists = (orjson.dumps(limits.models).decode(), orjson.dumps(limits.networks).decode())
    await connection.execute(_WRITE, account_id, identity, limits.expires_at_ms, limits.paused_at_ms, *lists, *counts, *money)


async def use(connection: Connection, now_ms: int, account_id: int | None, identity: str | None, zone: Zone) -> list[KeyUse]:
    """Return what is spent and held of each money limit in the periods that run: of all, of one account, of one identity."""
    day = zone.day(now_ms)
    rows = await connection.fetch(_USE, day, *month_of(day), account_id, identity)
    return [KeyUse(name, whose, _spent(*sums[:2]), _spent(*sums[2:4]), _spent(*sums[4:])) for name, whose, *sums in rows]


def _spent(spent_nanos: int | None, held_nanos: int) -> Spent | None:
    return None if spent_nanos is None else Spent(Nanos(spent_nanos), Nanos(held_nanos))
