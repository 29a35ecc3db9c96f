"""Opening a file: whose it is, who may write it, and what is left untouched."""

import asyncio
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from proxy.core.money import Nanos
from proxy.store.errors import StoreLockedError, StoreRefusedError, StoreVersionError
from proxy.store.sqlite import open_store
from proxy.store.sqlite.file.connection import connection_to
from proxy.store.sqlite.file.migrations import APPLICATION_ID, scripts
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_key

ROOT = Path(__file__).parents[4]

HOLDER = """
import asyncio, pathlib, sys
from proxy.store.sqlite import open_store

async def hold():
    store = await open_store(pathlib.Path(sys.argv[1]))
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()

asyncio.run(hold())
"""


@asynccontextmanager
async def another_process_holding(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    try:
        yield process
    finally:
        process.stdin.close()
        await process.wait()


def make_database(path: Path, script: str) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path.read_bytes()


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in sorted(folder.iterdir())}


async def test_a_store_is_written_by_one_process_and_the_refusal_names_it(tmp_path: Path) -> None:
    path = tmp_path / "books.db"

    async with another_process_holding(path) as holder:
        with pytest.raises(StoreLockedError) as refused:
            await open_store(path)

    assert str(path) in str(refused.value)
    assert f"pid {holder.pid}," in str(refused.value)


async def test_the_lock_is_one_by_whichever_name_the_file_is_reached(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "books.db")
    store = await open_store(tmp_path / "books.db")

    with pytest.raises(StoreLockedError):
        await open_store(tmp_path / "link.db")

    await store.close()


async def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    async with another_process_holding(tmp_path / "books.db") as holder:
        holder.kill()
        await holder.wait()

        store = await open_store(tmp_path / "books.db")

    await store.close()


