"""Group commit: all operations queued during the last transaction go into the next one, each in a savepoint.

One fsync then serves them all. A refused operation undoes its own savepoint only; a failed transaction fails all its operations.
Holds and settlements run together, and first: order within a batch does not matter, because no caller has been told yet that any of
it happened. A hold that finds too little money runs again, alone, after the settlements have released theirs.
"""

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

from msgspec import Struct

from proxy.store.errors import StoreCorruptError, StoreError, StoreUnavailableError
from proxy.store.sqlite import ledger, tasks
from proxy.store.sqlite.admission import Admission
from proxy.store.sqlite.batch import Changes, OpenHolds
from proxy.store.sqlite.file.connection import Connection, failure, is_fatal
from proxy.store.sqlite.spending import Spending
from proxy.store.values import Backlog, CommitStats, Settled
from proxy.tasks import TaskGroup

T = TypeVar("T")
_NOW = Settled.NOW  # Python 3.11 looks a member up by a method of its enum's metaclass
Args = TypeVarTuple("Args")

BATCH_OPERATIONS_MAX = 512
QUEUE_OPERATIONS_MAX = 65_536
"""Above it a write is refused at once: the disk is far behind, and memory is finite."""
CROWD_OPERATIONS = 8
"""After a batch of this size, more are on their way: the next one waits for them a moment, unless enough are queued already.

At 64 in flight it doubled the batches, from 32 to 62, and saved 25 of 130 µs of CPU a request; a lone request never waits.
"""
CROWD_SECONDS = 0.05
"""Time after such a batch during which the next one waits for more."""
GATHERED_OPERATIONS = 48
GATHER_SECONDS = 0.002
CHECKPOINT_FRAMES = 1000
"""Roughly SQLite's own default, 4 MB of log."""
_FRAMES_A_COMMIT = 8
_OPERATIONS_A_FRAME = 4
"""Estimated, because SQLite does not report it: measured are 5 to 7 frames for one operation, 16 to 22 for 32, 50 to 62 for 512."""

_PAID_WORK = (ledger.place_hold, tasks.place_task)

logger = logging.getLogger(__name__)


class _Operation(Struct):
    future: asyncio.Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    done: bool = False
    result: Any = None
    error: BaseException | None = None


