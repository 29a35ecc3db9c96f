"""Video tasks: recorded with their hold, claimed by one node at a time, advanced step by step, ended with their settlement.

A step is a compare-and-swap on the task's ``version``: what was decided on another state than the stored one is decided again, so no
transaction waits for Python. A claim gives due work to one node for a while, by the clock of the database. It is no lock: a step of
whoever has none counts as well.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from proxy.core.days import Zone
from proxy.core.video import failure
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.task import Step
from proxy.store.contract import TASK_CLAIM_SECONDS
from proxy.store.errors import UpstreamIdTakenError
from proxy.store.postgres import idempotency, ledger
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import ChangedMeanwhileError, Connection
from proxy.store.steps import require_pair, require_sound
from proxy.store.task_row import ASKED, COLUMNS, REACHED, asked, reached, task_of
from proxy.store.values import NewRequest, StoredAnswer

SWAPS_MAX = 8
"""Steps of others that one may lose against before its transaction begins anew. Each of them is somebody's progress."""
_OFFSET_MAX = 2**62
_COUNT = COLUMNS.count(",") + 1
_PROMPT = ASKED.index("prompt")
_SELECT = f"SELECT {COLUMNS} FROM video_tasks"  # noqa: S608
_INSERT = f"INSERT INTO video_tasks ({COLUMNS}, due_at_ms) VALUES ({', '.join(f'${place}' for place in range(1, _COUNT + 2))})"  # noqa: S608
_RELEASED = "claimed_by = NULL, claimed_until = NULL"
_SWAP = f"""
    UPDATE video_tasks SET {", ".join(f"{name} = ${place}" for place, name in enumerate(REACHED, start=4))}, due_at_ms = $3,
      version = version + 1{{released}}
    WHERE id = $1 AND version = $2"""  # noqa: S608
_CLAIM_ENDS = f"clock_timestamp() + interval '{TASK_CLAIM_SECONDS} s'"
_CLAIMABLE = """(claimed_by IS NULL OR claimed_by = $1 OR claimed_until <= clock_timestamp()
        OR (SELECT dead_at IS NOT NULL FROM nodes WHERE nodes.id = claimed_by))"""
_NOTE_USE = """
    UPDATE keys SET last_used_at_ms = $1
    WHERE id = (SELECT key_id FROM requests WHERE requests.id = $2) AND $1 > coalesce(last_used_at_ms, 0)"""
# Work of the node $1: what no other living node has claimed. A submit that has no answer yet is its own node's until that is dead.
_DUE = """
    FROM video_tasks
    WHERE due_at_ms > $2 AND due_at_ms <= $3 AND ($4::text IS NULL OR upstream = $4)
      AND {claimable} AND ($6::boolean OR state <> 'submitting' OR lost_at_ms IS NULL)
      AND (state <> 'submitting' OR lost_at_ms IS NOT NULL OR (
        SELECT nodes.id = $1 OR dead_at IS NOT NULL FROM requests JOIN nodes ON nodes.id = node_id WHERE requests.id = video_tasks.id))
    ORDER BY due_at_ms LIMIT $5""".replace("{claimable}", _CLAIMABLE)
_CLAIM = f"""
    WITH due AS (SELECT id {_DUE} FOR NO KEY UPDATE SKIP LOCKED),
    claimed AS (
      UPDATE video_tasks SET claimed_by = $1, claimed_until = {_CLAIM_ENDS}
      FROM due WHERE video_tasks.id = due.id RETURNING {COLUMNS.replace("id,", "video_tasks.id,", 1)}, due_at_ms)
    SELECT * FROM claimed ORDER BY due_at_ms"""  # noqa: S608


async def place_task(connection: Connection, node_id: int, request: NewRequest, task: VideoTask, due_at_ms: int, zone: Zone) -> None:
    """Record a request, its hold, its claim and its task.

    Raises: as `ledger.hold`; ValueError also if task and request do not match, or the task is not new.
    """
    require_pair(request, task)
    await ledger.hold(connection, node_id, request, zone)
    try:
        values = (*_columns(asked(task)), *_columns(reached(task)), due_at_ms)
        await connection.execute(_INSERT, *values[:_PROMPT], task.prompt.encode(), *values[_PROMPT + 1 :])
    except asyncpg.IntegrityConstraintViolationError as error:
        raise ValueError(f"task {task.id} cannot be recorded: {error}") from error


