"""Payments in the file: those of a store of the version before references, and that none is ever changed."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.core.money import Nanos
from proxy.store.sqlite import open_store
from proxy.store.sqlite.file.migrations import scripts
from proxy.store.sqlite.store import SqliteStore
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, OLD_BOOKS, reference

BEFORE = next(number for number, script in enumerate(scripts()) if "CREATE TABLE payments" in script)
"""The version before references."""
REFUND = """
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('refund', 3, 1, 20, 5);
    UPDATE accounts SET balance_nanos = balance_nanos - 20 WHERE id = 3;
"""


@pytest.fixture
async def upgraded(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store of the version before, in which alice (3) was credited with 1,000 and paid back 20."""
    with closing(sqlite3.connect(tmp_path / "books.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for script in scripts()[:BEFORE]:
            connection.executescript(f"BEGIN;{script};COMMIT;")
        connection.executescript(f"PRAGMA user_version = {BEFORE}; BEGIN;{OLD_BOOKS}{REFUND};COMMIT;")
    store = await open_store(tmp_path / "books.db")
    yield store
    try:
        await assert_books_balance(store)
    finally:
        await store.close()


async def test_what_was_booked_before_references_has_one_of_its_own_each(upgraded: SqliteStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "books.db")) as connection:
        rows = connection.execute(
            "SELECT source, reference, account_id, amount_nanos, transfer_id, created_at_ms FROM payments"
        ).fetchall()

    assert rows == [("transfer", "1", 3, 1000, 1, 0), ("transfer", "5", 3, -20, 5, 5)]


async def test_an_upgraded_store_books_each_payment_once(upgraded: SqliteStore) -> None:
    bookings = [await upgraded.credit_account("alice", Nanos(7), "", NOW_MS, reference("1")) for _ in range(2)]

    assert [(booking.is_new, booking.account.balance_nanos) for booking in bookings] == [(True, 957), (False, 957)]  # 970 - 20 + 7


@pytest.mark.parametrize("statement", ["UPDATE payments SET amount_nanos = 5", "DELETE FROM payments"])
async def test_no_payment_is_ever_changed_or_forgotten(upgraded: SqliteStore, tmp_path: Path, statement: str) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "books.db")) as connection,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        connection.execute(statement)
