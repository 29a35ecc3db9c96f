"""The writer's connection, and one transaction over it, tried until its end is known or its time is over.

Every transaction begins at the node's fence, under a number that counts this node's writes (``schema/0003_nodes.sql``). So one whose
end nobody knows, since the connection broke, is sent again under its number: a batch carefully, which finds by the requests' ids what
the first try committed; any other is refused as late if it was committed, and its result is remembered here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

from proxy.store.errors import StoreUnavailableError
from proxy.store.postgres.batch import BOOK, Row, arguments
from proxy.store.postgres.connection import (
    CAREFUL,
    FAILURES,
    FENCED,
    LATE,
    ChangedMeanwhileError,
    Connection,
    Connector,
    code_of,
    failure,
    is_lost,
    is_of_value,
    is_passing,
    words_of,
)

T = TypeVar("T")
Args = TypeVarTuple("Args")

PAUSE_SECONDS_FIRST = 0.02
PAUSE_SECONDS_MAX = 0.5
LOCK_SECONDS = 5
"""A transaction that waits longer for a lock gives it up and is tried again."""
SILENT_SECONDS = 1
"""The server ends a transaction whose client says nothing for so long: a process that stands still holds rows for which others wait. A
living one begins it anew. A batch is one statement, so it leaves none open."""

_BEGIN = (
    f"BEGIN; SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; SET LOCAL idle_in_transaction_session_timeout = '{SILENT_SECONDS}s'; "
    "SELECT fence({node}, {number}, true)"
)

logger = logging.getLogger(__name__)


class ValueRefusedError(Exception):
    """The server takes some value of the batch not: alone, each operation is told by itself."""


class UnknownEndError(StoreUnavailableError):
    """The time is over, and nobody knows whether the transaction was committed."""


class Session:
    """The connection of a node's writer. One transaction at a time."""

    def __init__(self, connector: Connector, node_id: int) -> None:
        self._connector = connector
        self._node_id = node_id
        self._number = 0
        self.retries = 0
        """Tries of transactions that were not the last one."""
        self._connection: Connection | None = None

    async def book(self, holds: Sequence[Row], settlements: Sequence[Row], until: float) -> Any:
        """Carry out a batch; return what ``book`` answers: told and why for each hold, told for each settlement.

        Args: until: the loop's time after which no further try begins.

        Raises: UnknownEndError, StoreUnavailableError, StoreFencedError, ValueRefusedError.
        """
        self._number += 1
        tries = _Tries(until, self)
        columns = arguments(holds, settlements)
        is_careful = False
        while True:
            try:
                connection = await self._connected()
                head = (self._node_id, self._number, is_careful or tries.is_unknown, tries.is_unknown)
                return await connection.fetchrow(BOOK, *head, *columns)
            except FAILURES as error:
                if code_of(error) in (FENCED, LATE):
                    raise failure(error) from error
                if is_lost(error):
                    self._drop(tries, was_sent=self._connection is not None)
                    await tries.pause(error)
                elif is_passing(error) or (is_careful and code_of(error) == CAREFUL):
                    await tries.pause(error)
                elif code_of(error) == CAREFUL or (is_of_value(error) and not is_careful):
                    is_careful = True
                elif is_of_value(error):
                    raise ValueRefusedError(str(error)) from error
                else:
                    raise failure(error) from error

    async def transact(self, function: Callable[[Connection, *Args], Awaitable[T]], args: tuple[*Args], until: float) -> T:
        """Return ``function(connection, ...)``, run in one transaction, committed once. It may run more than once.

        Raises: what the function raises: nothing of it stands; UnknownEndError, StoreUnavailableError, StoreFencedError.
        """
        self._number += 1
        tries = _Tries(until, self)
        finished: list[T] = []
        while True:
            try:
                connection = await self._connected()
                await connection.execute(_BEGIN.format(node=self._node_id, number=self._number))
                finished = [await function(connection, *args)]
                if await connection.execute("COMMIT") != "COMMIT":  # it had failed, and the function went on
                    raise AssertionError(f"{function.__name__} hid an error of its transaction")
                return finished[0]
            except (*FAILURES, ChangedMeanwhileError) as error:
                if code_of(error) == LATE and finished:
                    return finished[0]  # the try before was committed
                if is_lost(error):
                    self._drop(tries, was_sent=bool(finished))
                    await tries.pause(error)
                    continue
                await self._roll_back()
                if not is_passing(error):
                    raise _told(error) from error
                finished.clear()
                await tries.pause(error)
            except BaseException:
                await self._roll_back()
                raise

    async def close(self) -> None:
        if self._connection is not None:
            with suppress(*FAILURES):
                await self._connection.close(timeout=LOCK_SECONDS)
            self._drop(None, was_sent=False)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = await self._connector.connect()
        return self._connection

    async def _roll_back(self) -> None:
        try:
            if self._connection is not None:
                await self._connection.execute("ROLLBACK")
        except FAILURES:
            self._drop(None, was_sent=False)  # its end rolls back, too

    def _drop(self, tries: "_Tries | None", *, was_sent: bool) -> None:
        """Let go of a connection that failed. Args: was_sent: what may commit was sent over it, so that nobody knows its end."""
        if tries is not None and was_sent:
            tries.is_unknown = True
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class _Tries:
    """The tries of one transaction: how long until the next, and whether one before may have been committed."""

    def __init__(self, until: float, session: Session) -> None:
        self.is_unknown = False
        self._session = session
        self._until = until
        self._seconds = PAUSE_SECONDS_FIRST
        self._loop = asyncio.get_running_loop()

    async def pause(self, error: BaseException) -> None:
        """Wait before the next try. Raises: UnknownEndError, StoreUnavailableError: there is no time for one."""
        logger.warning("a transaction is tried again: %s", words_of(error))
        self._session.retries += 1
        if self._loop.time() + self._seconds > self._until:
            if self.is_unknown:
                raise UnknownEndError(f"nobody knows yet whether this was written: {words_of(error)}") from error
            raise failure(error) from error
        await asyncio.sleep(self._seconds)
        self._seconds = min(self._seconds * 2, PAUSE_SECONDS_MAX)


def _told(error: BaseException) -> Exception:
    return ValueError(f"it cannot be recorded: {error}") if is_of_value(error) else failure(error)
