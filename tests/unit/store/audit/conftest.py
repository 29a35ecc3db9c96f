"""Books of each engine that a test may tamper with, past whatever guards the engine has."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import asyncpg
import pytest

from proxy.store.contract import Store
from proxy.store.postgres import open_store as open_postgres
from proxy.store.postgres.connection import Connector
from proxy.store.sqlite import open_store as open_sqlite
from proxy.store.values import Check
from tests.support.postgres import database

_UNGUARDED_SQLITE = """
    PRAGMA ignore_check_constraints = ON;
    DROP TRIGGER transfers_no_update;
    DROP TRIGGER transfers_no_delete;
    DROP TRIGGER requests_only_folded;
    DROP TRIGGER payments_no_update;
    DROP TRIGGER payments_no_delete;
"""
# As a replica: no triggers, and no foreign keys, which are triggers.
_UNGUARDED_POSTGRES = """
    SET session_replication_role = replica;
    DO $$ DECLARE it record; BEGIN
      FOR it IN SELECT conrelid::regclass AS of_table, conname FROM pg_constraint
        WHERE contype = 'c' AND connamespace = 'public'::regnamespace
      LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', it.of_table, it.conname); END LOOP;
    END $$;
"""
GUARDS = (sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError, asyncpg.DataError)
"""How an engine refuses to write a row that would break the books."""


@dataclass(frozen=True, slots=True)
class Books:
    store: Store
    tamper: Callable[[str], Awaitable[None]]
    """Run a script past all guards."""
    write: Callable[[str], Awaitable[None]]
    """Run a statement as anybody might, who has the database."""

    async def offenders(self) -> dict[str, list[str]]:
        return _broken(await self.store.verify())

    async def offenders_of_open(self) -> dict[str, list[str]]:
        return _broken(await self.store.verify_open())


def _broken(checks: Sequence[Check]) -> dict[str, list[str]]:
    return {check.name: list(check.offenders) for check in checks if not check.holds}


@asynccontextmanager
async def _sqlite(directory: Path) -> AsyncIterator[Books]:
    path = directory / "books.db"
    store = await open_sqlite(path)

    async def tamper(script: str) -> None:
        with closing(sqlite3.connect(path)) as connection:  # foreign keys are off by default
            connection.executescript(_UNGUARDED_SQLITE + script)

    async def write(statement: str) -> None:
        assert store._writer is not None
        await store._writer.submit(lambda connection: connection.execute(statement).fetchall())

    yield Books(store, tamper, write)
    await store.close()


@asynccontextmanager
async def _postgres(_: Path) -> AsyncIterator[Books]:
    async with database() as url:
        store = await open_postgres(url)

        async def write(script: str) -> None:
            connection = await Connector(url).connect()
            try:
                await connection.execute(script)
            finally:
                await connection.close()

        yield Books(cast("Store", store), lambda script: write(_UNGUARDED_POSTGRES + script), write)
        await store.close()


_ENGINES: dict[str, Callable[[Path], AbstractAsyncContextManager[Books]]] = {"sqlite": _sqlite, "postgres": _postgres}


@pytest.fixture(params=_ENGINES)
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Books]:
    """Yield books in which nothing is."""
    async with _ENGINES[request.param](tmp_path) as books:
        yield books
