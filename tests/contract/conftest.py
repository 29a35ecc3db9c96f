"""The store engines that this suite tests. Another engine is one more line in `ENGINES`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import pytest

from proxy.core.money import Nanos
from proxy.store.contract import Store
from proxy.store.sqlite import open_store
from proxy.store.values import Account, CommitStats
from tests.support.store import NOW_MS

Open = Callable[[], Awaitable[Store]]


class Engine(Protocol):
    def __call__(self, path: Path, *, on_commit: Callable[[CommitStats], None] | None = None) -> Coroutine[Any, Any, Store]: ...


ENGINES: dict[str, Engine] = {"sqlite": open_store}


@pytest.fixture(params=ENGINES)
async def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Return a function that opens the same books again. All opened stores are closed at the end of the test."""
    opened: list[Store] = []

    async def open_again() -> Store:
        opened.append(await ENGINES[request.param](tmp_path / "books.db"))
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
