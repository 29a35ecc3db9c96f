"""Restoring a backup: what is refused, what is kept, and that a death at any moment never leaves half of it."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from proxy.core.money import Nanos
from proxy.store.errors import StoreLockedError, StoreRefusedError, StoreVersionError
from proxy.store.progress import Report
from proxy.store.sqlite import open_store
from proxy.store.sqlite.file.migrations import APPLICATION_ID, scripts
from proxy.store.sqlite.file.restore import restore
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, reference, settlement

ROOT = Path(__file__).parents[5]
WHEN = "20251124T160000Z"
DIES = """
import os, pathlib, sys
from proxy.store.sqlite.file import migrations, restore

left = int(sys.argv[3])

def dying(step):
    def run(*words):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return step(*words)
    return run

pathlib.Path.rename = dying(pathlib.Path.rename)
migrations.sync_folder = dying(migrations.sync_folder)
restore.restore(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "20251124T160000Z")
"""
"""A script whose process dies before the nth of the restore's renaming steps."""


@pytest.fixture
async def backup(tmp_path: Path) -> Path:
    """Return a backup of a store with one paid call, taken before alice got another ¥1."""
    store = await open_store(tmp_path / "books.db")
    account = await store.create_account("alice", Nanos(1_000), NOW_MS)
    await store.place_hold(new_request("req_1", account_id=account.id, hold_nanos=100))
    await store.settle("req_1", settlement(40), NOW_MS + 5)
    copy = tmp_path / "copies" / "monday.db"
    copy.parent.mkdir()
    await store.backup(copy)
    await store.credit_account("alice", Nanos(1_000_000_000), "", NOW_MS + 10, reference())
    await store.close()
    return copy


async def balance_in(path: Path) -> int:
    store = await open_store(path)
    try:
        await assert_books_balance(store)
        return (await store.account("alice")).balance_nanos
    finally:
        await store.close()


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


async def leave_a_log(path: Path) -> None:
    """Leave the store as a killed process does: its last transactions, ¥2 for alice, are only in the write-ahead log."""
    script = (
        "import asyncio, os, pathlib, sys\nfrom proxy.store.sqlite import open_store\n"
        "from proxy.store.values import Reference\n"
        "async def go():\n    store = await open_store(pathlib.Path(sys.argv[1]))\n"
        "    await store.credit_account('alice', 1_500_000_000, '', 1, Reference('cli', 'a'))\n"
        "    await store.credit_account('alice', 500_000_000, '', 1, Reference('cli', 'b'))\n    os._exit(9)\nasyncio.run(go())\n"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, str(path)], cwd=ROOT)
    assert path.with_name(path.name + "-wal").stat().st_size > 0


async def test_the_backup_is_the_store_and_the_old_store_is_kept_beside_it(tmp_path: Path, backup: Path) -> None:
    restored = restore(tmp_path / "books.db", backup, WHEN)

    assert restored.kept == tmp_path / f"books.db.before-restore-{WHEN}"
    assert restored.newest_at_ms == NOW_MS + 5
    assert all(check.holds for check in restored.checks)
    assert sorted(content_of(tmp_path)) == ["books.db", f"books.db.before-restore-{WHEN}", "books.db.lock"]
    assert await balance_in(tmp_path / "books.db") == 960
    assert await balance_in(restored.kept) == 1_000_000_960


async def test_the_old_log_goes_with_the_old_store_and_is_never_read_into_the_new_one(tmp_path: Path, backup: Path) -> None:
    await leave_a_log(tmp_path / "books.db")

    restored = restore(tmp_path / "books.db", backup, WHEN)

    assert not (tmp_path / "books.db-wal").exists()
    assert await balance_in(tmp_path / "books.db") == 960
    assert restored.kept is not None
    assert await balance_in(restored.kept) == 3_000_000_960


async def test_what_was_kept_can_be_restored_in_turn_with_its_log(tmp_path: Path, backup: Path) -> None:
    await leave_a_log(tmp_path / "books.db")
    kept = restore(tmp_path / "books.db", backup, WHEN).kept
    assert kept is not None
    before = content_of(tmp_path)[kept.name]

    restore(tmp_path / "books.db", kept, "20251124T170000Z")

    assert await balance_in(tmp_path / "books.db") == 3_000_000_960
    assert kept.read_bytes() == before, "a source is only read"


@pytest.mark.parametrize("at", [20, 32 + 24 + 100])  # in the head of the log, and in the page of its first frame
async def test_a_source_whose_log_cannot_be_read_is_no_older_store_but_none(tmp_path: Path, backup: Path, at: int) -> None:
    await leave_a_log(tmp_path / "books.db")
    kept = restore(tmp_path / "books.db", backup, WHEN).kept
    assert kept is not None
    log = kept.with_name(kept.name + "-wal")
    content = bytearray(log.read_bytes())
    content[at] ^= 1
    log.write_bytes(content)

    with pytest.raises(StoreRefusedError, match="-wal, is damaged; nothing was changed"):
        restore(tmp_path / "books.db", kept, "20251124T170000Z")

    assert await balance_in(tmp_path / "books.db") == 960


