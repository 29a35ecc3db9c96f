"""Faults of disk and process, in real processes: kill -9, a full disk, a failing fsync."""

import asyncio
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.core.video.record import TaskState
from proxy.store.sqlite import open_store
from proxy.store.values import StoredAnswer
from tests.support.books import assert_books_balance
from tests.support.killed import COMMON, run_until_killed
from tests.support.store import NOW_MS

ROOT = Path(__file__).parents[4]

WRITER = (
    COMMON
    + """
async def one(store, account_id, name):
    await store.place_hold(new_request(name, account_id=account_id, hold_nanos=10))
    print("held", name, flush=True)
    await store.settle(name, settlement(3), NOW_MS)
    print("settled", name, flush=True)

async def write_for_ever():
    store = await open_store(path)
    names = [account.name for account in await store.accounts()]
    if not names:
        await store.create_account("alice", Nanos(10**12), NOW_MS)
    account = await store.account("alice")
    batch = 0
    while True:
        await asyncio.gather(*(one(store, account.id, f"req_{round_}_{batch}_{n}") for n in range(8)))
        batch += 1

asyncio.run(write_for_ever())
"""
)


VIDEO_WRITER = (
    COMMON
    + """
from proxy.core.video.record import TaskState
from proxy.store.values import StoredAnswer
from tests.support.store import made, new_claim, new_video, submitted, task_of

async def submit(store, name):
    await store.advance_task(name, submitted("cgt-" + name), NOW_MS, StoredAnswer(200, name.encode()))
    print("submitted", name, flush=True)

async def finish(store, name):
    # Two polls and a third that come to the same end; each turn of theirs may be the last of this process.
    steps = await asyncio.gather(*(store.advance_task(name, made(), NOW_MS) for _ in range(3)))
    assert sum(step.settlement is not None for step in steps) == 1, name
    print("made", name, flush=True)

async def one(store, account_id, name):
    request = new_video(name, account_id=account_id, hold_nanos=10, claim=new_claim(name))
    await store.place_task(request, task_of(request), NOW_MS)
    print("placed", name, flush=True)
    await submit(store, name)
    await finish(store, name)

async def resume(store, task):
    if task.state is TaskState.SUBMITTING:
        await submit(store, task.id)
    await finish(store, task.id)

async def write_for_ever():
    store = await open_store(path)
    if not await store.accounts():
        await store.create_account("alice", Nanos(10**12), NOW_MS)
    account = await store.account("alice")
    await asyncio.gather(*(resume(store, task) for task in await store.open_tasks()))
    batch = 0
    while True:
        await asyncio.gather(*(one(store, account.id, f"vreq_{round_}_{batch}_{n}") for n in range(8)))
        batch += 1

asyncio.run(write_for_ever())
"""
)


async def test_whatever_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    chance = random.Random(20251124)
    acknowledged: list[str] = []

    for round_ in range(10):
        acknowledged += await asyncio.to_thread(run_until_killed, path, round_, chance.randint(1, 150), WRITER)

        # First a reader with the log as the kill left it, then a writer that recovers.
        reader = await open_store(path, read_only=True)
        await assert_books_balance(reader)
        await reader.close()
    store = await open_store(path)
    assert len(acknowledged) > 300
    for line in acknowledged:
        state, _, request_id = line.partition(" ")
        found = await store.receipt(request_id)
        assert found is not None, f"{request_id} was acknowledged and is lost"
        assert state == "held" or found[0].settlement is not None, f"the settlement of {request_id} was acknowledged and is lost"
    await assert_books_balance(store)
    await store.close()


