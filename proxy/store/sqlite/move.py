"""A file as one side of a move: the ledger in it that leaves, or the new file that one arrives in.

A ledger arrives in ``<store>.arriving``, which takes the store's name, in one rename, once everything is in it and durable. Until then
a file with nothing but the mark has that name, so that nothing starts on it.
"""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from proxy.store.errors import StoreRefusedError
from proxy.store.move import BATCH_ROWS
from proxy.store.moves import Move
from proxy.store.progress import Report
from proxy.store.sqlite import opening
from proxy.store.sqlite.file import marks, migrations, restore
from proxy.store.sqlite.file.connection import Connection, connection_to
from proxy.store.sqlite.file.lock import FileLock
from proxy.store.sqlite.verify import verify
from proxy.store.tables import TABLES, Row, Table
from proxy.store.values import Check

CACHE_KIB = 65_536
"""Pages of the new file that are in memory: its indexes are written everywhere at once."""


class _Side:
    """What both sides do with a connection."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # one lock for a file, whichever link leads to it
        self._connection: Connection | None = None

    @property
    def url(self) -> str:
        return f"sqlite:{self._path}"

    async def rows(self, table: Table) -> AsyncGenerator[Sequence[Row], None]:
        columns = ", ".join("rowid AS number" if column == "number" else column for column in table.columns)
        with self._told() as connection:
            cursor = await connection.run(lambda its: its.execute(f"SELECT {columns} FROM {table.name}"))  # noqa: S608
            while batch := await connection.run(lambda _: cursor.fetchmany(BATCH_ROWS)):
                yield batch

    async def count(self, table: Table) -> int:
        with self._told() as connection:
            (count,) = await connection.run(lambda its: its.execute(f"SELECT count(*) FROM {table.name}").fetchone())  # noqa: S608
            return int(count)

    async def verify(self, report: Report | None) -> list[Check]:
        with self._told() as connection:
            return await connection.run_telling(verify, report)

    @contextmanager
    def _told(self) -> Iterator[Connection]:
        """Lend the connection, and say of its failures which file they are of."""
        assert self._connection is not None
        with _failures_of(self._path):
            yield self._connection


class SqliteSource(_Side):
    """A file that is moved from. It is locked from `opened` on."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path) -> AsyncIterator["SqliteSource"]:
        """Open a file. Raises: StoreLockedError, StoreVersionError, StoreRefusedError."""
        source = cls(path)
        if not source._path.is_file():
            raise StoreRefusedError(f"there is nothing to move at {source._path}")
        async with AsyncExitStack() as opened:
            with _failures_of(source._path):
                source._connection = await opening.open_file(opened, source._path, is_of_move=True)
            yield source

    async def mark(self) -> Move | None:
        with self._told() as connection:
            return await connection.run(marks.mark)

    async def change(self, before: Move | None, after: Move | None) -> None:
        with self._told() as connection:
            if not await connection.run(marks.record, before, after):
                raise StoreRefusedError(f"{self.url} was changed meanwhile")


class SqliteTarget(_Side):
    """A file that is moved to. Its name is locked from `opened` on."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path) -> AsyncIterator["SqliteTarget"]:
        """Lock a name. Raises: StoreLockedError, StoreRefusedError."""
        target = cls(path)
        if not target._path.parent.is_dir():
            raise StoreRefusedError(f"cannot write {target._path}: there is no folder {target._path.parent}")
        with _failures_of(target._path):
            lock = FileLock(target._path)
        try:
            yield target
        finally:
            lock.release()

    async def mark(self) -> Move | None:
        return await self._look(marks.mark)

    async def recorded(self, move_id: str) -> Move | None:
        return await self._look(partial(marks.recorded, move_id=move_id))

    async def require_empty(self) -> None:
        for name in ("", "-wal", "-shm", "-journal"):
            file = self._path.with_name(self._path.name + name)
            if file.exists():
                raise StoreRefusedError(f"{file} exists: a ledger is moved into a new file")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        with _failures_of(self._path):
            self._discard()  # left by a command that was killed
        try:
            yield
            if self._connection is not None:
                await self._publish()
        finally:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
            self._discard()

    async def change(self, before: Move | None, after: Move | None) -> None:
        if await self.mark() != before:
            raise StoreRefusedError(f"{self.url} was changed meanwhile")
        if self._connection is not None:
            with self._told() as connection:
                await connection.run(marks.record, None, after)
            return
        with _failures_of(self._path):
            if after is None:
                self._path.unlink()
                migrations.sync_folder(self._path.parent)
                return
            made = await self._make_new()
            await made.run(marks.record, None, after)
            await self._publish()

    async def prepare(self) -> None:
        with _failures_of(self._path):
            await self._make_new()
        with self._told() as connection:
            await connection.run(_prepare)

    async def write(self, table: Table, batches: AsyncIterator[Sequence[Row]]) -> None:
        columns = ", ".join("rowid" if column == "number" else column for column in table.columns)
        insert = f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(table.columns))})"  # noqa: S608
        async for rows in batches:
            with self._told() as connection:
                await connection.run(sqlite3.Connection.executemany, insert, rows)

    async def complete(self) -> None:
        with self._told() as connection:
            await connection.run(_run, "COMMIT")

    @property
    def _new(self) -> Path:
        return self._path.with_name(f"{self._path.name}.arriving")

    async def _look(self, function: Callable[[sqlite3.Connection], Move | None]) -> Move | None:
        """Return what a function finds in the file of that name, where there is one, and it records moves."""
        if not self._path.exists():
            return None
        with _failures_of(self._path):
            async with connection_to(self._path, "ro") as connection:
                await connection.run(partial(migrations.version_of, is_of_move=True), self._path)
                return await connection.run(function) if await connection.run(marks.are_kept) else None

    async def _make_new(self) -> Connection:
        """Make a new file with the whole schema, as one file without a log; return its connection."""
        migrations.create_file(self._new)
        made = self._connection = await connection_to(self._new, "rw").__aenter__()
        await made.run(migrations.migrate, 0)
        await made.run(_run, "PRAGMA journal_mode = DELETE")
        return made

    async def _publish(self) -> None:
        """Give the new file its name, over the one that had the mark alone."""
        assert self._connection is not None
        with _failures_of(self._path):
            await self._connection.close()
            self._connection = None
            restore.sync(self._new)
            restore.give_to_the_owner_of(self._path, self._new, self._path.with_name(f"{self._path.name}.lock"))
            self._new.rename(self._path)
            migrations.sync_folder(self._path.parent)

    def _discard(self) -> None:
        for name in ("", "-wal", "-shm", "-journal"):
            self._new.with_name(self._new.name + name).unlink(missing_ok=True)


def _prepare(connection: sqlite3.Connection) -> None:
    """Begin to write, fast: the file is thrown away if anything goes wrong, and synced before it gets its name."""
    for setting in ("foreign_keys = OFF", "journal_mode = MEMORY", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
        _run(connection, f"PRAGMA {setting}")
    _run(connection, "BEGIN")
    for table in reversed(TABLES):
        _run(connection, f"DELETE FROM {table.name}")  # noqa: S608


def _run(connection: sqlite3.Connection, statement: str) -> None:
    connection.execute(statement).fetchall()  # to its end: a statement in progress would keep others from their commit


@contextmanager
def _failures_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreRefusedError(f"{path}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise StoreRefusedError(f"{path}: {error}") from error
