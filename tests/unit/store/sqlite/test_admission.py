"""Admission: new paid work is accepted only if there is room to settle everything that is open."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proxy.core.money import Nanos
from proxy.store.errors import StoreUnavailableError
from proxy.store.sqlite import admission, open_store
from proxy.store.sqlite.store import SqliteStore
from proxy.store.values import Settled
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, new_video, reference, settlement, task_of

MORE_THAN_ANY_DISK = 2**62


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStore]:
    monkeypatch.setattr(admission, "LOOK_SECONDS", 0.01)
    opened = await open_store(tmp_path / "books.db")
    yield opened
    await assert_books_balance(opened)
    await opened.close()


async def until_ready(store: SqliteStore, *, ready: bool) -> None:
    async with asyncio.timeout(10):
        while await is_ready(store) is not ready:  # noqa: ASYNC110  a timer checks the disk
            await asyncio.sleep(0.005)


async def is_ready(store: SqliteStore) -> bool:
    try:
        await store.ping()
    except StoreUnavailableError:
        return False
    return True


async def allow_pages(store: SqliteStore, count: int) -> None:
    """Let the file grow to `count` pages (0: its current size) and fail beyond, as on a full disk."""

    def limit(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {count or connection.execute('PRAGMA page_count').fetchone()[0]}")

    assert store._writer is not None
    await store._writer._connection.run(limit)


async def test_with_less_room_than_the_reserve_what_is_open_is_settled_and_nothing_new_is_taken(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await store.create_account("acme", Nanos(1000), NOW_MS)
    await store.place_hold(new_request("req_1", account_id=account.id))
    monkeypatch.setattr(admission, "RESERVE_BYTES", MORE_THAN_ANY_DISK)
    await until_ready(store, ready=False)

    video = new_video(account_id=account.id)
    for refused in (store.place_hold(new_request("req_2", account_id=account.id)), store.place_task(video, task_of(video), NOW_MS)):
        with pytest.raises(StoreUnavailableError, match="MiB are kept for settlements"):
            await refused
    assert await store.settle("req_1", settlement(60), NOW_MS) is Settled.NOW

    monkeypatch.setattr(admission, "RESERVE_BYTES", 0)
    await until_ready(store, ready=True)
    await store.place_hold(new_request("req_2", account_id=account.id))
    after = await store.account("acme")
    assert (after.balance_nanos, after.held_nanos) == (940, 100)


async def test_while_a_settlement_waits_for_the_disk_nothing_new_is_taken(store: SqliteStore) -> None:
    account = await store.create_account("acme", Nanos(1000), NOW_MS)
    await store.place_hold(new_request("req_1", account_id=account.id))
    await allow_pages(store, 0)
    large = replace(settlement(60), note="x" * 100_000)

    with pytest.raises(StoreUnavailableError, match="full"):
        await store.settle("req_1", large, NOW_MS)

    with pytest.raises(StoreUnavailableError, match="1 settlements wait for the disk"):
        await store.place_hold(new_request("req_2", account_id=account.id))
    assert not await is_ready(store)

    await allow_pages(store, 1_000_000)
    assert not await is_ready(store)  # a page could be written, but the settlement is not done yet
    assert await store.settle("req_1", large, NOW_MS) is Settled.NOW
    assert await is_ready(store)
    await store.place_hold(new_request("req_2", account_id=account.id))


async def test_a_settlement_that_never_will_be_written_stops_nobody(store: SqliteStore) -> None:
    account = await store.create_account("acme", Nanos(1000), NOW_MS)
    await allow_pages(store, 0)
    with pytest.raises(StoreUnavailableError):
        await store.place_hold(new_request("req_1" + "x" * 100_000, account_id=account.id))
    assert store._admission is not None
    store._admission.owe("req_1")

    with pytest.raises(KeyError):  # nothing was held
        await store.settle("req_1", settlement(0), NOW_MS)

    await allow_pages(store, 1_000_000)
    assert await is_ready(store)


async def test_a_commit_that_stands_still_stops_new_work_and_what_waits_behind_it_is_refused(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "STILL_SECONDS", 0.02)
    account = await store.create_account("acme", Nanos(1000), NOW_MS)
    writer, let_go = store._writer, threading.Event()
    assert writer is not None
    stuck = writer.submit(lambda _: let_go.wait(10))
    await asyncio.sleep(0)
    held = store.place_hold(new_request("req_1", account_id=account.id))
    credited = store.credit_account("acme", Nanos(5), "", NOW_MS, reference())

    await until_ready(store, ready=False)
    with pytest.raises(StoreUnavailableError, match="a commit has not ended"):
        await held
    let_go.set()

    assert await stuck
    assert (await credited).account.balance_nanos == 1005  # everything but new paid work only waits
    await until_ready(store, ready=True)
    await store.place_hold(new_request("req_1", account_id=account.id))


async def test_a_loop_that_stood_still_itself_blames_no_commit(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "STILL_SECONDS", 0.02)
    writer, looks, let_go = store._writer, store._admission, threading.Event()
    assert writer is not None
    assert looks is not None
    stuck = writer.submit(lambda _: let_go.wait(10))
    await asyncio.sleep(0)

    time.sleep(0.1)  # noqa: ASYNC251  like a paused machine: the check of the disk comes late

    assert writer.seconds_under_way() > admission.STILL_SECONDS
    assert looks._standstill() == ""
    let_go.set()
    await stuck


def test_a_file_system_that_says_it_is_read_only_is_believed() -> None:
    read_only = next((Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines() if is_read_only(line)), None)
    if read_only is None:
        pytest.skip("no file system here is read-only")

    assert admission._shortage(read_only) == f"the file system of {read_only} is read-only"


def is_read_only(mount: str) -> bool:
    return mount.split()[3].startswith("ro,") and Path(mount.split()[1]).is_dir()


def test_a_folder_that_cannot_be_looked_at_is_left_to_the_writes(tmp_path: Path) -> None:
    assert admission._shortage(tmp_path / "gone") == ""
