"""Connections to the file, each with a thread of its own that runs its functions.

One connection writes; all others are opened ``mode=ro``, so that SQLite itself refuses them writes and checkpoints.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, TypeVarTuple

import aiosqlite

from proxy.store.errors import StoreCorruptError, StoreError, StoreUnavailableError
from proxy.store.progress import GivenUpError, Progress, Report

T = TypeVar("T")
Args = TypeVarTuple("Args")

BUSY_SECONDS = 5.0
"""Time to wait for a file that another process (a shell, a copy tool) has locked."""

STATEMENTS_MAX = 512
"""Prepared statements to cache: those of a batch have a different text for each number of rows."""

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_FATAL = ("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", *_DAMAGED)
"""After a failed fsync the kernel may have dropped the pages and will report success the next time: only a restart is safe."""


class Connection(aiosqlite.Connection):
    """aiosqlite's connection and thread, plus `run`, which executes a whole function in one hop to the thread."""

    _stopping: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self
        except BaseException:
            # aiosqlite does not wait for its thread: it would report its end to a loop that may be closed by then.
            if self._stopping is not None:
                await self._stopping
            raise
        return self

    def stop(self) -> asyncio.Future[Any] | None:
        self._stopping = super().stop()
        return self._stopping

    async def run(self, function: Callable[[sqlite3.Connection, *Args], T], *args: *Args) -> T:
        """Return ``function(connection, ...)``, run on the connection's thread. Calls run in order.

        Raises: StoreUnavailableError once closed.
        """
        if not self._running or self._connection is None:
            raise StoreUnavailableError("the store is closed")
        result: T = await self._execute(function, self._conn, *args)  # type: ignore[no-untyped-call]  # protected: hence the pin
        return result

    async def run_telling(self, function: Callable[[sqlite3.Connection, Report, *Args], T], report: Report | None, *args: *Args) -> T:
        """Run a long function that reports its progress; a caller that gives up, by Ctrl-C for example, does not wait for its end."""
        is_given_up = threading.Event()

        def tell(progress: Progress) -> None:
            if is_given_up.is_set():
                raise GivenUpError
            if report is not None:
                report(progress)

        try:
            return await self.run(function, tell, *args)
        except asyncio.CancelledError:
            is_given_up.set()
            await self.interrupt()  # what it does now; what it does next, `tell` stops
            raise


def connection_to(path: Path, mode: Literal["rw", "ro"]) -> Connection:
    """Return a connection to an existing file, opened by ``async with``. Transactions are begun by hand."""

    def connector() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=STATEMENTS_MAX
        )
        # Triggers guard the ledger's rows; this makes them guard against INSERT OR REPLACE too.
        connection.execute("PRAGMA recursive_triggers = ON")
        return connection

    return Connection(connector, iter_chunk_size=64)


def is_fatal(error: BaseException) -> bool:
    """Return True if this process can no longer trust the file or the disk."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith(_FATAL)


def is_damage(error: BaseException) -> bool:
    """Return True if the file's content is damaged."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith(_DAMAGED)


def failure(error: BaseException) -> StoreError:
    """Return the error for callers of a failed SQLite call; a new object each time, so that tracebacks do not pile up."""
    told: StoreError
    if isinstance(error, StoreError):
        told = type(error)(*error.args)
    elif is_fatal(error):
        told = StoreCorruptError(f"the store must not be written any more: {error}")
    else:
        told = StoreUnavailableError(f"nothing was written: {error}")
    told.__cause__ = error
    return told
