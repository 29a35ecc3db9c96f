"""The one place that names an engine: which URL opens what."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import store as stores
from proxy.core.money import Nanos
from proxy.store.errors import StoreLockedError, StoreRefusedError
from proxy.store.values import CommitStats
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, reference

WHEN = "20251124T160000Z"


async def test_a_url_opens_the_books_that_it_names(tmp_path: Path) -> None:
    commits: list[CommitStats] = []
    opened = await stores.open_store(f"sqlite:{tmp_path}/books.db", on_commit=commits.append)
    account = await opened.create_account("alice", Nanos(1000), NOW_MS)

    reader = await stores.open_store(f"sqlite:{tmp_path}/books.db", read_only=True)

    assert await reader.account("alice") == account
    assert [commit.operations for commit in commits] == [1]
    with pytest.raises(StoreRefusedError):
        await reader.create_account("bob", Nanos(1), NOW_MS)
    await assert_books_balance(reader)
    await reader.close()
    await opened.close()


@pytest.mark.parametrize("url", ["mysql://db/books", "books.db", "sqlite:", ""])
async def test_a_url_of_no_known_engine_is_refused_in_words(url: str) -> None:
    with pytest.raises(StoreRefusedError, match=r"sqlite:PATH and postgresql://… are known"):
        await stores.open_store(url)


async def test_a_database_that_does_not_answer_is_named_without_its_parameters() -> None:
    with pytest.raises(StoreRefusedError, match=r"^cannot open postgresql://gateway@127\.0\.0\.1:1/books: .*[Cc]onn") as refused:
        await stores.open_store("postgresql://gateway@127.0.0.1:1/books?sslmode=disable", password="canary")

    assert "canary" not in f"{refused.value!r} {refused.value.__cause__!r}"


WITHOUT = """
import asyncio, sys
{first}
from proxy import store
async def main() -> None:
    opened = await store.open_store({url!r})
    await opened.close()
asyncio.run(main())
print("asyncpg" in sys.modules)
"""


def run(url: str, first: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT.format(url=url, first=first)], capture_output=True, text=True)


def test_without_its_extra_a_database_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    ended = run("postgresql://db/books", "sys.modules['asyncpg'] = None")

    assert ended.returncode == 1
    assert "(asyncpg): pip install 'llm-proxy[postgres]'" in ended.stderr


def test_a_file_needs_nothing_of_the_extra(tmp_path: Path) -> None:
    assert run(f"sqlite:{tmp_path}/books.db", "sys.modules['asyncpg'] = None").returncode == 0
    assert run(f"sqlite:{tmp_path}/books.db", "").stdout == "False\n"


async def test_who_has_the_store_open_is_told_by_its_url(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/books.db"
    before = stores.holder_pid(url)
    opened = await stores.open_store(url)
    (tmp_path / "link.db").symlink_to(tmp_path / "books.db")

    assert before is None
    assert (stores.holder_pid(url), stores.holder_pid(f"sqlite:{tmp_path}/link.db")) == (os.getpid(), os.getpid())
    (tmp_path / "books.db.lock").write_text("no pid")
    assert stores.holder_pid(url) == 0
    await opened.close()
    assert stores.holder_pid(url) is None


async def test_a_backup_is_restored_by_url_and_the_old_store_is_kept(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/books.db"
    opened = await stores.open_store(url)
    await opened.create_account("alice", Nanos(1000), NOW_MS)
    await opened.backup(tmp_path / "backup.db")
    await opened.credit_account("alice", Nanos(7), "later", NOW_MS + 1, reference())
    with pytest.raises(StoreLockedError):
        stores.restore(url, tmp_path / "backup.db", WHEN)
    await opened.close()

    restored = stores.restore(url, tmp_path / "backup.db", WHEN)

    again = await stores.open_store(url)
    assert (restored.kept, restored.newest_at_ms) == (tmp_path / f"books.db.before-restore-{WHEN}", NOW_MS)
    assert all(check.holds for check in restored.checks)
    assert (await again.account("alice")).balance_nanos == 1000
    await assert_books_balance(again)
    await again.close()


async def test_a_restore_that_was_cut_short_is_told_by_url(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/books.db"
    assert stores.unfinished_restore(url) is None
    decided = tmp_path / f"books.db.restore-{WHEN}"
    decided.touch()

    assert stores.unfinished_restore(url) == decided