class Writer:
    """The one writer of a file. Operations are functions of the connection that neither begin nor end a transaction."""

    def __init__(
        self,
        connection: Connection,
        open_holds: OpenHolds,
        *,
        on_commit: Callable[[CommitStats], None] | None = None,
        on_corrupt: Callable[[BaseException], None] | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._connection = connection
        self._admission = admission
        if admission is not None:
            admission.watch(self)
        self._on_commit = on_commit
        self._on_corrupt = on_corrupt
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Operation] = deque()
        self._began_at: float | None = None
        """The time at which the current commit was handed to the thread."""
        self._wake = asyncio.Event()
        self._refusal: StoreError | None = None
        self._broken: BaseException | None = None
        self._failures = 0
        self._failures_overcome = 0
        self._frames_since_checkpoint = 0
        self._open_holds = open_holds
        self._tasks = TaskGroup("store")
        self._tasks.spawn(self._write_until_closed(), "writer", on_death=self._died)

    @property
    def owner(self) -> str:
        """Id of this opening of the store: every hold that it writes carries it."""
        return self._open_holds.owner

    @property
    def spending(self) -> Spending:
        """Money limits, for the operations that move money. Only operations may use it."""
        return self._open_holds.spending

    @property
    def refusal(self) -> StoreError | None:
        """The reason why nothing more is written, or None."""
        return self._refusal

    @property
    def backlog(self) -> Backlog:
        return Backlog(len(self._queue), self._failures)

    def submit(self, function: Callable[[sqlite3.Connection, *Args], T], *args: *Args) -> asyncio.Future[T]:
        """Queue an operation; the future resolves with its result once it is durable, or with the error that prevented it."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._refusal is not None:
            future.set_exception(failure(self._refusal))
        elif len(self._queue) >= QUEUE_OPERATIONS_MAX:
            future.set_exception(StoreUnavailableError(f"{QUEUE_OPERATIONS_MAX} writes are waiting already"))
        else:
            self._queue.append(_Operation(future, function, args))
            self._wake.set()
        return future

    async def turn(self) -> None:
        """Return once the writer's thread has run an empty transaction, ahead of the queue; nothing is written.

        A refused transaction counts too. If the writer takes nothing more, or is stuck, this does not return.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.appendleft(_Operation(future, _nothing, ()))  # ahead of the queue: a long queue is no failure
        self._wake.set()
        with suppress(StoreError):
            await future

    def seconds_under_way(self) -> float:
        return 0.0 if self._began_at is None else self._loop.time() - self._began_at

    def shed(self, refusal: str) -> None:
        """Refuse new paid work that no commit has taken yet: nothing of it is written."""
        waiting, kept = list(self._queue), deque[_Operation]()
        for operation in waiting:
            if operation.function not in _PAID_WORK:
                kept.append(operation)
            elif not operation.future.done():
                operation.future.set_exception(StoreUnavailableError(refusal))
        self._queue = kept

    async def prove(self) -> None:
        """Prove that the store can be written: if a write has failed since the last success, rewrite one page and wait for it.

        Raises: StoreError: the write fails.
        """
        failures = self._failures
        if failures > self._failures_overcome:
            await self.submit(_rewrite_version)
            self._failures_overcome = max(self._failures_overcome, failures)

    def count_frames(self, frames: int) -> None:
        """Bring the next checkpoint forward, for an operation that fills much of the log. Call on the connection's thread."""
        self._frames_since_checkpoint += frames

    async def close(self) -> None:
        """Refuse new operations, commit the queued ones, even if the writer's task was cancelled, then checkpoint."""
        self._refuse(StoreUnavailableError("the store is closed"))
        await self._tasks.drain()
        while self._queue:
            await self._connection.run(self._commit, self._take())
        # The thread answers in order: after this call all earlier results have reached their futures.
        await self._connection.run(self._checkpoint)
        if self._broken is not None:
            # Closed while a reader is open: the last connection to close would checkpoint onto an untrusted disk.
            await self._connection.close()

    async def _write_until_closed(self) -> None:
        batch: list[_Operation] = []
        ended_at = 0.0
        try:
            while self._refusal is None or self._queue:
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                in_a_crowd = len(batch) >= CROWD_OPERATIONS and self._loop.time() - ended_at < CROWD_SECONDS
                if in_a_crowd and len(self._queue) < GATHERED_OPERATIONS and self._refusal is None:
                    await asyncio.sleep(GATHER_SECONDS)
                batch = self._take()
                if batch:
                    self._began_at = self._loop.time()
                    await self._connection.run(self._commit, batch)
                    self._began_at, ended_at = None, self._loop.time()
        finally:
            self._refuse(StoreUnavailableError("the store's writer was stopped"))

    def _take(self) -> list[_Operation]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_OPERATIONS_MAX))]

    def _refuse(self, why: StoreError) -> None:
        """Accept no more operations. The first reason stands, but a broken disk overrides it."""
        if self._refusal is None or isinstance(why, StoreCorruptError):
            self._refusal = why
        self._wake.set()

    def _died(self, error: BaseException | None) -> None:
        """Report that the task died of a bug: nothing can be written any more, so the process should end."""
        if error is not None and self._on_corrupt is not None:
            self._on_corrupt(error)

    # on the connection's thread

    def _commit(self, connection: sqlite3.Connection, batch: list[_Operation]) -> None:
        """Run a batch and hand its results to the loop from this thread, so that no task's cancellation can lose them."""
        started = time.perf_counter()
        error = self._broken or transact(connection, batch, self._open_holds)
        stats = CommitStats(len(batch), time.perf_counter() - started)
        self._note_broken(error)
        self._loop.call_soon_threadsafe(self._deliver, batch, stats, error)
        if error is not None:
            return  # the log has not grown; on a disk turned read-only a checkpoint's fsync would end the process, and its reads
        self._frames_since_checkpoint += _FRAMES_A_COMMIT + len(batch) // _OPERATIONS_A_FRAME
        if self._frames_since_checkpoint >= CHECKPOINT_FRAMES:
            self._checkpoint(connection)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        self._frames_since_checkpoint = 0
        if self._broken is not None:
            return
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            logger.error("a checkpoint failed: %s", error)  # noqa: TRY400  the traceback would say nothing more
            self._note_broken(error)

    def _note_broken(self, error: BaseException | None) -> None:
        """Refuse from here on, before the loop hears of it: the next batch may be under way already."""
        if error is not None and self._broken is None and is_fatal(error):
            self._broken = error
            self._loop.call_soon_threadsafe(self._break, error)

    # on the loop

    def _deliver(self, batch: Sequence[_Operation], stats: CommitStats, error: BaseException | None) -> None:
        has_failed = error is not None
        for operation in batch:
            why = operation.error if error is None else failure(error)
            has_failed = has_failed or isinstance(why, StoreUnavailableError)
            if operation.future.done():  # its caller was cancelled; the write has happened all the same
                continue
            if why is None:
                operation.future.set_result(operation.result)
            else:
                operation.future.set_exception(why)
        self._failures += has_failed
        if self._admission is not None and (has_failed or self._admission.is_owed):
            _note_settlements(self._admission, batch, error)
        if error is not None:
            logger.error("a transaction of %d operations failed: %s", len(batch), error)
        elif self._on_commit is not None:
            self._on_commit(stats)

    def _break(self, error: BaseException) -> None:
        self._refuse(failure(error))
        if self._on_corrupt is not None:
            self._on_corrupt(error)


