"""Connections to the server: how each is made, what its errors mean, and the few that reads share.

Nothing is kept in a session, so that a pooler in transaction mode may stand in between: settings are a transaction's (``SET LOCAL``) or
a function's, locks a transaction's. A pooler that hands a session's prepared statements on to others is found out at the first
connection (its process id is not the server's), and from then on no statement is prepared by name.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol

import asyncpg

from proxy.store.errors import StoreError, StoreFencedError, StoreUnavailableError
from proxy.store.postgres.primary import NotPrimaryError, Standing, Timelines, hosts_of, standing_of, survey

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 10.0
"""Time for one statement of a write or a short read, network included; a long read has none."""
READERS_MAX = 4
APPLICATION = "llm-proxy"
KEYS_CHANNEL = "llm_proxy_keys"
"""Where nodes listen for changes of keys, accounts and limits."""

FENCED, CAREFUL, LATE = "LP001", "LP002", "LP003"
"""Our own error codes, as ``schema/0003_nodes.sql`` names them."""
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
"""Everything that a call to the server may raise."""
_AGAIN = ("40001", "40P01", "55P03", "25P03")
"""Serialization, deadlock, lock not to be had in time, idle for too long in a transaction."""
_LOST = ("08", "53", "57", "58", "25006")
"""Classes of errors in which the server, or the way to it, is to blame: connection, resources, shutdown, system; a standby."""

logger = logging.getLogger(__name__)


class ChangedMeanwhileError(Exception):
    """Another transaction changed what this one had looked at: it is rolled back and run again."""


class Connection(Protocol):
    """The part of asyncpg's connection that operations use. A row is a sequence of its columns."""

    async def fetch(self, query: str, *args: object) -> list[Any]: ...
    async def fetchrow(self, query: str, *args: object) -> Any: ...
    async def fetchval(self, query: str, *args: object) -> Any: ...
    async def execute(self, query: str, *args: object) -> str: ...
    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...
    async def executemany(self, command: str, args: Sequence[Sequence[object]]) -> None: ...
    def transaction(self, *, isolation: str | None = None, readonly: bool = False) -> AbstractAsyncContextManager[Any]: ...
    def cursor(self, query: str, *args: object) -> Any: ...
    async def copy_records_to_table(self, table_name: str, *, records: AsyncIterator[Any], columns: Sequence[str]) -> str: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...
    async def close(self, *, timeout: float | None = None) -> None: ...


class Connector:
    """Makes connections to the database of one URL. ``password`` is kept out of the URL, so that no message can show it."""

    def __init__(self, url: str, password: str = "") -> None:
        self.url = url
        self._password = password or None
        self._hosts = hosts_of(url)
        self._timelines = Timelines()
        self._statements: int | None = None
        """Prepared statements that a connection may keep; None: nobody has looked yet."""

    @property
    def is_pooled(self) -> bool:
        """Return whether a pooler stands before the server, as far as a connection has shown: it swallows notices."""
        return self._statements == 0

    async def connect(self, *, statement_seconds: float | None = STATEMENT_SECONDS) -> Connection:
        """Return a new connection. Raises: whatever is in `FAILURES`."""
        if self._statements is None:
            self._statements = await self._look()
        connection: Connection = await self._connect(self._statements, statement_seconds)
        return connection

    async def _look(self) -> int:
        """Return how many statements a connection may prepare by name: none where a pooler stands in between."""
        connection = await self._connect(0, STATEMENT_SECONDS)
        try:
            its_pid = await connection.fetchval("SELECT pg_backend_pid()")
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
        if its_pid == connection.get_server_pid():
            return 100
        logger.info("a pooler stands before the database: statements are not kept prepared")
        return 0

    async def _connect(self, statements: int, statement_seconds: float | None) -> Any:
        """Return a connection to the one host, or to the primary of several. Raises: NotPrimaryError; `FAILURES`."""

        async def connect(host: str | None, port: int | None) -> tuple[Any, Standing]:
            return await self._connect_to(host, port, statements, statement_seconds)

        if not self._hosts:
            connection, standing = await connect(None, None)
            name = "the database"
        else:
            connection, standing, name = await survey(self._hosts, connect, _close, FAILURES)
        try:
            self._timelines.accept(connection, standing, name)
        except NotPrimaryError:
            connection.terminate()
            raise
        return connection

    async def _connect_to(self, host: str | None, port: int | None, statements: int, seconds: float | None) -> tuple[Any, Standing]:
        """Return a connection to one host, None: that of the URL, and what its server is."""
        connection = await asyncpg.connect(
            self.url,
            host=host,
            port=port,
            password=self._password,
            timeout=CONNECT_SECONDS,
            command_timeout=seconds,
            statement_cache_size=statements,
            server_settings={"application_name": APPLICATION},
        )
        try:
            return connection, await standing_of(partial(connection.fetchrow, timeout=CONNECT_SECONDS))
        except BaseException:
            connection.terminate()
            raise


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=CONNECT_SECONDS)
    except FAILURES:
        connection.terminate()


