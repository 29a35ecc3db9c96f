"""Folds one slice of old requests into daily sums. `billing.folding` asks for slice after slice.

Any node may fold, and two may fold one account at a time: each takes rows that the other has not locked.
"""

from proxy.core.days import Zone
from proxy.core.retention import FoldedRequest
from proxy.store.contract import FOLD_REQUESTS_MAX
from proxy.store.daily_sums import ADD, FOLDABLE, LEFT, folded_of, require_whole_days
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import Connection

_CHOSEN = "requests.id = ANY ($1::text[])"


async def old_requests(connection: Connection, before_ms: int) -> dict[int, int]:
    """Return how many requests could be folded, by account; accounts without any are left out."""
    rows = await connection.fetch(
        f"SELECT account_id, count(*) FROM requests WHERE {FOLDABLE.format(before_ms=before_ms)} GROUP BY account_id"  # noqa: S608
    )
    return dict(rows)


async def accounts_to_fold(connection: Connection, before_ms: int) -> list[int]:
    """Return the accounts of those requests: one index lookup for each account."""
    # The LIMIT keeps the planner from joining the two tables as wholes.
    rows = await connection.fetch(
        f"""SELECT accounts.id FROM accounts CROSS JOIN LATERAL (
              SELECT 1 FROM requests WHERE account_id = accounts.id AND {FOLDABLE.format(before_ms=before_ms)}
              ORDER BY created_at_ms LIMIT 1) AS oldest
            ORDER BY accounts.id"""  # noqa: S608
    )
    return [account_id for (account_id,) in rows]


async def fold(connection: Connection, account_id: int, before_ms: int, zone: Zone) -> int:
    """Fold an account's oldest requests, at most `FOLD_REQUESTS_MAX`, and return how many.

    Raises: ValueError: ``before_ms`` is within a day, whose sum would then be incomplete.
    """
    require_whole_days(before_ms, zone)
    rows = await connection.fetch(
        f"""SELECT id FROM requests WHERE account_id = $1 AND {FOLDABLE.format(before_ms=before_ms)}
            ORDER BY created_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED""",  # noqa: S608
        *(account_id, FOLD_REQUESTS_MAX),
    )
    if not rows:
        return 0
    chosen = [request_id for (request_id,) in rows]
    await connection.execute(ADD.format(chosen=_CHOSEN), chosen)
    await connection.execute("DELETE FROM video_tasks WHERE id = ANY ($1::text[])", chosen)
    await connection.execute(f"DELETE FROM requests WHERE {_CHOSEN}", chosen)  # noqa: S608
    return len(chosen)


async def folded(connection: Connection, request_id: str, zone: Zone) -> FoldedRequest | None:
    """Return what the ledger still holds of a folded request, or None. A hold of 0 leaves no transfer."""
    row = await connection.fetchrow(f"{LEFT} $1", shown(request_id))
    return None if row is None else folded_of(request_id, row, zone)


async def has_daily_sums(connection: Connection, at_ms: int, zone: Zone) -> bool:
    """Return True if any request of that day has been folded."""
    found = await connection.fetchval(
        """SELECT 1 FROM accounts CROSS JOIN LATERAL (
             SELECT 1 FROM request_days WHERE account_id = accounts.id AND day = $1 LIMIT 1) AS folded LIMIT 1""",
        zone.day(at_ms),
    )
    return found is not None