def transact(connection: sqlite3.Connection, batch: Sequence[_Operation], open_holds: OpenHolds) -> Exception | None:
    """Run a batch as one transaction; return the error that undid all of it, or None. Each operation gets its own result or error."""
    spending = open_holds.spending
    changes = Changes(open_holds.owner, spending)
    try:
        connection.execute("BEGIN IMMEDIATE")
        spending.refresh()
        for operation in _run_together(connection, batch, open_holds, changes):
            _run_in_savepoint(connection, operation, spending)
            if operation.function is ledger.settle:
                open_holds.forget(operation.args[0], changes)
        connection.execute("COMMIT")
    except Exception as error:  # noqa: BLE001  the writer must outlive any bug of an operation; the batch is told
        spending.rolled_back()
        return _rolled_back(connection, error)
    open_holds.committed(changes)
    spending.committed()
    return None


def _run_together(
    connection: sqlite3.Connection, batch: Sequence[_Operation], open_holds: OpenHolds, changes: Changes
) -> Sequence[_Operation]:
    """Run the ordinary holds and settlements together; return the remaining operations, or all of them if that fails."""
    holds = [operation for operation in batch if operation.function is ledger.place_hold]
    try:
        if holds:
            placed = open_holds.place(connection, [operation.args[0] for operation in holds], changes)
            for operation, is_placed in zip(holds, placed, strict=True):
                operation.done = is_placed
        for operation in batch:
            if operation.function is ledger.settle and open_holds.settle(changes, *operation.args):
                operation.done, operation.result = True, _NOW
        changes.write(connection)
    except Exception as error:
        if is_fatal(error):
            raise
        logger.warning("a batch is run one by one: %s", error)
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        open_holds.spending.rolled_back()
        connection.execute("BEGIN IMMEDIATE")
        changes.opened.clear()
        for operation in batch:
            operation.result = None
        return batch
    return [operation for operation in batch if not operation.done]


def _run_in_savepoint(connection: sqlite3.Connection, operation: _Operation, spending: Spending) -> None:
    connection.execute("SAVEPOINT operation")
    mark = spending.mark()
    try:
        operation.result = operation.function(connection, *operation.args)
    except Exception as error:
        # On a full disk or an I/O error SQLite may have ended the transaction: then no operation of the batch stands.
        if not connection.in_transaction or is_fatal(error):
            raise
        connection.execute("ROLLBACK TO operation")
        spending.undo(mark)
        operation.error = failure(error) if isinstance(error, sqlite3.OperationalError) else error
    connection.execute("RELEASE operation")


def _nothing(_: sqlite3.Connection) -> None:
    """Change nothing: the operation of `Writer.turn`."""


def _note_settlements(admission: Admission, batch: Sequence[_Operation], error: BaseException | None) -> None:
    for operation in batch:
        if operation.function is ledger.settle:
            why = operation.error if error is None else failure(error)
            (admission.owe if isinstance(why, StoreUnavailableError) else admission.paid)(operation.args[0])


def _rewrite_version(connection: sqlite3.Connection) -> None:
    """Set the file's version to its present value: SQLite writes the page without comparing."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version}")


def _rolled_back(connection: sqlite3.Connection, error: Exception) -> Exception:
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error as worse:
            worse.__cause__ = error
            return worse
    return error
