"""Video tasks: recorded with their hold, advanced one step at a time, ended with their settlement. Functions of a connection.

A step is checked (`store/steps.py`) before it is stored, all of it or nothing.
"""

import sqlite3
from collections.abc import Callable, Collection, Sequence

from proxy.core.video import failure
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.task import Step
from proxy.store.errors import UpstreamIdTakenError
from proxy.store.sqlite import idempotency, ledger
from proxy.store.sqlite.spending import Spending
from proxy.store.steps import require_pair, require_sound
from proxy.store.task_row import COLUMNS, REACHED, asked, reached, task_of
from proxy.store.values import NewRequest, StoredAnswer

_INSERT = f"INSERT INTO video_tasks ({COLUMNS}, due_at_ms) VALUES ({', '.join('?' * (COLUMNS.count(',') + 2))})"  # noqa: S608
_UPDATE = f"UPDATE video_tasks SET {', '.join(f'{name} = ?' for name in REACHED)}, due_at_ms = ? WHERE id = ?"  # noqa: S608
_SELECT = f"SELECT {COLUMNS} FROM video_tasks"  # noqa: S608
_NOTE_USE = """
    UPDATE keys SET last_used_at_ms = ?1
    WHERE id = (SELECT key_id FROM requests WHERE requests.id = ?2) AND ?1 > coalesce(last_used_at_ms, 0)"""
_OFFSET_MAX = 2**62


def place_task(
    connection: sqlite3.Connection, request: NewRequest, owner: str, task: VideoTask, due_at_ms: int, spending: Spending
) -> None:
    """Record a request, its hold, its claim and its task.

    Raises: as `ledger.place_hold`; ValueError also if task and request do not match, or the task is not new.
    """
    require_pair(request, task)
    ledger.record(connection, request, owner, spending)
    try:
        connection.execute(_INSERT, (*asked(task), *reached(task), due_at_ms))
    except sqlite3.IntegrityError as error:
        raise ValueError(f"task {task.id} cannot be recorded: {error}") from error


def advance(
    connection: sqlite3.Connection,
    task_id: str,
    decide: Callable[[VideoTask], Step],
    now_ms: int,
    answer: StoredAnswer | None,
    spending: Spending,
) -> Step:
    """Store the step that ``decide`` returns for the current task, with its settlement if the task ends.

    An ignored step does not change the task. Its due time is stored only if the stored one has passed: a due task must not be polled
    again at once, and a late report must not postpone a poll that is already planned.

    Raises: KeyError, ValueError, UpstreamIdTakenError.
    """
    row = connection.execute(f"SELECT {COLUMNS}, due_at_ms FROM video_tasks WHERE id = ?", (task_id,)).fetchone()  # noqa: S608
    if row is None:
        raise KeyError(task_id)
    task, due_at_ms = task_of(row[:-1]), row[-1]
    step = decide(task)
    require_sound(task, step)
    if not step.ignored:
        _store(connection, step.task, step.due_at_ms)
    elif due_at_ms is not None and due_at_ms <= now_ms:
        connection.execute("UPDATE video_tasks SET due_at_ms = ? WHERE id = ?", (step.due_at_ms, task_id))
    if step.settlement is not None:
        ledger.settle(connection, task_id, step.settlement, now_ms, answer, spending)
        connection.execute(_NOTE_USE, (now_ms, task_id))
    elif answer is not None:
        idempotency.keep(connection, task_id, answer)
    return step


def task(connection: sqlite3.Connection, task_id: str) -> VideoTask | None:
    """Return one task, or None."""
    row = connection.execute(f"{_SELECT} WHERE id = ?", (task_id,)).fetchone()
    return None if row is None else task_of(row)


def tasks(connection: sqlite3.Connection, account_id: int, limit: int, offset: int) -> list[VideoTask]:
    """Return a page of an account's tasks, newest first. Raises: ValueError for a negative limit or offset."""
    if limit < 0 or offset < 0:
        raise ValueError(f"neither limit nor offset can be negative: {limit}, {offset}")
    window = (account_id, min(limit, _OFFSET_MAX), min(offset, _OFFSET_MAX))
    return _all(connection, "WHERE account_id = ? ORDER BY created_at_ms DESC, id DESC LIMIT ? OFFSET ?", window)


