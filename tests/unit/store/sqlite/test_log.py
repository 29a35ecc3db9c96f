"""The write-ahead log and backups under readers and writers: a log that a long reader let grow shrinks, no commit restarts a backup."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.core.days import UTC
from proxy.core.money import Nanos
from proxy.store.progress import Progress
from proxy.store.sqlite import open_store, writer
from proxy.store.sqlite.file import backup, migrations
from proxy.store.sqlite.store import SqliteStore
from proxy.tasks import TaskGroup
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, settlement

KEPT = 200_000


async def requests(store: SqliteStore, account_id: int, first: int, count: int) -> None:
    """Hold and settle `count` requests, ten at a time, each batch in one commit."""
    for begin in range(first, first + count, 10):
        names = [f"req_{n}" for n in range(begin, begin + 10)]
        await asyncio.gather(*(store.place_hold(new_request(name, account_id=account_id, hold_nanos=1)) for name in names))
        await asyncio.gather(*(store.settle(name, settlement(1), NOW_MS) for name in names))


async def test_a_log_that_a_long_reader_let_grow_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "LOG_BYTES_KEPT", KEPT)
    monkeypatch.setattr(writer, "CHECKPOINT_FRAMES", 60)
    log = tmp_path / "books.db-wal"
    store = await open_store(tmp_path / "books.db")
    alice = await store.create_account("alice", Nanos(10**9), NOW_MS)

    with closing(sqlite3.connect(tmp_path / "books.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM accounts").fetchone()
        await requests(store, alice.id, 0, 200)
        grown = log.stat().st_size
        await requests(store, alice.id, 200, 200)
        assert log.stat().st_size > grown > KEPT  # the reader may still need the log, even if it is checkpointed
    await requests(store, alice.id, 400, 100)

    assert log.stat().st_size <= KEPT
    await assert_books_balance(store)
    await store.close()


async def test_commits_do_not_begin_a_backup_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "STEP_PAGES", 4)
    store = await open_store(tmp_path / "books.db")
    alice = await store.create_account("alice", Nanos(10**9), NOW_MS)
    await requests(store, alice.id, 0, 300)
    seen: list[Progress] = []
    loop = asyncio.get_running_loop()
    serial = iter(range(1000, 9000, 10))

    def told(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == "pages copied":  # this is the backup's thread: let the writer commit in the middle
            asyncio.run_coroutine_threadsafe(requests(store, alice.id, next(serial), 10), loop).result()

    checks = await store.backup(tmp_path / "copy.db", told)

    pages = [progress.done for progress in seen if progress.stage == "pages copied"]
    assert pages == sorted(set(pages))
    assert len(pages) > 5
    assert pages[-1] == seen[0].total
    assert all(check.holds for check in checks)
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT count(*) FROM requests").fetchone() == (300,)  # as it was when the backup began
    await assert_books_balance(store)
    await store.close()


async def test_a_fold_brings_the_next_checkpoint_nearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a thousand slices of hundreds of pages each would count like a thousand holds."""
    monkeypatch.setattr(writer, "CHECKPOINT_FRAMES", 60)
    store = await open_store(tmp_path / "books.db", zone=UTC)
    alice = await store.create_account("alice", Nanos(10**9), NOW_MS)
    await requests(store, alice.id, 0, 200)
    checkpoints: list[int] = []
    checkpoint = writer.Writer._checkpoint

    def counted(one: writer.Writer, connection: sqlite3.Connection) -> None:
        checkpoints.append(1)
        checkpoint(one, connection)

    monkeypatch.setattr(writer.Writer, "_checkpoint", counted)

    before = len(checkpoints)
    assert await store.fold_requests(alice.id, 1_764_028_800_000) == 100

    await store.ping()
    assert len(checkpoints) == before + 1
    await store.close()


async def test_who_gives_up_on_an_audit_need_not_wait_for_its_end(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "books.db")
    loop, has_begun = asyncio.get_running_loop(), asyncio.Event()
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        loop.call_soon_threadsafe(has_begun.set)
        if len(told) == 2:
            asyncio.run_coroutine_threadsafe(given_up.wait(), loop).result()

    given_up = asyncio.Event()
    audit = TaskGroup("test").spawn(store.verify(tell), "audit")
    await has_begun.wait()

    audit.cancel()
    loop.call_later(0, given_up.set)
    with pytest.raises(asyncio.CancelledError):
        await audit

    assert len(told) <= 2
    await assert_books_balance(store)  # the next read is not delayed
    await store.close()
