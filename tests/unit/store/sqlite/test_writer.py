"""Group commit: which operations share a transaction, what each caller gets when one fails, and that nothing queued is lost."""

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from proxy.core.money import Nanos
from proxy.store.errors import InsufficientFundsError, StoreCorruptError, StoreUnavailableError
from proxy.store.sqlite import SqliteStore, open_store
from proxy.store.sqlite.batch import OpenHolds
from proxy.store.sqlite.file.connection import Connection, connection_to
from proxy.store.sqlite.writer import BATCH_OPERATIONS_MAX, CROWD_OPERATIONS, Writer
from proxy.store.values import CommitStats
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, OWNER, new_request, settlement, unlimited


@pytest.fixture
def commits() -> list[CommitStats]:
    return []


@pytest.fixture
def corrupt() -> list[BaseException]:
    return []


@pytest.fixture
async def store(tmp_path: Path, commits: list[CommitStats], corrupt: list[BaseException]) -> AsyncIterator[SqliteStore]:
    store = await open_store(tmp_path / "books.db", on_commit=commits.append, on_corrupt=corrupt.append)
    await store.create_account("alice", Nanos(10_000), NOW_MS)
    commits.clear()
    yield store
    await store.close()


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """Yield a connection to a file with one table, to test the writer alone."""
    with closing(sqlite3.connect(tmp_path / "bare.db")) as creating:
        creating.execute("CREATE TABLE notes (text TEXT NOT NULL)")
    async with connection_to(tmp_path / "bare.db", "rw") as opened:
        yield opened


def write(connection: sqlite3.Connection, text: str) -> str:
    connection.execute("INSERT INTO notes VALUES (?)", (text,))
    return text