async def advance(
    connection: Connection,
    node_id: int,
    task_id: str,
    decide: Callable[[VideoTask], Step],
    now_ms: int,
    answer: StoredAnswer | None,
    *,
    keeps_claim: bool,
) -> Step:
    """Store the step that ``decide`` returns for the current task, with its settlement if the task ends.

    An ignored step does not change the task. Its due time is stored only if the stored one has passed: a due task must not be polled
    again at once, and a late report must not postpone a poll that is already planned.

    Raises: KeyError, ValueError, UpstreamIdTakenError.
    """
    step = await _stored(connection, task_id, decide, now_ms, "" if keeps_claim else f", {_RELEASED}")
    if step.settlement is not None:
        await ledger.settle(connection, node_id, task_id, step.settlement, now_ms, answer)
        await connection.execute(_NOTE_USE, now_ms, task_id)
    elif answer is not None:
        await idempotency.keep(connection, task_id, answer)
    return step


async def _stored(connection: Connection, task_id: str, decide: Callable[[VideoTask], Step], now_ms: int, released: str) -> Step:
    """Decide the task's step and store it over the very state that it was decided on.

    Args: released: what else is set: SQL that begins with a comma, or nothing.

    Raises: as `advance`; ChangedMeanwhileError: others were faster again and again.
    """
    for _ in range(SWAPS_MAX):
        row = await connection.fetchrow(f"SELECT due_at_ms, version, {COLUMNS} FROM video_tasks WHERE id = $1", shown(task_id))  # noqa: S608
        if row is None:
            raise KeyError(task_id)
        (due_at_ms, version), task = row[:2], _task(row[2:])
        step = decide(task)
        require_sound(task, step)
        if not step.ignored:
            is_stored = await _swap(connection, step, version, released)
        elif due_at_ms is not None and due_at_ms <= now_ms:
            is_stored = await _put_off(connection, step, version, released)
        else:
            is_stored = True
        if is_stored:
            return step
    raise ChangedMeanwhileError(f"task {task_id} was changed {SWAPS_MAX} times meanwhile")


async def _swap(connection: Connection, step: Step, version: int, released: str) -> bool:
    """Store a step over the state of a version; return whether it was still that. Raises: ValueError, UpstreamIdTakenError."""
    task = step.task
    try:
        return (
            await connection.execute(_SWAP.format(released=released), task.id, version, step.due_at_ms, *_columns(reached(task)))
            != "UPDATE 0"
        )
    except asyncpg.UniqueViolationError as error:
        raise UpstreamIdTakenError(f"{task.upstream_id} of {task.upstream} belongs to another task than {task.id}") from error
    except asyncpg.IntegrityConstraintViolationError as error:
        raise ValueError(f"task {task.id} contradicts itself: {error}") from error


async def _put_off(connection: Connection, step: Step, version: int, released: str) -> bool:
    """Store the due time of a step that changes nothing else; return whether the task was still that of the version."""
    put_off = f"UPDATE video_tasks SET due_at_ms = $3{released} WHERE id = $1 AND version = $2"  # noqa: S608
    return await connection.execute(put_off, step.task.id, version, step.due_at_ms) != "UPDATE 0"


async def task(connection: Connection, task_id: str) -> VideoTask | None:
    """Return one task, or None."""
    row = await connection.fetchrow(f"{_SELECT} WHERE id = $1", shown(task_id))
    return None if row is None else _task(row)


async def task_states(connection: Connection, task_ids: Collection[str]) -> dict[str, TaskState]:
    """Return the states of those of these tasks that there are."""
    rows = await connection.fetch("SELECT id, state FROM video_tasks WHERE id = ANY ($1)", [shown(task_id) for task_id in task_ids])
    return {task_id: TaskState(state) for task_id, state in rows}


async def claim_task(connection: Connection, node_id: int, task_id: str) -> bool:
    """Make a task this node's, due or not, for `TASK_CLAIM_SECONDS` from now; return False where another living node has it."""
    claimed = f"UPDATE video_tasks SET claimed_by = $1, claimed_until = {_CLAIM_ENDS} WHERE id = $2 AND {_CLAIMABLE}"  # noqa: S608
    return await connection.execute(claimed, node_id, shown(task_id)) != "UPDATE 0"


async def tasks(connection: Connection, account_id: int, limit: int, offset: int) -> list[VideoTask]:
    """Return a page of an account's tasks, newest first. Raises: ValueError for a negative limit or offset."""
    if limit < 0 or offset < 0:
        raise ValueError(f"neither limit nor offset can be negative: {limit}, {offset}")
    window = (account_id, min(limit, _OFFSET_MAX), min(offset, _OFFSET_MAX))
    return await _all(connection, "WHERE account_id = $1 ORDER BY created_at_ms DESC, id DESC LIMIT $2 OFFSET $3", *window)


