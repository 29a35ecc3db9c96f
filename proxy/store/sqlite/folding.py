"""Folds one slice of old requests into daily sums. Functions of a connection; `billing.folding` asks for slice after slice."""

import sqlite3

import orjson

from proxy.core.days import Zone
from proxy.core.retention import FoldedRequest
from proxy.store.contract import FOLD_REQUESTS_MAX
from proxy.store.daily_sums import ADD, FOLDABLE, LEFT, folded_of, require_whole_days

_CHOSEN = "requests.rowid IN (SELECT value FROM json_each(?))"


def old_requests(connection: sqlite3.Connection, before_ms: int) -> dict[int, int]:
    """Return how many requests could be folded, by account; accounts without any are left out."""
    rows = connection.execute(
        f"""SELECT accounts.id, count(*) FROM accounts
            CROSS JOIN requests ON requests.account_id = accounts.id AND {FOLDABLE.format(before_ms=before_ms)}
            GROUP BY accounts.id"""  # noqa: S608
    )
    return dict(rows.fetchall())


def accounts_to_fold(connection: sqlite3.Connection, before_ms: int) -> list[int]:
    """Return the accounts of those requests: one index lookup for each account."""
    rows = connection.execute(
        f"""SELECT id FROM accounts
            WHERE EXISTS (SELECT 1 FROM requests WHERE account_id = accounts.id AND {FOLDABLE.format(before_ms=before_ms)})
            ORDER BY id"""  # noqa: S608
    )
    return [account_id for (account_id,) in rows]


def fold(connection: sqlite3.Connection, account_id: int, before_ms: int, zone: Zone) -> int:
    """Fold an account's oldest requests, at most `FOLD_REQUESTS_MAX`, and return how many.

    Raises: ValueError: ``before_ms`` is within a day, whose sum would then be incomplete.
    """
    require_whole_days(before_ms, zone)
    rows = connection.execute(
        f"SELECT requests.rowid FROM requests WHERE account_id = ? AND {FOLDABLE.format(before_ms=before_ms)} "  # noqa: S608
        "ORDER BY created_at_ms LIMIT ?",
        (account_id, FOLD_REQUESTS_MAX),
    ).fetchall()
    if not rows:
        return 0
    chosen = (orjson.dumps([rowid for (rowid,) in rows]).decode(),)
    connection.execute(ADD.format(chosen=_CHOSEN), chosen)
    connection.execute(
        f"DELETE FROM video_tasks WHERE id IN (SELECT id FROM requests WHERE kind = 'video' AND {_CHOSEN})",  # noqa: S608
        chosen,
    )
    return connection.execute(f"DELETE FROM requests WHERE {_CHOSEN}", chosen).rowcount  # noqa: S608


def folded(connection: sqlite3.Connection, request_id: str, zone: Zone) -> FoldedRequest | None:
    """Return what the ledger still holds of a folded request, or None. A hold of 0 leaves no transfer."""
    row = connection.execute(f"{LEFT} ?", (request_id,)).fetchone()
    return None if row is None else folded_of(request_id, row, zone)


def has_daily_sums(connection: sqlite3.Connection, at_ms: int, zone: Zone) -> bool:
    """Return True if any request of that day has been folded."""
    row = connection.execute(
        "SELECT 1 FROM accounts CROSS JOIN request_days ON account_id = accounts.id AND day = ? LIMIT 1", (zone.day(at_ms),)
    ).fetchone()
    return row is not None
