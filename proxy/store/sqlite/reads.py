"""Reads of open holds, receipts and usage. Functions of a read-only connection."""

import sqlite3

from proxy.core.catalog import Kind
from proxy.core.days import Zone
from proxy.core.money import Nanos
from proxy.core.video.record import TaskState
from proxy.store import receipts
from proxy.store import usage as sums
from proxy.store.sqlite import ledger
from proxy.store.values import Census, OpenRequest, OpenTasks, Receipt, UsageQuery, UsageRow

_OPEN = """
    SELECT id, kind, account_id, hold_nanos, created_at_ms, owner, coalesce(key_id, '') FROM requests
    WHERE settled_at_ms IS NULL {whose} ORDER BY created_at_ms, rowid"""


def ping(connection: sqlite3.Connection) -> None:
    """Read one row of the file itself, bypassing the program's caches."""
    connection.execute("SELECT 1 FROM accounts WHERE id = 1").fetchone()


def open_requests(connection: sqlite3.Connection) -> list[OpenRequest]:
    """Return the requests that are not settled, oldest first."""
    return [OpenRequest(request_id, Kind(kind), *rest) for request_id, kind, *rest in connection.execute(_OPEN.format(whose=""))]


def orphaned_requests(
    connection: sqlite3.Connection, living: str, most: int | None = None, with_videos: bool = True
) -> list[OpenRequest]:
    """Return the open requests that any other owner than ``living`` placed, oldest first, at most so many."""
    whose = "AND owner IS NOT ?" + ("" if with_videos else " AND kind <> 'video'")
    rows = connection.execute(f"{_OPEN.format(whose=whose)} LIMIT ?", (living, -1 if most is None else most))
    return [OpenRequest(request_id, Kind(kind), *rest) for request_id, kind, *rest in rows]


def census(connection: sqlite3.Connection) -> Census:
    """Return counts of open holds and tasks. Both tables have an index of the open rows."""
    tasks = connection.execute(
        "SELECT upstream, state, count(*), min(due_at_ms) FROM video_tasks WHERE due_at_ms IS NOT NULL GROUP BY upstream, state"
    ).fetchall()
    held, holds, oldest = connection.execute(
        """
        SELECT coalesce(sum(hold_nanos), 0), count(*), min(CASE WHEN kind <> 'video' THEN created_at_ms END)
        FROM requests WHERE settled_at_ms IS NULL"""
    ).fetchone()
    return Census(Nanos(held), holds, oldest, [OpenTasks(upstream, TaskState(state), *rest) for upstream, state, *rest in tasks])


def receipt(connection: sqlite3.Connection, request_id: str) -> tuple[Receipt, int] | None:
    """Return a request's receipt and its owner's account id, or None."""
    row = connection.execute(f"{receipts.SELECT} ?", (request_id,)).fetchone()
    return None if row is None else receipts.receipt_of(row)


def usage(connection: sqlite3.Connection, query: UsageQuery, zone: Zone) -> list[UsageRow]:
    """Return the sums of settled requests, folded or not, by account and group. Raises: AccountNotFoundError."""
    account_id = 0 if query.account is None else ledger.account_by_name(connection, query.account).id
    reversals = "transfers INDEXED BY transfers_reversals"
    rows = connection.execute(sums.statement(query, zone, account_id, "CROSS JOIN", reversals))
    return [sums.usage_row(query, row) for row in rows]