async def test_a_fresh_place_needs_no_old_store(tmp_path: Path, backup: Path) -> None:
    (tmp_path / "fresh").mkdir()

    restored = restore(tmp_path / "fresh/books.db", backup, WHEN)

    assert restored.kept is None
    assert await balance_in(tmp_path / "fresh/books.db") == 960
    assert (tmp_path / "fresh/books.db").stat().st_mode & 0o777 == 0o600


async def test_the_store_is_found_behind_a_link_and_the_link_stays(tmp_path: Path, backup: Path) -> None:
    (tmp_path / "link.db").symlink_to("books.db")

    restore(tmp_path / "link.db", backup, WHEN)

    assert (tmp_path / "link.db").is_symlink()
    assert await balance_in(tmp_path / "books.db") == 960


async def test_a_store_in_use_is_not_replaced_and_not_copied(tmp_path: Path, backup: Path) -> None:
    store = await open_store(tmp_path / "books.db")

    with pytest.raises(StoreLockedError, match=rf"pid {os.getpid()}, .*: stop it first, nothing was changed"):
        restore(tmp_path / "books.db", backup, WHEN)
    with pytest.raises(StoreLockedError, match="copy it with `llm-proxy backup`"):
        restore(tmp_path / "other.db", tmp_path / "books.db", WHEN)

    await assert_books_balance(store)
    await store.close()
    assert await balance_in(tmp_path / "books.db") == 1_000_000_960


def damage(backup: Path) -> None:
    content = bytearray(backup.read_bytes())
    content[4096 + 100 : 3 * 4096] = os.urandom(2 * 4096 - 100)
    backup.write_bytes(content)


def cut(backup: Path) -> None:
    backup.write_bytes(backup.read_bytes()[: 3 * 4096])


def cook(backup: Path) -> None:
    with closing(sqlite3.connect(backup)) as connection, connection:
        connection.execute("UPDATE accounts SET balance_nanos = balance_nanos + 1 WHERE name = 'alice'")


def renew(backup: Path) -> None:
    with closing(sqlite3.connect(backup)) as connection, connection:
        connection.execute(f"PRAGMA user_version = {len(scripts()) + 1}")


def interrupt(backup: Path) -> None:
    backup.with_name(backup.name + "-journal").write_bytes(b"x")


def replace_with_photos(backup: Path) -> None:
    backup.unlink()
    with closing(sqlite3.connect(backup)) as connection, connection:
        connection.execute("CREATE TABLE photos (name TEXT)")


SPOILT = {
    "damaged": (damage, "nothing was changed"),
    "cut off": (cut, "nothing was changed"),
    "cooked": (cook, r"balance = credits - debits: account alice.*nothing was changed"),
    "newer": (renew, "update the program"),
    "interrupted": (interrupt, "in mid-change"),
    "another program's": (replace_with_photos, "another program"),
    "a letter": (lambda backup: backup.write_text("Dear Sir or Madam, " * 100), "is not an SQLite database"),
    "empty": (lambda backup: backup.write_bytes(b""), "holds no store"),
    "missing": (Path.unlink, "there is no file"),
    "a folder": (lambda backup: (backup.unlink(), backup.mkdir()), "there is no file"),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILT.values(), ids=SPOILT.keys())
async def test_a_source_that_is_no_sound_store_is_refused_and_nothing_changes(
    tmp_path: Path, backup: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(backup)
    before = content_of(tmp_path)

    with pytest.raises(StoreRefusedError, match=reason):
        restore(tmp_path / "books.db", backup, WHEN)

    assert content_of(tmp_path) == before
    assert await balance_in(tmp_path / "books.db") == 1_000_000_960


async def test_the_store_itself_is_no_backup_of_it(tmp_path: Path, backup: Path) -> None:
    os.link(tmp_path / "books.db", tmp_path / "hard.db")

    for source in (tmp_path / "books.db", tmp_path / "hard.db"):
        with pytest.raises(StoreRefusedError, match="is the store itself"):
            restore(tmp_path / "books.db", source, WHEN)


async def test_a_backup_of_an_older_version_is_brought_up_to_date_first(tmp_path: Path, backup: Path) -> None:
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript(f"{scripts()[0]} PRAGMA user_version = 1;")
        connection.execute("INSERT INTO accounts (kind, name, created_at_ms) VALUES ('customer', 'alice', 7)")
        connection.commit()
    before = old.read_bytes()

    restored = restore(tmp_path / "books.db", old, WHEN)

    assert restored.newest_at_ms == 7
    assert await balance_in(tmp_path / "books.db") == 0
    assert old.read_bytes() == before
    with closing(sqlite3.connect(tmp_path / "books.db")) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


async def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_source: Path, partial: Path, _report: Report | None) -> None:
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = content_of(tmp_path)
    monkeypatch.setattr("proxy.store.sqlite.file.restore._copy", no_room)

    with pytest.raises(StoreRefusedError, match="No space left on device; the store is as it was"):
        restore(tmp_path / "books.db", backup, WHEN)

    assert content_of(tmp_path) == before


