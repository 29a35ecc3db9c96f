"""A database of a test's own, stores of it as so many nodes, and a way to it that can be broken."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Protocol

import pytest

from proxy.core.money import Nanos
from proxy.store.postgres import PostgresStore, open_store
from proxy.store.postgres.connection import Connection, Connector
from proxy.store.values import Account
from tests.support.postgres import database
from tests.support.postgres_way import Way, way_to
from tests.support.store import NOW_MS


class Opens(Protocol):
    def __call__(self, at: str = "", **options: Any) -> Coroutine[Any, Any, PostgresStore]: ...


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with database() as lent:
        yield lent


@pytest.fixture
async def opens(url: str) -> AsyncIterator[Opens]:
    """Return a function that opens the database as one more node; all are closed at the end."""
    opened: list[PostgresStore] = []

    async def open_one(at: str = "", **options: Any) -> PostgresStore:
        opened.append(await open_store(at or url, **options))
        return opened[-1]

    yield open_one

    for store in opened:
        await store.close()


@pytest.fixture
async def store(opens: Opens) -> PostgresStore:
    return await opens()


@pytest.fixture
async def alice(store: PostgresStore) -> Account:
    """An account with 1,000 nano-yuan."""
    return await store.create_account("alice", Nanos(1000), NOW_MS)


@pytest.fixture
async def sql(url: str) -> AsyncIterator[Connection]:
    """A connection of one's own."""
    connection = await Connector(url).connect()
    yield connection
    await connection.close()


@pytest.fixture
async def writing(url: str) -> AsyncIterator[Connection]:
    """Another one, for a transaction that stays open while `sql` looks; at the end it is rolled back."""
    connection = await Connector(url).connect()
    yield connection
    connection.terminate()


@pytest.fixture
async def way(url: str) -> AsyncIterator[Way]:
    with tempfile.TemporaryDirectory(prefix="way-") as folder:  # pytest's own paths are too long for a socket
        async with way_to(url, Path(folder)) as lent:
            yield lent


async def until(condition: str, sql: Connection) -> None:
    """Wait until a query of the database says so."""
    async with asyncio.timeout(30):
        while not await sql.fetchval(f"SELECT {condition}"):
            await sql.execute("SELECT pg_sleep(0.02)")