@dataclass(frozen=True, slots=True)
class Due:
    """Tasks that are due."""

    tasks: list[VideoTask]
    are_claimed: bool
    """Whether all of them are this node's already, for most of a claim's time to come."""


async def due_tasks(
    connection: Connection, node_id: int, now_ms: int, limit: int, upstream: str | None, after_ms: int, with_lost: bool = True
) -> Due:
    """Return the tasks that are due and no other node's, the longest due first, and claim none.

    Args: node_id: of this node; 0: nobody's, who only reads.

    Raises: ValueError for a negative limit.
    """
    if limit < 0:
        raise ValueError(f"a limit cannot be negative: {limit}")
    mine = f"claimed_by = $1 AND claimed_until > clock_timestamp() + interval '{TASK_CLAIM_SECONDS / 2} s'"
    rows = await connection.fetch(
        f"SELECT coalesce({mine}, false), {COLUMNS} {_DUE}",
        *(node_id, after_ms, now_ms, upstream, min(limit, _OFFSET_MAX), with_lost),
    )
    return Due([_task(row[1:]) for row in rows], all(row[0] for row in rows))


async def claim_due_tasks(
    connection: Connection, node_id: int, now_ms: int, limit: int, upstream: str | None, after_ms: int, with_lost: bool = True
) -> list[VideoTask]:
    """Return such tasks as this node's for `TASK_CLAIM_SECONDS` from now. What another node is claiming now is left to it."""
    rows = await connection.fetch(_CLAIM, node_id, after_ms, now_ms, upstream, min(limit, _OFFSET_MAX), with_lost)
    return [_task(row[:_COUNT]) for row in rows]


async def next_due_at_ms(connection: Connection, after_ms: int, upstream: str | None) -> int | None:
    """Return the first due time later than ``after_ms``, of one upstream or of all, or None."""
    found: int | None = await connection.fetchval(
        """SELECT due_at_ms FROM video_tasks WHERE due_at_ms > $1 AND ($2::text IS NULL OR upstream = $2)
           ORDER BY due_at_ms LIMIT 1""",
        after_ms,
        upstream,
    )
    return found


async def open_tasks(connection: Connection) -> list[VideoTask]:
    """Return the tasks that have not ended, oldest first."""
    return await _all(connection, "WHERE due_at_ms IS NOT NULL ORDER BY created_at_ms, id")


async def orphaned_tasks(connection: Connection) -> list[VideoTask]:
    """Return the open tasks whose node is dead, oldest first."""
    is_dead = "(SELECT dead_at IS NOT NULL FROM requests JOIN nodes ON nodes.id = node_id WHERE requests.id = video_tasks.id)"
    return await _all(connection, f"WHERE due_at_ms IS NOT NULL AND {is_dead} ORDER BY created_at_ms, id")


async def unanswered_tasks(connection: Connection, upstream: str, since_ms: int) -> list[VideoTask]:
    """Return the tasks created since then that may or may not exist upstream, including those given up as lost."""
    condition = "WHERE upstream = $1 AND created_at_ms >= $2 AND upstream_id = '' AND (state = 'submitting' OR error_code = $3)"
    return await _all(connection, f"{condition} ORDER BY created_at_ms", upstream, since_ms, failure.LOST.code)


async def known_upstream_ids(connection: Connection, upstream: str, since_ms: int) -> frozenset[str]:
    """Return the upstream's ids of the tasks created since then."""
    rows = await connection.fetch(
        "SELECT upstream_id FROM video_tasks WHERE upstream = $1 AND created_at_ms >= $2 AND upstream_id <> ''", upstream, since_ms
    )
    return frozenset(upstream_id for (upstream_id,) in rows)


async def _all(connection: Connection, condition: str, *args: object) -> list[VideoTask]:
    return [_task(row) for row in await connection.fetch(f"{_SELECT} {condition}", *args)]


def _columns(values: Sequence[object]) -> tuple[object, ...]:
    return tuple(shown(value) if isinstance(value, str) else value for value in values)


def _task(row: Sequence[Any]) -> VideoTask:
    cells = list(row)
    cells[_PROMPT] = cells[_PROMPT].decode()
    return task_of(cells)