def task_states(connection: sqlite3.Connection, task_ids: Collection[str]) -> dict[str, TaskState]:
    """Return the states of those of these tasks that there are."""
    found = ((task_id, connection.execute("SELECT state FROM video_tasks WHERE id = ?", (task_id,)).fetchone()) for task_id in task_ids)
    return {task_id: TaskState(row[0]) for task_id, row in found if row is not None}


def due_tasks(
    connection: sqlite3.Connection, now_ms: int, limit: int, upstream: str | None, after_ms: int, with_lost: bool = True
) -> list[VideoTask]:
    """Return the tasks that are due, of one upstream or of all, the longest due first. Raises: ValueError for a negative limit."""
    if limit < 0:
        raise ValueError(f"a limit cannot be negative: {limit}")
    condition = "WHERE due_at_ms > ? AND due_at_ms <= ? AND upstream = coalesce(?, upstream)"
    if not with_lost:
        condition += " AND (state <> 'submitting' OR lost_at_ms IS NULL)"
    return _all(connection, f"{condition} ORDER BY due_at_ms LIMIT ?", (after_ms, now_ms, upstream, min(limit, _OFFSET_MAX)))


def next_due_at_ms(connection: sqlite3.Connection, after_ms: int, upstream: str | None) -> int | None:
    """Return the first due time later than ``after_ms``, of one upstream or of all, or None."""
    row = connection.execute(
        "SELECT due_at_ms FROM video_tasks WHERE due_at_ms > ? AND upstream = coalesce(?, upstream) ORDER BY due_at_ms LIMIT 1",
        (after_ms, upstream),
    ).fetchone()
    return None if row is None else int(row[0])


def open_tasks(connection: sqlite3.Connection) -> list[VideoTask]:
    """Return the tasks that have not ended, oldest first."""
    return _all(connection, "WHERE due_at_ms IS NOT NULL ORDER BY created_at_ms, id", ())


def orphaned_tasks(connection: sqlite3.Connection, living: str) -> list[VideoTask]:
    """Return the open tasks that any other owner than ``living`` placed, oldest first."""
    condition = "(SELECT owner FROM requests WHERE requests.id = video_tasks.id) IS NOT ?"
    return _all(connection, f"WHERE due_at_ms IS NOT NULL AND {condition} ORDER BY created_at_ms, id", (living,))


def unanswered_tasks(connection: sqlite3.Connection, upstream: str, since_ms: int) -> list[VideoTask]:
    """Return the tasks created since then that may or may not exist upstream, including those given up as lost."""
    condition = "WHERE upstream = ? AND created_at_ms >= ? AND upstream_id = '' AND (state = 'submitting' OR error_code = ?)"
    return _all(connection, f"{condition} ORDER BY created_at_ms", (upstream, since_ms, failure.LOST.code))


def known_upstream_ids(connection: sqlite3.Connection, upstream: str, since_ms: int) -> frozenset[str]:
    """Return the upstream's ids of the tasks created since then."""
    rows = connection.execute(
        "SELECT upstream_id FROM video_tasks WHERE upstream = ? AND created_at_ms >= ? AND upstream_id <> ''", (upstream, since_ms)
    )
    return frozenset(upstream_id for (upstream_id,) in rows)


def _store(connection: sqlite3.Connection, task: VideoTask, due_at_ms: int | None) -> None:
    try:
        connection.execute(_UPDATE, (*reached(task), due_at_ms, task.id))
    except sqlite3.IntegrityError as error:
        if "video_tasks.upstream_id" in str(error):
            raise UpstreamIdTakenError(f"{task.upstream_id} of {task.upstream} belongs to another task than {task.id}") from error
        raise ValueError(f"task {task.id} contradicts itself: {error}") from error


def _all(connection: sqlite3.Connection, condition: str, parameters: Sequence[object]) -> list[VideoTask]:
    return [task_of(row) for row in connection.execute(f"{_SELECT} {condition}", parameters)]
