"""A database as one side of a move: the ledger in it that leaves, or the empty one that one arrives in.

Everything that changes it is under the lock under which gateways start (`migrations.lock`), and no node lives meanwhile.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg

from proxy.store.errors import StoreRefusedError
from proxy.store.move import BATCH_ROWS
from proxy.store.moves import Move
from proxy.store.postgres import marks, migrations
from proxy.store.postgres.connection import FAILURES, Connection, Connector, words_of
from proxy.store.postgres.lease import BEAT_SECONDS, GAP_BEATS, LEASE_SECONDS, Watch
from proxy.store.postgres.opening import name_of
from proxy.store.postgres.verify import verify
from proxy.store.progress import Progress, Report
from proxy.store.tables import IDENTITIES, TABLES, Row, Table
from proxy.store.values import Check

LOCK_SECONDS = 30
"""How long a move waits for what another one, or a gateway's start, does under the lock."""
LOOK_SECONDS = BEAT_SECONDS / 2
_PATIENT = (
    f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
)
_ALIVE = "SELECT id, beat, name FROM nodes WHERE dead_at IS NULL ORDER BY id"


class PostgresSide:
    """A database that is moved from or to. In words of `proxy.store.move`, it is a `Source` and a `Target`."""

    def __init__(self, url: str, connector: Connector) -> None:
        self.url = url
        self._name = name_of(url)
        self._connector = connector
        self._connection: Connection | None = None
        self._owner = 0
        self._is_in_transaction = False

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, url: str, password: str, report: Report | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> AsyncIterator["PostgresSide"]:
        """Connect to a database, make its schema if there is none, and wait until no node of it lives.

        Raises: StoreVersionError; StoreRefusedError: it cannot be opened, or a gateway has it open.
        """
        side = cls(url, Connector(url, password))
        try:
            with side._told():
                connection = await side._connected()
                await migrations.migrate(connection, side._name, is_of_move=True)
                await _until_nobody_lives(connection, side._name, report, lease_seconds)
            yield side
        finally:
            if side._connection is not None:
                side._connection.terminate()  # also in the midst of a statement: the server rolls back

    async def mark(self) -> Move | None:
        with self._told():
            return await marks.mark(await self._connected())

    async def recorded(self, move_id: str) -> Move | None:
        with self._told():
            return await marks.recorded(await self._connected(), move_id)

    async def change(self, before: Move | None, after: Move | None) -> None:
        with self._told():
            async with self._locked() as connection:
                if living := await connection.fetch(_ALIVE):
                    raise _in_use(self._name, [name for _, _, name in living])
                if not await marks.record(connection, before, after):
                    raise StoreRefusedError(f"{self._name} was changed meanwhile")

    async def rows(self, table: Table) -> AsyncGenerator[Sequence[Row], None]:
        columns = ", ".join(f"{column}::integer" if column in table.flags else column for column in table.columns)
        with self._told():
            connection = await self._connected()
            async with connection.transaction():
                cursor = await connection.cursor(f"SELECT {columns} FROM {table.name}")  # noqa: S608
                while batch := await cursor.fetch(BATCH_ROWS):
                    yield _read(table, batch)

    async def count(self, table: Table) -> int:
        with self._told():
            return int(await (await self._connected()).fetchval(f"SELECT count(*) FROM {table.name}"))  # noqa: S608

    async def verify(self, report: Report | None) -> list[Check]:
        with self._told():
            connection = await self._connected()
            if self._is_in_transaction:
                return await verify(connection, report)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await verify(connection, report)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        with self._told():
            async with self._locked() as connection:
                self._is_in_transaction = True
                try:
                    await _notice_a_dead_client(connection)
                    yield
                finally:
                    self._is_in_transaction = False

    async def require_empty(self) -> None:
        with self._told():
            connection = await self._connected()
            for table in TABLES:
                if table.name == "facts":
                    continue
                but_for = "WHERE kind <> 'system'" if table.name == "accounts" else ""
                if await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table.name} {but_for})"):  # noqa: S608
                    raise StoreRefusedError(f"{self._name} is not empty, it has {table.name}: a ledger is moved into an empty database")

    async def prepare(self) -> None:
        with self._told():
            connection = await self._connected()
            for table in reversed(TABLES):
                await connection.execute(f"DELETE FROM {table.name}")  # noqa: S608
            self._owner = await connection.fetchval(
                "INSERT INTO nodes (name, dead_at) VALUES ('before this ledger was moved here', clock_timestamp()) RETURNING id"
            )
            await connection.execute("INSERT INTO node_writes (node_id, is_fenced) VALUES ($1, true)", self._owner)

    async def write(self, table: Table, batches: AsyncIterator[Sequence[Row]]) -> None:
        with self._told():
            columns, records = table.columns, _records(table, batches, ())
            if table.name == "requests":
                columns, records = (*columns, "node_id"), _records(table, batches, (self._owner,))
            await (await self._connected()).copy_records_to_table(table.name, records=records, columns=columns)

    async def complete(self) -> None:
        with self._told():
            connection = await self._connected()
            for table, column in IDENTITIES.items():
                await connection.execute(
                    f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), greatest(max({column}), 2)) FROM {table}"  # noqa: S608
                )
            for one in TABLES:
                await connection.execute(f"ANALYZE {one.name}")  # else the audit is planned for empty tables

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[Connection]:
        """Lend the connection in a transaction under the lock; within one already, in that."""
        connection = await self._connected()
        async with connection.transaction():
            if not self._is_in_transaction:
                await connection.execute(_PATIENT)
                # What is committed here is believed by the other side: it must be durable.
                await connection.execute(
                    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
                )
                await migrations.lock(connection)
            yield connection

    async def _connected(self) -> Connection:
        """Return the connection, a new one where it was lost outside a transaction."""
        if self._connection is None or (self._connection.is_closed() and not self._is_in_transaction):
            self._connection = await self._connector.connect(statement_seconds=None)
        return self._connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say of failures which database they are of."""
        try:
            yield
        except asyncpg.LockNotAvailableError as error:
            raise StoreRefusedError(f"{self._name} is being opened, moved or written by another process: wait for its end") from error
        except FAILURES as error:
            raise StoreRefusedError(f"{self._name}: {words_of(error)}") from error


async def _records(table: Table, batches: AsyncIterator[Sequence[Row]], more: Row) -> AsyncGenerator[Sequence[object], None]:
    """Yield rows one by one, as columns take them, each with more behind it."""
    flags = [place for place, column in enumerate(table.columns) if column in table.flags]
    exact = [place for place, column in enumerate(table.columns) if column in table.exact]
    async for rows in batches:
        for row in rows:
            record: list[object] = [*row, *more]
            for place in flags:
                record[place] = bool(record[place])
            for place in exact:
                record[place] = str(record[place]).encode()
            yield record


def _read(table: Table, rows: Sequence[Sequence[Any]]) -> list[Row]:
    """Return rows that were read, as every engine has them."""
    exact = [place for place, column in enumerate(table.columns) if column in table.exact]
    if not exact:
        return [tuple(row) for row in rows]
    return [tuple(cell.decode() if place in exact else cell for place, cell in enumerate(row)) for row in rows]


async def _until_nobody_lives(connection: Connection, name: str, report: Report | None, lease_seconds: float) -> None:
    """Wait until nobody has the database open: set dead, as a node does, those whose beat stands still for a lease.

    Raises: StoreRefusedError: a beat moves.
    """
    loop = asyncio.get_running_loop()
    watch, began = Watch(lease_seconds, BEAT_SECONDS * GAP_BEATS), loop.time()
    first: dict[int, int] = {}
    while living := await connection.fetch(_ALIVE):
        now = loop.time()
        if moving := [node for node_id, beat, node in living if first.setdefault(node_id, beat) != beat]:
            raise _in_use(name, moving)
        for node_id, still in watch.look({node_id: beat for node_id, beat, _ in living}, now):
            await connection.fetchval("SELECT end_node($1, $2)", node_id, still)
        if report is not None:
            report(Progress("seconds that gateways are silent", int(now - began), int(lease_seconds)))
        await asyncio.sleep(LOOK_SECONDS)


def _in_use(name: str, nodes: Sequence[str]) -> StoreRefusedError:
    return StoreRefusedError(f"{name} is in use by {', '.join(nodes)}: stop every gateway and command first")


async def _notice_a_dead_client(connection: Connection) -> None:
    """Have the server end this transaction soon after this process has, in the midst of a long statement too, where it can."""
    with suppress(asyncpg.PostgresError):
        async with connection.transaction():
            await connection.execute("SET LOCAL client_connection_check_interval = '2s'")
