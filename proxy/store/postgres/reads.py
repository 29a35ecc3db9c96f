"""Reads of open holds, receipts and usage. What belongs together is one statement, and so of one moment."""

from proxy.core.catalog import Kind
from proxy.core.days import Zone
from proxy.core.money import Nanos
from proxy.core.video.record import TaskState
from proxy.store import receipts
from proxy.store import usage as sums
from proxy.store.postgres import ledger
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import Connection
from proxy.store.values import Census, OpenRequest, OpenTasks, Receipt, UsageQuery, UsageRow

_OPEN = """
    SELECT id, kind, account_id, hold_nanos, created_at_ms, node_id::text, coalesce(key_id, '') FROM requests
    WHERE settled_at_ms IS NULL ORDER BY created_at_ms, id"""
# The oldest of each dead node by the index of what is open, then the oldest of all: a slice reads no more than that, whatever is left.
_ORPHANED = """
    SELECT left_by.* FROM unnest($1::bigint[]) AS dead (node) CROSS JOIN LATERAL (
      SELECT id, kind, account_id, hold_nanos, created_at_ms, node_id::text, coalesce(key_id, '') FROM requests
      WHERE settled_at_ms IS NULL AND node_id = dead.node AND ($3 OR kind <> 'video') ORDER BY created_at_ms, id LIMIT $2) AS left_by
    ORDER BY created_at_ms, id LIMIT $2"""
# From node to node by the index of what is open: however much that is, the living nodes' part of it is not read.
_DEAD_OWNERS = """
    WITH RECURSIVE owners AS (
      (SELECT node_id FROM requests WHERE settled_at_ms IS NULL ORDER BY node_id LIMIT 1)
      UNION ALL
      SELECT next.node_id FROM owners CROSS JOIN LATERAL (
        SELECT node_id FROM requests WHERE settled_at_ms IS NULL AND node_id > owners.node_id ORDER BY node_id LIMIT 1) AS next)
    SELECT node_id FROM owners JOIN nodes ON nodes.id = node_id WHERE dead_at IS NOT NULL"""
_CENSUS = """
    SELECT held, holds, oldest, upstream, state, tasks, due FROM (
      SELECT coalesce(sum(hold_nanos), 0)::bigint AS held, count(*) AS holds,
        min(created_at_ms) FILTER (WHERE kind <> 'video') AS oldest
      FROM requests WHERE settled_at_ms IS NULL) AS of_requests
    LEFT JOIN (
      SELECT upstream, state, count(*) AS tasks, min(due_at_ms) AS due FROM video_tasks WHERE due_at_ms IS NOT NULL
      GROUP BY upstream, state) AS of_tasks ON true"""


async def open_requests(connection: Connection) -> list[OpenRequest]:
    """Return the requests that are not settled, oldest first."""
    return [OpenRequest(row[0], Kind(row[1]), *row[2:]) for row in await connection.fetch(_OPEN)]


async def orphaned_requests(connection: Connection, most: int | None = None, with_videos: bool = True) -> list[OpenRequest]:
    """Return the open requests whose node is dead, oldest first, at most so many."""
    dead = [node_id for (node_id,) in await connection.fetch(_DEAD_OWNERS)]
    if not dead:
        return []
    rows = await connection.fetch(_ORPHANED, dead, most, with_videos)
    return [OpenRequest(row[0], Kind(row[1]), *row[2:]) for row in rows]


async def census(connection: Connection) -> Census:
    """Return counts of open holds and tasks. Both tables have an index of the open rows."""
    rows = await connection.fetch(_CENSUS)
    held, holds, oldest = rows[0][:3]
    tasks = [OpenTasks(upstream, TaskState(state), count, due) for *_, upstream, state, count, due in rows if upstream is not None]
    return Census(Nanos(held), holds, oldest, tasks)


async def receipt(connection: Connection, request_id: str) -> tuple[Receipt, int] | None:
    """Return a request's receipt and its owner's account id, or None."""
    row = await connection.fetchrow(f"{receipts.SELECT} $1", shown(request_id))
    return None if row is None else receipts.receipt_of(row)


async def usage(connection: Connection, query: UsageQuery, zone: Zone) -> list[UsageRow]:
    """Return the sums of settled requests, folded or not, by account and group. Raises: AccountNotFoundError."""
    account_id = 0 if query.account is None else (await ledger.account_by_name(connection, query.account)).id
    rows = await connection.fetch(sums.statement(query, zone, account_id, "JOIN", "transfers"))
    return [sums.usage_row(query, row) for row in rows]
