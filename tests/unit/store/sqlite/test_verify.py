"""The audit of the file itself: its pages, its references, and a copy of books that do not balance."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.core.money import Nanos
from proxy.store.sqlite import SqliteStore, open_store
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, settlement

UNGUARDED = """
    PRAGMA ignore_check_constraints = ON;
    DROP TRIGGER transfers_no_update;
    DROP TRIGGER transfers_no_delete;
    DROP TRIGGER requests_only_folded;
    DROP TRIGGER payments_no_update;
    DROP TRIGGER payments_no_delete;
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Yield a store: alice (id 3) has 1,000; `charged` took 30 of 100, `released` 0 of 100, `open` holds 100; bob (4) has 0."""
    store = await open_store(tmp_path / "books.db")
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.create_account("bob", Nanos(0), NOW_MS)
    for request_id in ("charged", "released", "open"):
        await store.place_hold(new_request(request_id, account_id=alice.id, hold_nanos=100))
    await store.settle("charged", settlement(30), NOW_MS)
    await store.settle("released", settlement(0), NOW_MS)
    yield store
    await store.close()


def tamper(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:  # foreign keys are off by default
        connection.executescript(UNGUARDED + script)


async def offenders(store: SqliteStore) -> dict[str, list[str]]:
    return {check.name: list(check.offenders) for check in await store.verify() if not check.holds}


async def test_a_reference_that_leads_nowhere_is_found(store: SqliteStore, tmp_path: Path) -> None:
    tamper(tmp_path / "books.db", "UPDATE transfers SET debit_id = 9 WHERE id = 4")

    found = (await offenders(store))["every reference leads to a row"]

    assert found == ["transfers row 4: refers to a row of accounts that is missing"]


async def test_a_transfer_cannot_be_replaced(store: SqliteStore) -> None:
    again = "REPLACE INTO transfers (id, kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES (1, 'credit', 1, 3, 1, 0)"
    assert store._writer is not None

    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await store._writer.submit(lambda connection: connection.execute(again).fetchall())

    await assert_books_balance(store)


async def test_a_page_that_was_overwritten_is_found(store: SqliteStore, tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    await store.close()
    with path.open("r+b") as file:
        with closing(sqlite3.connect(path)) as connection:
            (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'transfers_one_hold'").fetchone()
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)

    again = await open_store(path, read_only=True)
    try:
        found = await offenders(again)
    finally:
        await again.close()

    assert found["the file is sound"]


async def test_books_that_do_not_balance_are_copied_as_they_are_and_the_checks_say_so(store: SqliteStore, tmp_path: Path) -> None:
    tamper(tmp_path / "books.db", "DELETE FROM requests WHERE id = 'open'")

    checks = {check.name: check.holds for check in await store.backup(tmp_path / "copy.db")}

    assert not checks["no open hold without a live request or task"]


async def test_a_backup_that_was_cut_short_is_begun_anew(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "copy.db.partial").write_bytes(b"half of a copy")

    checks = await store.backup(tmp_path / "copy.db")

    assert all(check.holds for check in checks)
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "copy.db.partial").exists()