class Readers:
    """A few connections for reads, each for one read at a time. The one given back last is taken first, so that idle ones stay idle."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(READERS_MAX)
        self.waits = 0
        """Reads that found all connections lent."""
        self._is_closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection. Raises: StoreUnavailableError once closed; `FAILURES`."""
        self.waits += self._free.locked()
        async with self._free:
            if self._is_closed:
                raise StoreUnavailableError("the store is closed")
            connection = self._take() or await self._connector.connect()
            try:
                yield connection
            except StoreError:  # a refusal: what was asked has been answered
                self._idle.append(connection)
                raise
            except BaseException:
                connection.terminate()  # it may be in the midst of an answer
                raise
            self._idle.append(connection)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def forget(self) -> None:
        """Close idle connections, after one has failed: the server has gone, and they with it."""
        while self._idle:
            self._idle.pop().terminate()

    async def close(self) -> None:
        """Close all connections, once the reads that are under way have ended."""
        self._is_closed = True
        for _ in range(READERS_MAX):
            await self._free.acquire()
        for connection in self._idle:
            try:
                await connection.close(timeout=CONNECT_SECONDS)
            except FAILURES:
                connection.terminate()
        self._idle.clear()
        for _ in range(READERS_MAX):
            self._free.release()  # whoever waits is told that the store is closed


def words_of(error: BaseException) -> str:
    """Return what an error says, or its kind: a timeout, for one, says nothing."""
    return str(error) or type(error).__name__


def code_of(error: BaseException) -> str:
    """Return the SQLSTATE of a server's error, or nothing."""
    return getattr(error, "sqlstate", None) or "" if isinstance(error, asyncpg.PostgresError) else ""


def is_lost(error: BaseException) -> bool:
    """Return whether the server or the way to it failed: what was sent may have been carried out."""
    if isinstance(error, asyncpg.PostgresError):
        return code_of(error).startswith(_LOST)
    return isinstance(error, FAILURES) and not isinstance(error, ValueError)  # the client's refusal of a value is both kinds of error


def is_of_value(error: BaseException) -> bool:
    """Return whether a value was refused: by the client before it was sent, or by the server's types and checks."""
    return isinstance(error, ValueError) or code_of(error).startswith(("22", "23"))


def is_passing(error: BaseException) -> bool:
    """Return whether the same may succeed when it is tried again at once: two waited for one another, or one for too long."""
    return code_of(error) in _AGAIN or isinstance(error, asyncpg.InvalidCachedStatementError | ChangedMeanwhileError)


def failure(error: BaseException) -> StoreError:
    """Return the error for callers of a failed call; a new object each time, so that tracebacks do not pile up."""
    told: StoreError
    if isinstance(error, StoreError):
        told = type(error)(*error.args)
    elif code_of(error) == FENCED:
        told = StoreFencedError(f"this node was set dead by the others, and writes nothing more: {words_of(error)}")
    else:
        told = StoreUnavailableError(f"nothing was written: {words_of(error)}")
    told.__cause__ = error
    return told