def written(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY rowid")]


def fail_as(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


def writer_of(store: SqliteStore) -> Writer:
    assert store._writer is not None
    return store._writer


async def alice_id(store: SqliteStore) -> int:
    return (await store.account("alice")).id


async def test_what_queues_in_one_turn_is_committed_at_once(store: SqliteStore, commits: list[CommitStats]) -> None:
    account_id = await alice_id(store)

    await asyncio.gather(*(store.place_hold(new_request(f"req_{n}", account_id=account_id, hold_nanos=1)) for n in range(100)))

    assert [commit.operations for commit in commits] == [100]
    assert all(commit.seconds > 0 for commit in commits)
    await assert_books_balance(store)


async def test_what_queues_during_a_transaction_goes_into_the_next_one(store: SqliteStore, commits: list[CommitStats]) -> None:
    account_id = await alice_id(store)
    running, go_on = asyncio.Event(), Event()
    loop = asyncio.get_running_loop()

    def slow(_: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(running.set)
        go_on.wait()

    first = writer_of(store).submit(slow)
    await running.wait()
    later = []
    for n in range(30):
        later.append(store.place_hold(new_request(f"req_{n}", account_id=account_id, hold_nanos=1)))
        await asyncio.sleep(0)  # each in a separate turn
    go_on.set()
    await asyncio.gather(first, *later)

    assert [commit.operations for commit in commits] == [1, 30]
    await assert_books_balance(store)


@pytest.mark.parametrize(("before", "then"), [(CROWD_OPERATIONS, [2]), (CROWD_OPERATIONS - 1, [1, 1])], ids=["crowd", "few"])
async def test_after_a_crowd_more_are_gathered_and_otherwise_nobody_waits(
    store: SqliteStore, commits: list[CommitStats], before: int, then: list[int]
) -> None:
    account_id = await alice_id(store)
    await asyncio.gather(*(store.place_hold(new_request(f"req_{n}", account_id=account_id, hold_nanos=1)) for n in range(before)))

    first = store.place_hold(new_request("req_first", account_id=account_id, hold_nanos=1))
    for _ in range(5):  # turns in which the writer would have taken it
        await asyncio.sleep(0)
    await asyncio.gather(first, store.place_hold(new_request("req_second", account_id=account_id, hold_nanos=1)))

    assert [commit.operations for commit in commits] == [before, *then]
    await assert_books_balance(store)


async def test_a_transaction_has_a_largest_size(store: SqliteStore, commits: list[CommitStats]) -> None:
    account_id = await alice_id(store)

    holds = [store.place_hold(new_request(f"req_{n}", account_id=account_id, hold_nanos=1)) for n in range(BATCH_OPERATIONS_MAX + 1)]
    await asyncio.gather(*holds)

    assert [commit.operations for commit in commits] == [512, 1]
    await assert_books_balance(store)


async def test_the_queue_has_an_end(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    account_id = await alice_id(store)
    monkeypatch.setattr("proxy.store.sqlite.writer.QUEUE_OPERATIONS_MAX", 3)

    answers = await asyncio.gather(
        *(store.place_hold(new_request(f"req_{n}", account_id=account_id, hold_nanos=1)) for n in range(5)), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [type(None)] * 3 + [StoreUnavailableError] * 2
    await assert_books_balance(store)


async def test_a_cancelled_writer_still_tells_its_callers_and_close_commits_the_rest(store: SqliteStore, tmp_path: Path) -> None:
    account_id = await alice_id(store)
    writer = writer_of(store)
    running, go_on = asyncio.Event(), Event()
    loop = asyncio.get_running_loop()

    def slow(_: sqlite3.Connection) -> str:
        loop.call_soon_threadsafe(running.set)
        go_on.wait()
        return "told"

    under_way = writer.submit(slow)
    await running.wait()
    queued = store.place_hold(new_request("req_1", account_id=account_id, hold_nanos=7))
    (task,) = writer._tasks._tasks
    task.cancel()
    await asyncio.wait([task])
    late = store.place_hold(new_request("req_2", account_id=account_id, hold_nanos=7))
    go_on.set()
    told = await under_way
    await store.close()

    assert told == "told"
    assert queued.done()
    assert queued.exception() is None
    with pytest.raises(StoreUnavailableError):
        await late
    again = await open_store(tmp_path / "books.db")
    assert [request.id for request in await again.open_requests()] == ["req_1"]
    await assert_books_balance(again)
    await again.close()


async def test_a_commit_that_fails_fails_each_caller_of_its_batch_and_the_next_one_succeeds(
    connection: Connection, tmp_path: Path
) -> None:
    await connection.run(
        lambda it: it.executescript(
            """CREATE TABLE parents (id INTEGER PRIMARY KEY);
               CREATE TABLE children (id INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);
               PRAGMA foreign_keys = ON;"""
        )
    )
    writer = Writer(connection, OpenHolds(OWNER, unlimited()))

    def orphan(it: sqlite3.Connection) -> None:
        it.execute("INSERT INTO children VALUES (99)")  # refused at COMMIT, not here

    answers = await asyncio.gather(writer.submit(write, "a"), writer.submit(orphan), writer.submit(write, "b"), return_exceptions=True)
    after = await writer.submit(write, "c")
    await writer.close()

    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 3
    assert len({id(answer) for answer in answers}) == 3  # one exception object would collect all their tracebacks
    assert after == "c"
    assert written(tmp_path / "bare.db") == ["c"]


async def test_a_full_disk_that_ends_the_transaction_fails_the_batch_and_nothing_of_it_stays(
    connection: Connection, tmp_path: Path
) -> None:
    writer = Writer(connection, OpenHolds(OWNER, unlimited()))
    await writer.submit(write, "before")
    await connection.run(lambda it: it.execute(f"PRAGMA max_page_count = {3}").fetchone())
    ended: list[bool] = []

    def fill(it: sqlite3.Connection) -> None:
        try:
            write(it, "x" * 100_000)
        finally:
            ended.append(not it.in_transaction)

    answers = await asyncio.gather(writer.submit(write, "beside"), writer.submit(fill), return_exceptions=True)
    after = await writer.submit(write, "after")
    await writer.close()

    assert ended == [True]  # SQLite rolled back by itself, which is what this test needs
    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 2
    assert after == "after"
    assert written(tmp_path / "bare.db") == ["before", "after"]


async def test_a_statement_that_fails_alone_leaves_its_neighbours(connection: Connection, tmp_path: Path) -> None:
    writer = Writer(connection, OpenHolds(OWNER, unlimited()))

    def half(it: sqlite3.Connection) -> None:
        write(it, "half")
        raise RuntimeError("a bug")

    answers = await asyncio.gather(writer.submit(write, "a"), writer.submit(half), writer.submit(write, "b"), return_exceptions=True)
    await writer.close()

    assert [type(answer) for answer in answers] == [str, RuntimeError, str]
    assert written(tmp_path / "bare.db") == ["a", "b"]


@pytest.mark.parametrize("name", ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_CORRUPT", "SQLITE_CORRUPT_INDEX"])
async def test_after_an_error_of_the_fsync_class_nothing_is_ever_written_again(
    store: SqliteStore, corrupt: list[BaseException], name: str, tmp_path: Path
) -> None:
    account_id = await alice_id(store)
    cause = fail_as(name)

    def fail(_: sqlite3.Connection) -> None:
        raise cause

    hold = store.place_hold(new_request(account_id=account_id, hold_nanos=7))
    answers = await asyncio.gather(hold, writer_of(store).submit(fail), return_exceptions=True)

    assert [type(answer) for answer in answers] == [StoreCorruptError] * 2
    with pytest.raises(StoreCorruptError):
        await store.place_hold(new_request(account_id=account_id))
    with pytest.raises(StoreCorruptError):
        await store.ping()
    assert corrupt == [cause]
    await store.close()
    again = await open_store(tmp_path / "books.db")
    assert await again.open_requests() == []
    await assert_books_balance(again)
    await again.close()


async def test_what_was_queued_behind_a_broken_disk_is_told_so(store: SqliteStore, corrupt: list[BaseException]) -> None:
    account_id = await alice_id(store)

    def fail(_: sqlite3.Connection) -> None:
        raise fail_as("SQLITE_IOERR_FSYNC")

    first = [writer_of(store).submit(fail) for _ in range(BATCH_OPERATIONS_MAX)]
    behind = [store.place_hold(new_request(f"req_{n}", account_id=account_id, hold_nanos=1)) for n in range(3)]
    answers = await asyncio.gather(*first, *behind, return_exceptions=True)

    assert {type(answer) for answer in answers} == {StoreCorruptError}
    assert len(corrupt) == 1
    assert await store.open_requests() == []  # reads still work
    await assert_books_balance(store)


async def test_an_io_error_that_is_not_of_that_class_may_be_tried_again(store: SqliteStore, corrupt: list[BaseException]) -> None:
    def fail(_: sqlite3.Connection) -> None:
        raise fail_as("SQLITE_IOERR_WRITE")

    with pytest.raises(StoreUnavailableError):
        await writer_of(store).submit(fail)
    await store.place_hold(new_request(account_id=await alice_id(store), hold_nanos=7))

    assert corrupt == []
    await assert_books_balance(store)


async def test_after_a_failed_write_a_ping_fails_until_a_write_succeeds(
    tmp_path: Path, store: SqliteStore, commits: list[CommitStats]
) -> None:
    account_id = await alice_id(store)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # as on a full disk; Python ignores SIGXFSZ
    try:
        await store.ping()  # nothing has failed yet
        with pytest.raises(StoreUnavailableError):
            await store.place_hold(new_request(account_id=account_id, hold_nanos=7))
        with pytest.raises(InsufficientFundsError):
            await store.place_hold(new_request(account_id=account_id, hold_nanos=10_001))  # writes nothing, so proves nothing
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await store.ping()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    before = (tmp_path / "books.db-wal").stat().st_size
    commits.clear()

    await store.ping()
    grown = (tmp_path / "books.db-wal").stat().st_size - before
    await store.ping()

    assert [commit.operations for commit in commits] == [1]  # the second needed none
    assert grown > 0
    assert (await store.account("alice")).held_nanos == 0
    await assert_books_balance(store)


async def test_a_write_that_fails_beside_others_that_stand_is_a_failure_too(connection: Connection) -> None:
    writer = Writer(connection, OpenHolds(OWNER, unlimited()))

    def full(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    alone, beside = await asyncio.gather(writer.submit(full), writer.submit(write, "a"), return_exceptions=True)
    await connection.run(lambda it: it.execute("PRAGMA query_only = ON").fetchall())

    assert (type(alone), beside) == (StoreUnavailableError, "a")
    with pytest.raises(StoreUnavailableError):
        await writer.prove()
    await connection.run(lambda it: it.execute("PRAGMA query_only = OFF").fetchall())
    await writer.prove()
    await writer.close()


async def test_a_cancel_at_any_turn_of_the_loop_loses_no_hold(store: SqliteStore) -> None:
    account_id = await alice_id(store)

    async def ask(request_id: str) -> None:
        await asyncio.shield(store.place_hold(new_request(request_id, account_id=account_id, hold_nanos=1)))

    for turns in range(12):
        task = asyncio.get_running_loop().create_task(ask(f"req_{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    settled = await asyncio.gather(*(store.settle(f"req_{turns}", settlement(1), NOW_MS) for turns in range(1, 12)))

    assert all(settled)  # with 0 turns the task never began; with any, the write was queued and so it happened
    assert (await store.account("alice")).balance_nanos == 10_000 - 11
    await assert_books_balance(store)


async def test_the_log_is_checkpointed_while_writing_so_that_it_does_not_grow_without_end(store: SqliteStore, tmp_path: Path) -> None:
    account_id = await alice_id(store)

    for batch in range(40):
        await asyncio.gather(
            *(store.place_hold(new_request(f"req_{batch}_{n}", account_id=account_id, hold_nanos=1)) for n in range(200))
        )

    assert (tmp_path / "books.db").stat().st_size > 2**19  # most of 8,000 requests has reached the file itself
    assert (tmp_path / "books.db-wal").stat().st_size < 8 * 2**20
    await assert_books_balance(store)


async def test_a_refused_hold_is_no_failed_commit(store: SqliteStore, commits: list[CommitStats]) -> None:
    account_id = await alice_id(store)

    with pytest.raises(InsufficientFundsError):
        await store.place_hold(new_request(account_id=account_id, hold_nanos=10_001))

    assert [commit.operations for commit in commits] == [1]
    await assert_books_balance(store)