async def test_a_place_without_a_folder_is_refused_in_words(tmp_path: Path, backup: Path) -> None:
    with pytest.raises(StoreRefusedError, match=r"cannot restore to .*: No such file or directory"):
        restore(tmp_path / "missing/books.db", backup, WHEN)


STEPS = 7
"""Renames and folder syncs: the decision (2), database and log moved aside (2), their folder (1), the new name (2); no old -shm."""


@pytest.mark.parametrize("steps", range(STEPS + 1))
async def test_whenever_the_process_dies_the_next_start_has_the_old_store_or_the_new_one_whole(
    tmp_path: Path, backup: Path, steps: int
) -> None:
    await leave_a_log(tmp_path / "books.db")
    (tmp_path / "books.db-shm").unlink()
    command = [sys.executable, "-c", DIES, str(tmp_path / "books.db"), str(backup), str(steps)]
    died = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True)
    assert died.returncode == (9 if steps < STEPS else 0), died.stderr

    found = await balance_in(tmp_path / "books.db")

    assert found == (3_000_000_960 if steps == 0 else 960)
    kept = tmp_path / f"books.db.before-restore-{WHEN}"
    assert kept.exists() == (steps > 0)
    if steps:
        assert await balance_in(kept) == 3_000_000_960
    restore(tmp_path / "books.db", backup, "20251124T170000Z")  # the next restore works as usual
    assert await balance_in(tmp_path / "books.db") == 960
    assert not [name for name in content_of(tmp_path) if ".restor" in name]


async def test_no_copy_can_be_read_by_others_not_even_while_it_is_made(
    tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    fdopen = os.fdopen

    def watched(descriptor: int, mode: str) -> IO[bytes]:
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        opened: IO[bytes] = fdopen(descriptor, mode)
        return opened

    kept = restore(tmp_path / "books.db", backup, WHEN).kept
    assert kept is not None
    kept.with_name(kept.name + "-wal").touch()
    monkeypatch.setattr(os, "fdopen", watched)
    restore(tmp_path / "books.db", kept, "20251124T170000Z")

    assert modes == [0o600, 0o600]  # the database, and its log
    assert (tmp_path / "books.db").stat().st_mode & 0o777 == 0o600


async def test_a_file_that_came_up_in_a_half_done_restore_is_not_overwritten(tmp_path: Path, backup: Path) -> None:
    (tmp_path / "books.db").rename(tmp_path / f"books.db.before-restore-{WHEN}")
    shutil.copyfile(backup, tmp_path / f"books.db.restore-{WHEN}")
    (tmp_path / "books.db").write_bytes(b"somebody's")

    with pytest.raises(StoreRefusedError, match=r"move .*books\.db away"):
        await open_store(tmp_path / "books.db")

    assert (tmp_path / "books.db").read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    "name", ["books.db.restore-point", f"books.db.restore-{WHEN}.partial", "books.db.restore-", "books.db.restore-1"]
)
async def test_a_copy_that_only_sounds_like_a_restore_is_no_decision(tmp_path: Path, backup: Path, name: str) -> None:
    shutil.copyfile(backup, tmp_path / name)

    found = await balance_in(tmp_path / "books.db")

    assert found == 1_000_000_960
    assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "suffix", ["-wal", "-shm", "-journal", ".lock", f".restore-{WHEN}", ".restore-point", ".restoring", f".before-restore-{WHEN}"]
)
async def test_no_backup_is_written_where_the_store_looks_for_a_part_of_itself(tmp_path: Path, backup: Path, suffix: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    store = await open_store(tmp_path / "books.db", read_only=True)
    (tmp_path / f"books.db{suffix}").unlink(missing_ok=True)

    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(StoreRefusedError, match="a name that the store uses itself"):
            await store.backup(folder / f"books.db{suffix}")

    await store.backup(tmp_path / f"books.db.monday{suffix}")  # like any other name
    await store.close()


async def test_a_newer_backup_is_told_apart_by_its_type(tmp_path: Path, backup: Path) -> None:
    renew(backup)

    with pytest.raises(StoreVersionError):
        restore(tmp_path / "books.db", backup, WHEN)


@pytest.mark.parametrize("spoil", [lambda content: b"\0" * 100 + content[100:], lambda content: content[:5000]])
async def test_a_damaged_store_is_refused_with_what_to_do(tmp_path: Path, backup: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "books.db"
    path.write_bytes(spoil(path.read_bytes()))

    with pytest.raises(StoreRefusedError, match=r"restore from a backup: llm-proxy restore BACKUP$"):
        await open_store(path)

    assert restore(path, backup, WHEN).kept is not None
    assert await balance_in(path) == 960
