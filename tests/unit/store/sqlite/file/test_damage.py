"""Damage that SQLite would not notice, or only when it reads that page: the file is refused when it is opened."""

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from proxy.store.errors import StoreRefusedError
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, settlement

PAGE = 4096
FRAME = 24 + PAGE
REQUESTS = 60


@pytest.fixture
async def left_open(tmp_path: Path) -> Path:
    """Return a store and its log as a killed process leaves them: sixty requests, each with a commit for hold and for settlement."""
    store = await open_store(tmp_path / "living.db")
    account = await store.create_account("alice", 10**9, NOW_MS)  # type: ignore[arg-type]
    for number in range(REQUESTS):
        await store.place_hold(new_request(f"req_{number}", account_id=account.id))
        await store.settle(f"req_{number}", settlement(100), NOW_MS)
    (tmp_path / "dead").mkdir()
    for ending in ("", "-wal", "-shm"):
        shutil.copy(tmp_path / f"living.db{ending}", tmp_path / f"dead/books.db{ending}")
    await store.close()
    return tmp_path / "dead/books.db"


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def flip(file: Path, at: int) -> None:
    overwrite(file, at, bytes([file.read_bytes()[at] ^ 0xFF]))


def overwrite(file: Path, at: int, piece: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[at : at + len(piece)] = piece
    file.write_bytes(content)


async def refusal(path: Path) -> str:
    """Return the reason why a store is refused, and assert that not one byte of it changed."""
    before = {file: file.read_bytes() for file in (path, log_of(path)) if file.exists()}
    with pytest.raises(StoreRefusedError) as refused:
        await (await open_store(path)).close()
    assert {file: file.read_bytes() for file in before} == before
    return str(refused.value)


async def test_what_a_dead_process_left_is_opened_with_all_that_it_committed(left_open: Path) -> None:
    store = await open_store(left_open)

    found = await asyncio.gather(*(store.receipt(f"req_{number}") for number in range(REQUESTS)))
    assert all(one is not None and one[0].settlement is not None for one in found)
    await assert_books_balance(store)
    await store.close()


async def test_a_log_that_was_deleted_is_missed(left_open: Path) -> None:
    log_of(left_open).unlink()

    assert "books.db-wal is gone" in (why := await refusal(left_open))
    assert "llm-proxy restore" in why


async def test_who_has_no_backup_may_go_on_with_what_is_there(left_open: Path) -> None:
    log_of(left_open).unlink()
    left_open.with_name("books.db-shm").unlink()

    store = await open_store(left_open)
    await assert_books_balance(store)
    await store.close()


@pytest.mark.parametrize("seed", range(8))
async def test_a_byte_that_was_flipped_in_the_log_is_found(left_open: Path, seed: int) -> None:
    frames = (log_of(left_open).stat().st_size - 32) // FRAME
    chance = random.Random(seed)
    flip(log_of(left_open), 32 + chance.randrange(frames - 30) * FRAME + chance.randrange(16, FRAME))

    assert "cannot be read" in (why := await refusal(left_open))
    assert "llm-proxy restore" in why


@pytest.mark.parametrize("at", [0, 5, 9, 17, 25])
async def test_so_is_one_in_its_head(left_open: Path, at: int) -> None:
    flip(log_of(left_open), at)

    assert "its head cannot be read" in await refusal(left_open)


@pytest.mark.parametrize("cut_bytes", [1, 100, FRAME - 1, FRAME, FRAME + 30])
async def test_a_last_commit_that_was_cut_is_what_a_lost_power_leaves(left_open: Path, cut_bytes: int) -> None:
    whole = log_of(left_open).read_bytes()
    log_of(left_open).write_bytes(whole[:-cut_bytes])

    store = await open_store(left_open)
    await assert_books_balance(store)
    assert await store.receipt(f"req_{REQUESTS - 2}") is not None
    await store.close()


async def test_a_last_commit_that_was_torn_in_its_midst_is_too(left_open: Path) -> None:
    flip(log_of(left_open), log_of(left_open).stat().st_size - FRAME - 100)

    store = await open_store(left_open)
    await assert_books_balance(store)
    await store.close()


async def test_a_page_that_was_overwritten_is_found_and_named(left_open: Path) -> None:
    await (await open_store(left_open)).close()  # now everything is in the file
    overwrite(left_open, 5 * PAGE, b"\xa5" * 200)
    for ending in ("-shm", "-wal"):  # as if it had not been closed
        left_open.with_name(f"books.db{ending}").write_bytes(b"\0")

    assert "books.db is damaged" in (why := await refusal(left_open))
    assert "llm-proxy restore" in why
