"""A file of version 6 is brought up to date by a process that is killed (-9) anywhere in between: the next one opens it, whole."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from proxy.core.days import UTC
from proxy.store.sqlite import open_store
from proxy.store.values import UsageQuery
from tests.support import version_six
from tests.support.books import assert_books_balance
from tests.support.promises import Faults

ROOT = Path(__file__).parents[2]
PROMISE = "a store of an older version that is killed anywhere while it is brought up to date: the next start does it, nothing is lost"
OPEN = """
import asyncio, functools, os, pathlib, signal, sqlite3, sys
from proxy.core.days import UTC

path, die_at, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
passed = 0

def step():
    global passed
    passed += 1
    if passed == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

class Dying(sqlite3.Connection):
    def executescript(self, script):
        self.set_progress_handler(step, steps)
        try:
            return super().executescript(script)
        finally:
            self.set_progress_handler(None, 0)

sqlite3.connect = functools.partial(sqlite3.connect, factory=Dying)
from proxy.store.sqlite import open_store

async def main():
    store = await open_store(path, zone=UTC)
    await store.close()

asyncio.run(main())
print(passed)
"""
"""Opens a store and dies at one of the points, so many of SQLite's steps apart, that its migrations pass. Prints how many there are."""


def opened(path: Path, die_at: int, steps: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", OPEN, str(path), str(die_at), str(steps)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.timeout(600)
@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize(
    ("requests", "kills", "steps"), [(2_000, 16, 20), pytest.param(100_000, 30, 2_000, marks=pytest.mark.long)], ids=["small", "big"]
)
async def test_a_migration_that_is_killed_is_done_by_the_next_start(
    tmp_path: Path, faults: Faults, requests: int, kills: int, steps: int
) -> None:
    made, path = tmp_path / "made.db", tmp_path / "books.db"
    version_six.write(made, requests)
    copy(made, path)
    whole = opened(path, 0, steps)
    assert whole.returncode == 0, whole.stderr
    expected = await said(path)
    points, versions = int(whole.stdout), set()

    for kill in range(kills):
        copy(made, path)
        ended = opened(path, 1 + kill * (points - 1) // (kills - 1), steps)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        faults.injected += 1
        versions.add(version_of(path))
        faults.cost([] if await said(path) == expected else [f"killed at point {kill} of {points}, it says something else"])

    print(f"{points} points; versions that the killed left: {sorted(versions)}")
    assert len(versions) > 1, "all were killed in one and the same migration"


def copy(path: Path, to: Path) -> None:
    """Copy a file with its log, in place of whatever is there."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{to}{suffix}").unlink(missing_ok=True)
        if Path(f"{path}{suffix}").exists():
            shutil.copy(f"{path}{suffix}", f"{to}{suffix}")


def version_of(path: Path) -> int:
    """Return the version that a file was left with. A copy is looked at: to look is to recover it."""
    copy(path, path.with_name("looked-at.db"))
    with closing(sqlite3.connect(path.with_name("looked-at.db"))) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


async def said(path: Path) -> list[object]:
    """Bring a file up to date, audit it, and return what it says."""
    store = await open_store(path, zone=UTC)
    try:
        await assert_books_balance(store)
        usage = [await store.usage(UsageQuery(by)) for by in ("model", "key", "day")]
        return [await store.accounts(), await store.keys(), await store.open_requests(), await store.open_tasks(), *usage]
    finally:
        await store.close()