async def test_videos_go_on_after_a_kill_at_any_moment_and_each_is_charged_once(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    chance = random.Random(20251125)
    acknowledged: set[str] = set()

    for round_ in range(8):
        acknowledged |= set(await asyncio.to_thread(run_until_killed, path, round_, chance.randint(1, 120), VIDEO_WRITER))

        reader = await open_store(path, read_only=True)
        await assert_books_balance(reader)
        await reader.close()
    store = await open_store(path)
    account = await store.account("alice")
    tasks = {task.id: task for task in await store.tasks(account.id, 100_000, 0)}
    for line in acknowledged:
        event, _, name = line.partition(" ")
        assert name in tasks, f"{name} was acknowledged and is lost"
        claimed = await store.claimed_key(account.id, name, NOW_MS)
        assert claimed is not None
        assert event == "placed" or claimed.answer == StoredAnswer(200, name.encode())
        assert event != "made" or tasks[name].state is TaskState.SUCCEEDED
    succeeded = [task for task in tasks.values() if task.state is TaskState.SUCCEEDED]
    still_open = await store.open_tasks()
    assert len(acknowledged) > 200
    assert len(succeeded) + len(still_open) == len(tasks)
    assert {task.id for task in still_open} == {request.id for request in await store.open_requests()}
    assert (account.balance_nanos, account.held_nanos) == (10**12 - 10 * len(succeeded), 10 * len(still_open))
    await assert_books_balance(store)
    await store.close()


FILE_LIMIT = (
    COMMON
    + """
import resource, signal

async def fill():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = await open_store(path)
    account = await store.create_account("alice", Nanos(10**12), NOW_MS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    told = []
    for batch in range(200):
        names = [f"req_{batch}_{n}" for n in range(20)]
        answers = await asyncio.gather(
            *(store.place_hold(new_request(name, account_id=account.id, hold_nanos=10)) for name in names), return_exceptions=True
        )
        told += zip(names, answers)
        if answers[-1] is not None:
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await store.place_hold(new_request("req_after", account_id=account.id, hold_nanos=10))
    for name, answer in [*told, ("req_after", None)]:
        print(name, type(answer).__name__)
    await store.close()

asyncio.run(fill())
"""
)


async def test_a_disk_that_is_full_fails_whole_batches_and_serves_again_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    command = [sys.executable, "-c", FILE_LIMIT, str(path), "0"]

    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, cwd=ROOT)

    assert run.returncode == 0, run.stderr
    told = dict(line.split() for line in run.stdout.splitlines())
    refused = [name for name, answer in told.items() if answer == "StoreUnavailableError"]
    assert len(refused) == 20
    assert set(told.values()) == {"NoneType", "StoreUnavailableError"}
    store = await open_store(path)
    there = {request.id for request in await store.open_requests()}
    assert there == told.keys() - set(refused)
    await assert_books_balance(store)
    await store.close()


FAILING_FSYNC_C = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int broken(void) { return access(getenv("DISK_IS_BROKEN"), F_OK) == 0; }
int fsync(int fd) { if (broken()) { errno = EIO; return -1; } return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { if (broken()) { errno = EIO; return -1; } return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""

FSYNC_FAILS = (
    COMMON
    + """
import os

async def break_down():
    ended = []
    store = await open_store(path, on_corrupt=ended.append)
    account = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.place_hold(new_request("req_1", account_id=account.id, hold_nanos=10))
    marker = pathlib.Path(os.environ["DISK_IS_BROKEN"])
    marker.touch()
    broken = await asyncio.gather(
        *(store.place_hold(new_request(f"req_{n}", account_id=account.id, hold_nanos=10)) for n in (2, 3)), return_exceptions=True
    )
    marker.unlink()  # the next fsync would succeed, and lie
    later = await asyncio.gather(store.place_hold(new_request("req_4", account_id=account.id, hold_nanos=10)), return_exceptions=True)
    print(*(type(answer).__name__ for answer in broken + later), len(ended), ended[0].sqlite_errorname)
    await store.close()

asyncio.run(break_down())
"""
)


@pytest.mark.skipif(shutil.which("cc") is None, reason="builds a library whose fsync fails")
async def test_an_fsync_that_fails_is_the_last_thing_that_a_process_writes(tmp_path: Path) -> None:
    path, library = tmp_path / "books.db", tmp_path / "failing.so"
    build = ["cc", "-shared", "-fPIC", "-o", str(library), "-x", "c", "-", "-ldl"]
    subprocess.run(build, input=FAILING_FSYNC_C, text=True, check=True)  # noqa: ASYNC221  nothing else runs here
    environment = os.environ | {"LD_PRELOAD": str(library), "DISK_IS_BROKEN": str(tmp_path / "broken")}
    command = [sys.executable, "-c", FSYNC_FAILS, str(path), "0"]

    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment)

    assert run.stdout.split() == ["StoreCorruptError"] * 3 + ["1", "SQLITE_IOERR_FSYNC"], run.stderr
    store = await open_store(path)
    there = {request.id for request in await store.open_requests()}
    assert "req_1" in there
    assert "req_4" not in there
    await assert_books_balance(store)
    await store.close()
