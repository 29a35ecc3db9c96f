"""Limits of accounts and keys as rows. Functions of a connection.

A row belongs to an account and an identity: a key's, with all of its secrets, or the empty text, which is the account itself.
"""

import sqlite3

import orjson

from proxy.core.days import Zone, month_of
from proxy.core.limits import NO_LIMITS, Limits
from proxy.core.money import NANOS_MAX, Nanos
from proxy.store.errors import StoreRefusedError
from proxy.store.limit_row import HAS_MONEY, NAMES, columns, of_columns
from proxy.store.values import KeyUse, Spent

_USE = f"""
    SELECT accounts.name, limits.identity,
      iif(limits.day_nanos IS NULL, NULL, coalesce(sum(iif(spend.day = :day, spend.spent_nanos, 0)), 0)),
      coalesce(sum(iif(spend.day = :day, spend.held_nanos, 0)), 0),
      iif(limits.month_nanos IS NULL, NULL, coalesce(sum(iif(spend.day >= :first AND spend.day < :end, spend.spent_nanos, 0)), 0)),
      coalesce(sum(iif(spend.day >= :first AND spend.day < :end, spend.held_nanos, 0)), 0),
      iif(limits.total_nanos IS NULL, NULL, coalesce(sum(spend.spent_nanos), 0)), coalesce(sum(spend.held_nanos), 0)
    FROM limits JOIN accounts ON accounts.id = limits.account_id
    LEFT JOIN spend ON spend.account_id = limits.account_id AND spend.identity = limits.identity
      AND (spend.day >= :first OR limits.total_nanos IS NOT NULL)
    WHERE {HAS_MONEY} AND (:account IS NULL OR limits.account_id = :account) AND (:identity IS NULL OR limits.identity = :identity)
    GROUP BY limits.account_id, limits.identity ORDER BY accounts.name, limits.identity"""  # noqa: S608


def read(connection: sqlite3.Connection, account_id: int, identity: str) -> Limits:
    row = connection.execute(
        f"SELECT {columns()} FROM limits WHERE account_id = ? AND identity = ?",  # noqa: S608
        (account_id, identity),
    ).fetchone()
    return (of_columns(row) if row else None) or NO_LIMITS


def write(connection: sqlite3.Connection, account_id: int, identity: str, limits: Limits) -> None:
    """Store limits in place of those that were. Raises: StoreRefusedError: one that nothing could ever pass."""
    if limits == NO_LIMITS:
        connection.execute("DELETE FROM limits WHERE account_id = ? AND identity = ?", (account_id, identity))
        return
    counts = (limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)
    money = (limits.spend.day, limits.spend.month, limits.spend.total)
    if any(limit is not None and not 0 < limit <= NANOS_MAX for limit in (*counts, *money)):
        raise StoreRefusedError("a limit must be above 0, and within what a balance can be")
    lists = (orjson.dumps(limits.models).decode(), orjson.dumps(limits.networks).decode())
    connection.execute(
        f"INSERT OR REPLACE INTO limits (account_id, identity, {', '.join(NAMES)}) VALUES (?, ?{', ?' * len(NAMES)})",  # noqa: S608
        (account_id, identity, limits.expires_at_ms, limits.paused_at_ms, *lists, *counts, *money),
    )


def use(connection: sqlite3.Connection, now_ms: int, account_id: int | None, identity: str | None, zone: Zone) -> list[KeyUse]:
    """Return what is spent and held of each money limit in the periods that run: of all, of one account, of one identity."""
    day = zone.day(now_ms)
    first, end = month_of(day)
    rows = connection.execute(_USE, {"day": day, "first": first, "end": end, "account": account_id, "identity": identity})
    return [KeyUse(name, whose, _spent(*sums[:2]), _spent(*sums[2:4]), _spent(*sums[4:])) for name, whose, *sums in rows]


def _spent(spent_nanos: int | None, held_nanos: int) -> Spent | None:
    return None if spent_nanos is None else Spent(Nanos(spent_nanos), Nanos(held_nanos))
