"""The store engines that this suite tests. Another engine is one more line in `ENGINES`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from proxy.core.money import Nanos
from proxy.store.contract import Store
from proxy.store.postgres import open_store as open_postgres
from proxy.store.sqlite import open_store as open_sqlite
from proxy.store.values import Account
from tests.support.postgres import database
from tests.support.store import NOW_MS

Open = Callable[[], Awaitable[Store]]


@asynccontextmanager
async def _sqlite(directory: Path) -> AsyncIterator[Open]:
    yield lambda: open_sqlite(directory / "books.db")


@asynccontextmanager
async def _postgres(_: Path) -> AsyncIterator[Open]:
    async with database() as url:

        async def open_again() -> Store:
            return await open_postgres(url)

        yield open_again


ENGINES: dict[str, Callable[[Path], AbstractAsyncContextManager[Open]]] = {"sqlite": _sqlite, "postgres": _postgres}
"""Of each engine, books of a test's own: a function that opens them, as often as it is called."""


@pytest.fixture(params=ENGINES)
async def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Return a function that opens the same books again. All opened stores are closed at the end of the test."""
    opened: list[Store] = []
    async with ENGINES[request.param](tmp_path) as open_books:

        async def open_again() -> Store:
            opened.append(await open_books())
            return opened[-1]

        yield open_again

        for store in opened:
            await store.close()


@pytest.fixture
async def store(reopen: Open) -> Store:
    return await reopen()


@pytest.fixture
async def alice(store: Store) -> Account:
    """An account with 1,000 nano-yuan."""
    return await store.create_account("alice", Nanos(1000), NOW_MS)
