"""Counts what the books show of an account or key that gets its first money limit: most of it before the writer's transaction.

Rule: what was counted up to a transfer, and what transfers since then have moved, are together what `BOOKED` says. Transfers are never
changed or removed, and their ids go up, so the rest can be counted at any later time: last inside the transaction of the limit.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from proxy.store.audit.booked import BOOKED, HOLD_DAY
from proxy.store.limit_row import IDENTITY
from proxy.store.sqlite import limits

REST_TRANSFERS_MAX = 200
"""Transfers that may be left for the transaction of the limit: a millisecond's work."""
ROUNDS_MAX = 10
"""Each counts what came during the one before, which is less and less."""

_COUNT = f"WITH limited AS (SELECT ?1 AS account_id, ?2 AS identity), {BOOKED} SELECT day, spent, held FROM booked"  # noqa: S608
# CROSS JOIN fixes the order: the newest transfers, each with its request's hold.
_SINCE = f"""
    SELECT {HOLD_DAY}, sum(iif(moved.kind = 'charge', moved.amount_nanos, 0)),
      sum(iif(moved.kind = 'hold', hold.amount_nanos, -hold.amount_nanos)), max(requests.id IS NULL)
    FROM transfers AS moved CROSS JOIN transfers AS hold ON hold.request_id = moved.request_id AND hold.kind = 'hold'
    LEFT JOIN requests ON requests.id = moved.request_id LEFT JOIN keys ON keys.id = requests.key_id
    WHERE moved.id > ?3 AND moved.kind IN ('hold', 'charge', 'release') AND hold.debit_id = ?1
      AND (?2 = '' OR {IDENTITY} = ?2 OR requests.id IS NULL)
    GROUP BY 1"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Counted:
    """What one account (``identity`` is empty) or key has spent and holds, up to a transfer."""

    account_id: int
    identity: str
    until_id: int
    days: Mapping[int, tuple[int, int]]
    """Nano-yuan spent and held, by the day of the requests' creation."""

    @property
    def rows(self) -> list[tuple[int, str, int, int, int]]:
        """Return the rows of ``spend``, without days of nothing."""
        return [(self.account_id, self.identity, day, *sums) for day, sums in self.days.items() if any(sums)]


# on whatever the connection shows: a snapshot, or the writer's transaction


def count(connection: sqlite3.Connection, account_id: int, identity: str) -> Counted:
    """Count all of the account's requests, and its days that are folded."""
    rows = connection.execute(_COUNT, (account_id, identity))
    return Counted(account_id, identity, _last_transfer(connection), {day: (spent, held) for day, spent, held in rows})


def count_new(connection: sqlite3.Connection, account_id: int, identity: str) -> Counted:
    """Return the same of a key that is made in this transaction, and so has no request."""
    return Counted(account_id, identity, _last_transfer(connection), {})


def count_rest(connection: sqlite3.Connection, before: Counted) -> Counted:
    """Add what has moved since."""
    days, whose = dict(before.days), (before.account_id, before.identity)
    for day, spent, held, is_folded in connection.execute(_SINCE, (*whose, before.until_id)):
        if is_folded and before.identity:  # settled and folded meanwhile: its key is not known any more
            return count(connection, *whose)
        known_spent, known_held = days.get(day, (0, 0))
        days[day] = (known_spent + spent, known_held + held)
    return Counted(*whose, _last_transfer(connection), days)


# before the writer's transaction


def first_of_key(connection: sqlite3.Connection, key_id: str) -> Counted | None:
    """Count for a key's first money limit. None: it has one, or there is no such key."""
    found = connection.execute(f"SELECT account_id, {IDENTITY} FROM keys WHERE id = ?", (key_id,))  # noqa: S608
    return _first(connection, found.fetchone())


def first_of_account(connection: sqlite3.Connection, name: str) -> Counted | None:
    """Count for an account's first money limit. None: it has one, or there is no such account."""
    found = connection.execute("SELECT id, '' FROM accounts WHERE name = ? AND kind = 'customer'", (name,))
    return _first(connection, found.fetchone())


def _first(connection: sqlite3.Connection, whose: tuple[int, str] | None) -> Counted | None:
    if whose is None or limits.read(connection, *whose).spend:
        return None
    with _snapshot(connection):
        so_far = count(connection, *whose)
    for _ in range(ROUNDS_MAX):
        with _snapshot(connection):
            if _last_transfer(connection) - so_far.until_id <= REST_TRANSFERS_MAX:
                break
            so_far = count_rest(connection, so_far)
    return so_far


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _last_transfer(connection: sqlite3.Connection) -> int:
    (last_id,) = connection.execute("SELECT coalesce(max(id), 0) FROM transfers").fetchone()
    return int(last_id)
