"""kill -9 of `llm-proxy store move` at every step: never two ledgers that start, each says what to do, and nothing is lost."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.store import open_store
from proxy.store.contract import Store
from proxy.store.errors import StoreMovedError
from proxy.store.tables import TABLES
from tests.support.books import assert_books_balance
from tests.support.postgres import database
from tests.support.postgres_stop import Stop, stop_before
from tests.support.promises import Faults
from tests.support.whole_ledger import fill, shown

PROMISE = (
    "kill -9 of a move at any step: at no point two ledgers that start, each says what to do, and `--resume` brings everything over"
)
ROOT = Path(__file__).parents[2]
KILL_SECONDS = 20.0
LAST = TABLES[-1].name.encode()


@dataclass(frozen=True, slots=True)
class Kill:
    """Where a move is killed: at a message to the database, and what starts then."""

    name: str
    at: bytes
    once_seen: bytes = b""
    is_answered: bool = False
    """The server has done what the message says."""
    starts: tuple[bool, bool] = (False, False)
    """Source and target."""

    def __str__(self) -> str:
        return self.name


def told(state: str) -> bytes:
    """Return how a state is sent as a parameter: its length, and its letters."""
    return len(state).to_bytes(4, "big") + state.encode()


OUT = (
    Kill("before the target's mark", told("arriving"), starts=(True, True)),
    Kill("between the marks", b"COMMIT", told("arriving"), is_answered=True, starts=(True, False)),
    *(Kill(f"copying {table.name}", f'COPY "{table.name}"'.encode()) for table in TABLES),
    Kill("comparing", b"closed_after FROM accounts\0", b"ANALYZE " + LAST),
    Kill("auditing", b"WITH ", b"ANALYZE " + LAST),
    Kill("before the target's commit", b"COMMIT", told("arrived")),
    Kill("between the target's commit and the source's mark", b"COMMIT", told("arrived"), is_answered=True, starts=(False, True)),
)
BACK = (
    Kill("between the marks", told("leaving"), starts=(True, False)),
    *(Kill(f"copying {table.name}", f"{table.columns[-1]} FROM {table.name}\0".encode()) for table in TABLES),
    Kill("between the target's rename and the source's mark", told("left"), starts=(False, True)),
    Kill("after the source's mark", b"COMMIT", told("left"), is_answered=True, starts=(False, True)),
)


@pytest.fixture(scope="module")
def full_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with everything: made once, since each of its commits waits for the disk."""
    path = tmp_path_factory.mktemp("full") / "books.db"

    async def make() -> None:
        async with opened(f"sqlite:{path}") as store:
            await fill(store)

    asyncio.run(make())
    return path


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose name is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="move-") as name:
        yield Path(name)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()


async def starts(url: str) -> bool:
    """Return whether a gateway may start there; one that may not is told by which command the move goes on."""
    try:
        async with opened(url):
            return True
    except StoreMovedError as error:
        says_what_to_do = "--resume` goes on" in str(error) or "set store.url = " in str(error)
        return not says_what_to_do  # as if it started: the test fails


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def command(source: str, target: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "proxy", "store", "move", "--from", source, "--to", target, "--json", *words]


async def kill(stop: Stop, kill_: Kill, source: str, target: str) -> None:
    """Begin a move, and kill it where it stands still."""
    stop.at, stop.once_seen, stop.is_answered = kill_.at, kill_.once_seen, kill_.is_answered
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*command(source, target), cwd=ROOT, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await stop.reached.wait()
        except TimeoutError:
            log.seek(0)
            pytest.fail(f"it did not come so far: {log.read().decode()}")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    assert process.returncode == -9


async def run(source: str, target: str, *words: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *command(source, target, *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    answer: dict[str, Any] = orjson.loads(out)
    return answer


async def go_on(kill_: Kill, source: str, target: str, before: dict[str, Any]) -> None:
    """What the operator does next, after which everything is at the target."""
    assert (await starts(source), await starts(target)) == kill_.starts
    is_begun = kill_.starts[0] is False
    await run(source, target, *(["--resume"] if is_begun else []))

    assert (await starts(source), await starts(target)) == (False, True)
    async with opened(target) as store:
        assert await shown(store) == before
        await assert_books_balance(store)


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("kill_", OUT, ids=str)
async def test_a_move_to_postgres_that_is_killed(kill_: Kill, full_file: Path, folder: Path, faults: Faults) -> None:
    file = folder / "books.db"
    shutil.copyfile(full_file, file)
    async with opened(f"sqlite:{file}") as store:
        before = await shown(store)
    async with database(is_empty=True) as url, stop_before(url, folder) as stop:
        await kill(stop, kill_, f"sqlite:{file}", stop.url)
        faults.injected += 1

        await go_on(kill_, f"sqlite:{file}", stop.url, before)


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("kill_", BACK, ids=str)
async def test_a_move_to_sqlite_that_is_killed(kill_: Kill, folder: Path, faults: Faults) -> None:
    file = f"sqlite:{folder / 'books.db'}"
    async with database() as url, stop_before(url, folder) as stop:
        async with opened(url) as store:
            await fill(store)
            before = await shown(store)
        await kill(stop, kill_, stop.url, file)
        faults.injected += 1

        await go_on(kill_, stop.url, file, before)
    assert names(folder) >= {"books.db", "books.db.lock"}
    assert "books.db.arriving" not in names(folder)
