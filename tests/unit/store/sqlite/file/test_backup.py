"""Backups of a running store: a file of its own with the same books, and never one that somebody else has."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.money import Nanos
from proxy.store.errors import StoreRefusedError
from proxy.store.sqlite import SqliteStore, open_store
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, pay, settlement


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await open_store(tmp_path / "books.db")
    yield opened
    await opened.close()


async def test_a_backup_is_a_store_of_its_own_with_the_same_books(store: SqliteStore, tmp_path: Path) -> None:
    account = await store.create_account("alice", Nanos(1000), NOW_MS)
    await pay(store, new_request("req_1", account_id=account.id), settlement(40))
    destination = tmp_path / "copy" / "books.db"
    destination.parent.mkdir()

    checks = await store.backup(destination)
    await pay(store, new_request("req_2", account_id=account.id), settlement(40))  # after the copy was taken

    assert checks
    assert all(check.holds for check in checks)
    assert [path.name for path in destination.parent.iterdir()] == ["books.db"]
    restored = await open_store(destination)
    assert (await restored.account("alice")).balance_nanos == 960
    await assert_books_balance(restored)
    await restored.close()


async def test_a_backup_is_never_written_over_a_file(store: SqliteStore, tmp_path: Path) -> None:
    destination = tmp_path / "precious"
    destination.write_text("do not lose me")

    with pytest.raises(StoreRefusedError, match="precious"):
        await store.backup(destination)

    assert destination.read_text() == "do not lose me"


async def test_a_backup_is_not_written_into_a_file_that_somebody_put_in_its_way(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in a folder that others may write to, such as /tmp, a link in place of the unfinished copy would send the copy to them
    theirs = tmp_path / "theirs"
    theirs.touch()
    unlink = Path.unlink

    def unlink_and_lose_the_race(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if not theirs.with_name("lost").exists():
            path.symlink_to(theirs)
            theirs.with_name("lost").touch()

    monkeypatch.setattr(Path, "unlink", unlink_and_lose_the_race)

    with pytest.raises(StoreRefusedError, match="cannot write"):
        await store.backup(tmp_path / "books.copy")

    assert theirs.read_bytes() == b""


async def test_a_backup_to_nowhere_is_refused_in_words(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match="cannot"):
        await store.backup(tmp_path / "missing" / "books.db")
