"""Video tasks: recorded with their hold, advanced one step at a time, ended with their settlement. Functions of a connection.

`proxy.core.video.task` decides each step; this module checks it against the table of transitions, and stores all of it or nothing.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.video import failure
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import TRANSITIONS, TaskError, TaskState, VideoTask
from proxy.core.video.task import Step
from proxy.store.errors import UpstreamIdTakenError
from proxy.store.sqlite import idempotency, ledger
from proxy.store.sqlite.spending import Spending
from proxy.store.values import NewRequest, StoredAnswer

_ASKED = (
    "id, account_id, model, upstream, upstream_model, prompt, task_type, resolution, duration_seconds, generate_audio, service_tier, "
    "seed, safety_identifier, billing, hold_nanos, quote_nanos, quote_tokens, rate_nanos_per_kilotoken, discount, created_at_ms, "
    "key_name"
)
_REACHED = (
    "state, upstream_id, lost_at_ms, expires_at_ms, polls, missing, urlless, odd_status, video_url, thumbnail_url, error_code, "
    "error_message, charge_nanos, ended_at_ms"
)
_COLUMNS = f"{_ASKED}, {_REACHED}"
_ASKED_COUNT = _ASKED.count(",") + 1
_INSERT = f"INSERT INTO video_tasks ({_COLUMNS}, due_at_ms) VALUES ({', '.join('?' * (_COLUMNS.count(',') + 2))})"  # noqa: S608
_UPDATE = f"UPDATE video_tasks SET {_REACHED.replace(',', ' = ?,')} = ?, due_at_ms = ? WHERE id = ?"  # noqa: S608
_SELECT = f"SELECT {_COLUMNS} FROM video_tasks"  # noqa: S608
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
    _require_pair(request, task)
    ledger.record(connection, request, owner, spending)
    try:
        connection.execute(_INSERT, (*_asked(task), *_reached(task), due_at_ms))
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
    row = connection.execute(f"SELECT {_COLUMNS}, due_at_ms FROM video_tasks WHERE id = ?", (task_id,)).fetchone()  # noqa: S608
    if row is None:
        raise KeyError(task_id)
    task, due_at_ms = _task(row[:-1]), row[-1]
    step = decide(task)
    _require_sound(task, step)
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
    return None if row is None else _task(row)


def tasks(connection: sqlite3.Connection, account_id: int, limit: int, offset: int) -> list[VideoTask]:
    """Return a page of an account's tasks, newest first. Raises: ValueError for a negative limit or offset."""
    if limit < 0 or offset < 0:
        raise ValueError(f"neither limit nor offset can be negative: {limit}, {offset}")
    window = (account_id, min(limit, _OFFSET_MAX), min(offset, _OFFSET_MAX))
    return _all(connection, "WHERE account_id = ? ORDER BY created_at_ms DESC, id DESC LIMIT ? OFFSET ?", window)


def due_tasks(connection: sqlite3.Connection, now_ms: int, limit: int, upstream: str | None, after_ms: int) -> list[VideoTask]:
    """Return the tasks that are due, of one upstream or of all, the longest due first. Raises: ValueError for a negative limit."""
    if limit < 0:
        raise ValueError(f"a limit cannot be negative: {limit}")
    condition = "WHERE due_at_ms > ? AND due_at_ms <= ? AND upstream = coalesce(?, upstream) ORDER BY due_at_ms LIMIT ?"
    return _all(connection, condition, (after_ms, now_ms, upstream, min(limit, _OFFSET_MAX)))


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
        connection.execute(_UPDATE, (*_reached(task), due_at_ms, task.id))
    except sqlite3.IntegrityError as error:
        if "video_tasks.upstream_id" in str(error):
            raise UpstreamIdTakenError(f"{task.upstream_id} of {task.upstream} belongs to another task than {task.id}") from error
        raise ValueError(f"task {task.id} contradicts itself: {error}") from error


