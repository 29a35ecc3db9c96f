"""Video tasks in the file: the migration of a first-version store, and the indexes of the scheduler's queries."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from proxy.core.money import Nanos
from proxy.store.errors import StoreRefusedError
from proxy.store.sqlite import idempotency, ledger, open_store, tasks
from proxy.store.sqlite.file.migrations import scripts
from proxy.store.values import Settled
from tests.support.books import assert_books_balance
from tests.support.store import (
    NOW_MS,
    OLD_BOOKS,
    OWNER,
    made,
    new_claim,
    new_request,
    new_video,
    settlement,
    submitted,
    task_of,
    unlimited,
)


def make_version_1(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN;{scripts()[0]};PRAGMA user_version = 1;{OLD_BOOKS};COMMIT;")


async def test_a_file_of_the_first_version_goes_on_with_tasks_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    make_version_1(path)

    store = await open_store(path)

    await assert_books_balance(store)
    alice = await store.account("alice")
    assert (alice.balance_nanos, alice.held_nanos) == (970, 100)
    assert [(request.id, request.hold_nanos) for request in await store.open_requests()] == [("open", 100)]
    found = await store.receipt("charged")
    assert found is not None
    assert found[0].settlement == settlement(30, units=1)
    assert await store.settle("open", settlement(50), NOW_MS) is Settled.NOW
    video = new_video(account_id=alice.id, claim=new_claim())
    await store.place_task(video, task_of(video), NOW_MS)
    await store.advance_task(video.id, submitted(), NOW_MS)
    await store.advance_task(video.id, made(), NOW_MS)
    assert (await store.account("alice")).balance_nanos == 820  # 970 - 50 - 100
    await assert_books_balance(store)
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(scripts()),)


async def test_a_file_of_the_first_version_is_not_read_before_it_was_brought_up_to_date(tmp_path: Path) -> None:
    make_version_1(tmp_path / "books.db")

    with pytest.raises(StoreRefusedError, match="up to date"):
        await open_store(tmp_path / "books.db", read_only=True)

    with closing(sqlite3.connect(tmp_path / "books.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def statements_of(connection: sqlite3.Connection, function: Callable[..., object], *args: object) -> list[str]:
    """Return the SQL statements that a function runs on a connection."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    function(connection, *args)
    connection.set_trace_callback(None)
    return [" ".join(statement.split()) for statement in statements]


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    """Yield a connection to a store in which alice (id 3) has 1,000."""
    store = await open_store(tmp_path / "books.db")
    await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.close()
    with closing(sqlite3.connect(tmp_path / "books.db", isolation_level=None)) as opened:
        yield opened


async def test_a_request_without_a_key_costs_not_one_statement_more(connection: sqlite3.Connection) -> None:
    hold = statements_of(connection, ledger.place_hold, new_request(account_id=3), OWNER, unlimited())
    end = statements_of(connection, ledger.settle, "req_1", settlement(1), NOW_MS, None, unlimited())

    assert [statement.split("(")[0].split(" SET")[0].strip() for statement in hold + end] == [
        "UPDATE accounts",
        "INSERT INTO requests",
        "INSERT INTO transfers",
        "UPDATE requests",
        "INSERT INTO transfers",
        "UPDATE accounts",
    ]


@pytest.mark.parametrize(
    ("function", "args", "index"),
    [
        (tasks.due_tasks, (NOW_MS, 10, "ark", -1), "SEARCH video_tasks USING INDEX video_tasks_due (due_at_ms>? AND due_at_ms<?)"),
        (tasks.next_due_at_ms, (NOW_MS, "ark"), "SEARCH video_tasks USING INDEX video_tasks_due (due_at_ms>?)"),
        (tasks.open_tasks, (), "video_tasks USING INDEX video_tasks_due"),
        (tasks.unanswered_tasks, ("ark", 5), "USING INDEX video_tasks_unanswered (upstream=? AND created_at_ms>?)"),
        (tasks.tasks, (3, 10, 0), "SEARCH video_tasks USING INDEX video_tasks_by_account (account_id=?)"),
        (tasks.known_upstream_ids, ("ark", 5), "USING COVERING INDEX video_tasks_by_upstream (upstream=? AND created_at_ms>?)"),
        (
            idempotency.claimed_key,
            (3, "k", 5),
            "(account_id=? AND key=?)",
        ),
        (idempotency.forget, (5,), "SEARCH idempotency USING INDEX idempotency_by_age (created_at_ms<?)"),
        (idempotency.give_back, ("req_1",), "(request_id=?)"),
    ],
)
async def test_what_is_asked_often_is_answered_by_an_index(
    connection: sqlite3.Connection, function: Callable[..., object], args: tuple[object, ...], index: str
) -> None:
    (statement,) = statements_of(connection, function, *args)

    plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]

    assert any(index in step for step in plan), plan
    assert function is tasks.open_tasks or not any("TEMP B-TREE" in step for step in plan), plan
