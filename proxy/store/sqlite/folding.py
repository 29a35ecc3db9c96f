"""Folds one slice of old requests into daily sums. Functions of a connection; `billing.folding` asks for slice after slice.

A slice is one transaction: its requests are added to the sums and deleted, or neither. Their transfers stay, so that the ledger still
shows each charge, and `verify` can compare the sums with it. A request that is still needed is not folded: one with an open hold, a
task that has not ended, or an answer stored under a key.
"""

import sqlite3

import orjson

from proxy.core.days import Zone
from proxy.core.money import Nanos
from proxy.core.retention import FoldedRequest
from proxy.store.audit.booked import DAY
from proxy.store.contract import FOLD_REQUESTS_MAX

_FOLDABLE = """
    requests.created_at_ms < ? AND settled_at_ms IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM idempotency WHERE request_id = requests.id)
    AND NOT EXISTS (SELECT 1 FROM video_tasks WHERE video_tasks.id = requests.id AND ended_at_ms IS NULL)"""
_SUMS = (
    "requests", "estimated", "holds", "hold_nanos", "charges", "charge_nanos", "shortfall_nanos", "prompt_tokens", "cached_tokens",
    "completion_tokens", "reasoning_tokens", "units", "refunded_nanos",
)  # fmt: skip
_CHOSEN = "requests.rowid IN (SELECT value FROM json_each(?))"
_ADD = f"""
    INSERT INTO request_days (account_id, day, key_id, model, kind, {", ".join(_SUMS)})
    SELECT account_id, {DAY}, coalesce(key_id, ''), model, kind, count(*), sum(usage_source = 'estimated'),
      sum(hold_nanos > 0), sum(hold_nanos), sum(charge_nanos > 0), sum(charge_nanos), sum(shortfall_nanos), sum(prompt_tokens),
      sum(cached_tokens), sum(completion_tokens), sum(reasoning_tokens), sum(units),
      coalesce(sum((SELECT sum(amount_nanos) FROM transfers WHERE request_id = requests.id AND kind = 'reversal')), 0)
    FROM requests WHERE {_CHOSEN} GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)}"""  # noqa: S608


def old_requests(connection: sqlite3.Connection, before_ms: int) -> dict[int, int]:
    """Return how many requests could be folded, by account; accounts without any are left out."""
    rows = connection.execute(
        f"""SELECT accounts.id, count(*) FROM accounts CROSS JOIN requests ON requests.account_id = accounts.id AND {_FOLDABLE}
            GROUP BY accounts.id""",  # noqa: S608
        (before_ms,),
    )
    return dict(rows.fetchall())


def accounts_to_fold(connection: sqlite3.Connection, before_ms: int) -> list[int]:
    """Return the accounts of those requests: one index lookup for each account."""
    rows = connection.execute(
        f"SELECT id FROM accounts WHERE EXISTS (SELECT 1 FROM requests WHERE account_id = accounts.id AND {_FOLDABLE}) ORDER BY id",  # noqa: S608
        (before_ms,),
    )
    return [account_id for (account_id,) in rows]


def fold(connection: sqlite3.Connection, account_id: int, before_ms: int, zone: Zone) -> int:
    """Fold an account's oldest requests, at most `FOLD_REQUESTS_MAX`, and return how many.

    Raises: ValueError: ``before_ms`` is within a day, whose sum would then be incomplete.
    """
    if before_ms != zone.begins_ms(zone.day(before_ms)):
        raise ValueError(f"days are folded whole: {before_ms} is not the beginning of one")
    rows = connection.execute(
        f"SELECT requests.rowid FROM requests WHERE account_id = ? AND {_FOLDABLE} ORDER BY created_at_ms LIMIT ?",  # noqa: S608
        (account_id, before_ms, FOLD_REQUESTS_MAX),
    ).fetchall()
    if not rows:
        return 0
    chosen = (orjson.dumps([rowid for (rowid,) in rows]).decode(),)
    connection.execute(_ADD, chosen)
    connection.execute(
        f"DELETE FROM video_tasks WHERE id IN (SELECT id FROM requests WHERE kind = 'video' AND {_CHOSEN})",  # noqa: S608
        chosen,
    )
    return connection.execute(f"DELETE FROM requests WHERE {_CHOSEN}", chosen).rowcount  # noqa: S608


def folded(connection: sqlite3.Connection, request_id: str, zone: Zone) -> FoldedRequest | None:
    """Return what the ledger still holds of a folded request, or None. A hold of 0 leaves no transfer."""
    row = connection.execute(
        """SELECT accounts.id, accounts.name, hold.created_at_ms, hold.amount_nanos,
             CASE ending.kind WHEN 'charge' THEN ending.amount_nanos ELSE 0 END,
             (SELECT coalesce(sum(amount_nanos), 0) FROM transfers WHERE request_id = hold.request_id AND kind = 'reversal')
           FROM transfers AS hold JOIN accounts ON accounts.id = hold.debit_id
           LEFT JOIN transfers AS ending ON ending.request_id = hold.request_id AND ending.kind IN ('charge', 'release')
           WHERE hold.request_id = ? AND hold.kind = 'hold' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = hold.request_id)""",
        (request_id,),
    ).fetchone()
    if row is None:
        return None
    account_id, account, created_at_ms, hold, charge, refunded = row
    day_ms = zone.begins_ms(zone.day(created_at_ms))
    return FoldedRequest(request_id, account_id, account, day_ms, Nanos(hold), Nanos(charge), Nanos(refunded))


def has_daily_sums(connection: sqlite3.Connection, at_ms: int, zone: Zone) -> bool:
    """Return True if any request of that day has been folded."""
    row = connection.execute(
        "SELECT 1 FROM accounts CROSS JOIN request_days ON account_id = accounts.id AND day = ? LIMIT 1", (zone.day(at_ms),)
    ).fetchone()
    return row is not None