def _require_pair(request: NewRequest, task: VideoTask) -> None:
    """Check that a new task matches its request. Raises: ValueError."""
    if request.kind is not Kind.VIDEO or task.state is not TaskState.SUBMITTING:
        raise ValueError(f"a new task is that of a video's request, and submitting: {request.kind}, {task.state}")
    asked = (request.id, request.account_id, request.model, request.upstream, request.upstream_model, request.hold_nanos)
    recorded = (task.id, task.account_id, task.model, task.upstream, task.upstream_model, task.hold_nanos)
    if (*asked, request.key_name, request.created_at_ms) != (*recorded, task.key_name, task.created_at_ms):
        raise ValueError(f"task {task.id} is not that of request {request.id}")


def _require_sound(task: VideoTask, step: Step) -> None:
    """Check a step against the rules that the books depend on. Raises: ValueError."""
    after, settlement = step.task, step.settlement
    if _asked(after) != _asked(task):
        raise ValueError(f"task {task.id} was asked otherwise than its step says")
    if after.state not in TRANSITIONS[task.state]:
        raise ValueError(f"task {task.id} cannot go from {task.state} to {after.state}")
    if (step.ignored or task.ended) and (after != task or settlement is not None):
        raise ValueError(f"task {task.id} is changed by a step that comes too late")
    if (step.due_at_ms is None) != after.ended or (settlement is not None) != (after.ended and not task.ended):
        raise ValueError(f"task {task.id} is {after.state}: it is due, or settled, at the wrong time")
    if settlement is not None and settlement.charge_nanos != after.charge_nanos:
        raise ValueError(f"task {task.id} says {after.charge_nanos}, its settlement {settlement.charge_nanos}")


def _all(connection: sqlite3.Connection, condition: str, parameters: Sequence[object]) -> list[VideoTask]:
    return [_task(row) for row in connection.execute(f"{_SELECT} {condition}", parameters)]


def _asked(task: VideoTask) -> tuple[Any, ...]:
    """Return the values of `_ASKED`: none of them ever changes."""
    who = (task.id, task.account_id, task.model, task.upstream, task.upstream_model)
    what = (task.prompt, task.task_type, task.resolution, task.duration_seconds, int(task.generate_audio), task.service_tier, task.seed)
    price = (task.billing.value, task.hold_nanos, task.quote_nanos, task.quote_tokens, task.rate_nanos_per_kilotoken, task.discount)
    return (*who, *what, task.safety_identifier, *price, task.created_at_ms, task.key_name or None)


def _reached(task: VideoTask) -> tuple[Any, ...]:
    """Return the values of `_REACHED`."""
    error = (None, None) if task.error is None else (task.error.code, task.error.message)
    counts = (task.polls, task.missing, task.urlless)
    made = (task.video_url, task.thumbnail_url, *error, task.charge_nanos, task.ended_at_ms)
    return (task.state.value, task.upstream_id, task.lost_at_ms, task.expires_at_ms, *counts, task.odd_status, *made)


def _task(row: Sequence[Any]) -> VideoTask:
    *asked, billing, hold, quote, quote_tokens, rate, discount, created_at_ms, key_name = row[:_ASKED_COUNT]
    identity, account_id, model, upstream, upstream_model, prompt, task_type, resolution, duration, audio, tier, seed, safety = asked
    state, upstream_id, lost, expires, polls, missing, urlless, odd, video, thumbnail, code, message, charge, ended = row[_ASKED_COUNT:]
    return VideoTask(
        id=identity,
        account_id=account_id,
        model=model,
        upstream=upstream,
        upstream_model=upstream_model,
        prompt=prompt,
        task_type=task_type,
        resolution=resolution,
        duration_seconds=duration,
        generate_audio=bool(audio),
        service_tier=tier,
        seed=seed,
        safety_identifier=safety,
        billing=VideoBilling(billing),
        hold_nanos=Nanos(hold),
        quote_nanos=Nanos(quote),
        quote_tokens=quote_tokens,
        rate_nanos_per_kilotoken=rate,
        discount=discount,
        created_at_ms=created_at_ms,
        state=TaskState(state),
        upstream_id=upstream_id,
        lost_at_ms=lost,
        expires_at_ms=expires,
        polls=polls,
        missing=missing,
        urlless=urlless,
        odd_status=odd,
        video_url=video,
        thumbnail_url=thumbnail,
        error=None if code is None else TaskError(code, message),
        charge_nanos=Nanos(charge),
        ended_at_ms=ended,
        key_name=key_name or "",
    )
