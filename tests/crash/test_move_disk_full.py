"""`llm-proxy store move` onto a disk that is full: it says so, neither store starts, and with room it goes on."""

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from proxy.core.money import Nanos
from proxy.demo.postgres_server import NOBODY
from proxy.store import open_store
from proxy.store.contract import Store
from proxy.store.errors import StoreMovedError
from proxy.store.values import StoredAnswer
from tests.bench.ledger_rows import extend
from tests.support.books import assert_books_balance
from tests.support.postgres import Server, database, start
from tests.support.store import NOW_MS, new_claim, new_key, new_request, settlement
from tests.support.whole_ledger import fill, shown

ROOT = Path(__file__).parents[2]
MANY_TRANSFERS = 80_000
"""Of half as many requests, which take more than the log's files of 16 MiB."""
SERVER_LIMIT_BYTES = 17 * 2**20
FILE_LIMIT_BYTES = 2 * 2**20
"""Enough for the schema, and its log."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="move-") as name:
        yield Path(name)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()


async def move(source: str, target: str, *words: str, before_exec: Callable[[], None] | None = None) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "proxy", "store", "move", "--from", source, "--to", target, "--json", *words]
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=ROOT, preexec_fn=before_exec, timeout=200
    )
    return ended.returncode, ended.stdout, ended.stderr


async def limit_files(server: Server, size: str) -> None:
    """Limit the files of a server's new processes, as its own user: that of another may be limited only by a privileged one."""
    program = shutil.which("prlimit")
    if program is None:
        pytest.skip("there is no prlimit, which limits what runs")
    user = NOBODY if os.geteuid() == 0 else None
    await asyncio.to_thread(subprocess.run, [program, f"--pid={server.pid}", f"--fsize={size}:"], check=True, user=user)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def assert_neither_starts(source: str, target: str) -> None:
    for url in (source, target):
        with pytest.raises(StoreMovedError, match="--resume` goes on"):
            await open_store(url)


@pytest.mark.timeout(240)
async def test_a_server_whose_disk_is_full(folder: Path) -> None:
    """The limit is one of the size of a file, since the server cannot be put on a file system of its own everywhere."""
    source = f"sqlite:{folder}/books.db"
    async with opened(source) as store:
        await store.create_account("alice", Nanos(10**15), 0)
        await store.create_key("alice", new_key())
    extend(folder / "books.db", MANY_TRANSFERS, time.time_ns() // 1_000_000)
    server = await asyncio.to_thread(start)
    await limit_files(server, str(SERVER_LIMIT_BYTES))

    code, _, said = await move(source, server.url)

    assert code == 1
    assert "could not extend file" in said
    assert "the move has not ended: `llm-proxy store move" in said
    await assert_neither_starts(source, server.url)
    await limit_files(server, "unlimited")
    code, answer, said = await move(source, server.url, "--resume")
    assert code == 0, said
    assert {table["table"]: table["rows"] for table in orjson.loads(answer)["tables"]}["requests"] == MANY_TRANSFERS // 2
    async with opened(server.url) as store:
        await assert_books_balance(store)


@pytest.mark.timeout(240)
async def test_a_file_for_which_there_is_no_room(folder: Path) -> None:
    async with database() as url:
        target = f"sqlite:{folder}/books.db"
        async with opened(url) as store:
            await fill(store)
            alice = await store.account("alice")
            await store.place_hold(new_request("req_large", account_id=alice.id, claim=new_claim("large")))
            await store.settle("req_large", settlement(1), NOW_MS, StoredAnswer(200, bytes(2 * FILE_LIMIT_BYTES)))
            before = await shown(store)

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, resource.RLIM_INFINITY))

        code, _, said = await move(url, target, before_exec=limit)

        assert code == 1
        assert "books.db: " in said
        assert "the move has not ended: `llm-proxy store move" in said
        assert "books.db.arriving" not in names(folder)
        await assert_neither_starts(url, target)
        code, _, said = await move(url, target, "--resume")
        assert code == 0, said
        async with opened(target) as store:
            assert await shown(store) == before
            await assert_books_balance(store)