async def test_closing_lets_go_of_the_lock_and_leaves_one_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    store = await open_store(path)
    await store.create_account("alice", Nanos(5), NOW_MS)

    await store.close()
    await store.close()  # once more does no harm

    assert list(modes_in(tmp_path)) == ["books.db", "books.db.lock"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT balance_nanos FROM accounts WHERE name = 'alice'").fetchall() == [(5,)]


async def test_a_new_store_is_its_owners_alone(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "books.db")
    await store.create_account("alice", Nanos(5), NOW_MS)

    modes = modes_in(tmp_path)

    assert modes == dict.fromkeys(("books.db", "books.db-wal", "books.db-shm", "books.db.lock"), 0o600)
    await store.close()


async def test_a_file_of_a_newer_version_is_refused_and_not_one_byte_of_it_touched(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    newer = len(scripts()) + 1
    before = make_database(path, f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {newer}; CREATE TABLE new (a);")

    for read_only in (False, True):
        with pytest.raises(StoreVersionError, match=f"version {newer}"):
            await open_store(path, read_only=read_only)

    assert path.read_bytes() == before


async def test_a_newer_store_with_a_log_that_was_not_checkpointed_is_not_touched_either(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    newer = len(scripts()) + 1
    writer = sqlite3.connect(path)
    writer.executescript(f"PRAGMA journal_mode = WAL; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {newer};")
    for name in ("books.db", "books.db-wal"):  # what a crash would leave: the version stands in the log alone
        (tmp_path / f"crashed-{name}").write_bytes((tmp_path / name).read_bytes())
    writer.close()
    (tmp_path / "crashed-books.db-wal").rename(tmp_path / "crashed.db-wal")
    crashed = (tmp_path / "crashed-books.db").rename(tmp_path / "crashed.db")
    before = crashed.read_bytes(), (tmp_path / "crashed.db-wal").read_bytes()

    with pytest.raises(StoreVersionError):
        await open_store(crashed)

    assert (crashed.read_bytes(), (tmp_path / "crashed.db-wal").read_bytes()) == before


async def test_a_database_of_another_program_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    before = make_database(path, "CREATE TABLE photos (name TEXT);")

    for read_only in (False, True):
        with pytest.raises(StoreRefusedError, match="another program"):
            await open_store(path, read_only=read_only)

    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)

    for read_only in (False, True):
        with pytest.raises(StoreRefusedError, match="not an SQLite database"):
            await open_store(path, read_only=read_only)

    assert path.read_text() == "Dear Sir or Madam, " * 100


@pytest.mark.parametrize("name", ["missing/books.db", "."])
async def test_a_place_where_no_file_can_be_is_refused_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreRefusedError, match="cannot"):
        await open_store(tmp_path / name)


async def test_a_file_that_cannot_be_opened_leaves_no_thread_behind(tmp_path: Path) -> None:
    """It would end by speaking to a loop that is closed, in the midst of whatever comes next."""
    connection = connection_to(tmp_path / "missing.db", "ro")

    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        await connection.__aenter__()

    assert connection._stopping is not None
    assert connection._stopping.done()


async def test_reading_only_needs_a_file_and_creates_none(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match=r"no store at .*books\.db"):
        await open_store(tmp_path / "books.db", read_only=True)

    assert modes_in(tmp_path) == {}


async def test_a_file_that_was_never_brought_up_to_date_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "books.db").touch()

    with pytest.raises(StoreRefusedError, match="up to date"):
        await open_store(tmp_path / "books.db", read_only=True)


async def test_a_reader_sees_what_the_writing_process_commits_and_writes_nothing(tmp_path: Path) -> None:
    writer = await open_store(tmp_path / "books.db")
    reader = await open_store(tmp_path / "books.db", read_only=True)

    account = await writer.create_account("alice", Nanos(5), NOW_MS)

    assert await reader.accounts() == [account]
    await reader.ping()
    for refused in (reader.create_account("bob", Nanos(5), NOW_MS), reader.create_key("alice", new_key())):
        with pytest.raises(StoreRefusedError, match="read only"):
            await refused
    await assert_books_balance(reader)
    await reader.close()
    await writer.close()


async def test_a_migration_that_fails_leaves_the_version_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "books.db"
    store = await open_store(path)
    await store.create_account("alice", Nanos(5), NOW_MS)
    await store.close()
    good = scripts()

    with monkeypatch.context() as patched:
        patched.setattr(
            "proxy.store.sqlite.file.migrations.scripts",
            lambda: [*good, "CREATE TABLE half (a) STRICT; CREATE TABLE done (a INT) STRICT;"],
        )
        with pytest.raises(StoreRefusedError, match="cannot open"):
            await open_store(path)
    store = await open_store(path)

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchall() == [(len(good),)]
        assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name IN ('half', 'done')").fetchall() == [(0,)]
    await assert_books_balance(store)
    await store.close()


async def test_the_next_migration_runs_on_books_that_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "books.db"
    store = await open_store(path)
    account = await store.create_account("alice", Nanos(5), NOW_MS)
    await store.close()
    good = scripts()

    monkeypatch.setattr(
        "proxy.store.sqlite.file.migrations.scripts", lambda: [*good, "CREATE TABLE tasks (id TEXT PRIMARY KEY) STRICT;"]
    )
    store = await open_store(path)

    assert await store.accounts() == [account]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchall() == [(len(good) + 1,)]
    await assert_books_balance(store)
    await store.close()


async def test_the_file_is_opened_with_the_guarantees_that_money_needs(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "books.db")
    writer = store._writer
    assert writer is not None

    def settings(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers", "wal_autocheckpoint", "application_id")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await writer.submit(settings) == ["wal", 2, 1, 1, 0, APPLICATION_ID]  # 2: FULL
    await store.close()


def test_every_table_is_strict(tmp_path: Path) -> None:
    make_database(tmp_path / "books.db", scripts()[0])

    with closing(sqlite3.connect(tmp_path / "books.db")) as connection:
        tables = {
            name: strict for _, name, _, _, _, strict in connection.execute("PRAGMA table_list") if not name.startswith("sqlite_")
        }

    assert tables.keys() >= {"accounts", "keys", "requests", "transfers"}
    assert set(tables.values()) == {1}
