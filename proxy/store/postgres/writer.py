"""The one writer of a node: holds and settlements in batches, everything else as a transaction of its own, in the order of the calls.

A batch is one call of ``book``: one round trip, one transaction, one commit. While it runs, what is called meanwhile gathers for the
next. A settlement is never in the batch of its own hold, and no request twice in one: there the batch ends.

A hold whose caller was told that it failed, while nobody knew its end, is undone before anything else is written.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

from msgspec import Struct

from proxy.core.days import Zone
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome, Settlement, UsageSource
from proxy.store.errors import StoreCorruptError, StoreError, StoreUnavailableError
from proxy.store.postgres import batch, ledger
from proxy.store.postgres.batch import Row
from proxy.store.postgres.connection import Connection, failure, words_of
from proxy.store.postgres.session import Session, UnknownEndError, ValueRefusedError
from proxy.store.values import Backlog, CommitStats, NewRequest, Settled, StoredAnswer
from proxy.tasks import TaskGroup

T = TypeVar("T")
Args = TypeVarTuple("Args")

BATCH_OPERATIONS_MAX = 512
QUEUE_OPERATIONS_MAX = 65_536
"""Above it a write is refused at once: the database is far behind, and memory is finite."""
CROWD_OPERATIONS = 8
"""After a batch of this size, more are on their way: the next one waits for them a moment, unless enough are queued already."""
CROWD_SECONDS = 0.05
GATHERED_OPERATIONS = 48
GATHER_SECONDS = 0.002
PATIENCE_SECONDS = 5.0
"""How long a write is tried while the database cannot be reached: a failover within one machine took 0.4 to 2.7 s."""

_UNDONE = Settlement(
    Outcome.INTERRUPTED, UsageSource.NONE, Nanos(0), note="held while the database could not be reached, after its caller had gone"
)

logger = logging.getLogger(__name__)


class _Operation(Struct):
    future: asyncio.Future[Any]
    queued_at: float
    request_id: str = ""
    """Of a hold or a settlement; empty: a transaction of its own."""
    row: Row = ()
    request: NewRequest | None = None
    """Of a hold."""
    function: Callable[..., Awaitable[Any]] | None = None
    args: tuple[Any, ...] = ()


class Writer:
    """Queues what is to be written. Functions of its transactions get the connection first, and neither begin nor end one."""

    def __init__(
        self,
        session: Session,
        zone: Zone,
        *,
        on_commit: Callable[[CommitStats], None] | None = None,
        on_corrupt: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._session = session
        self._zone = zone
        self._on_commit = on_commit
        self._on_corrupt = on_corrupt
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Operation] = deque()
        self._doubtful: list[NewRequest] = []
        self._wake = asyncio.Event()
        self._refusal: StoreError | None = None
        self._failures = 0
        self._failures_overcome = 0
        self._tasks = TaskGroup("store")
        self._tasks.spawn(self._write_until_closed(), "writer", on_death=self._died)

    @property
    def refusal(self) -> StoreError | None:
        """The reason why nothing more is written, or None."""
        return self._refusal

    @property
    def backlog(self) -> Backlog:
        return Backlog(len(self._queue), self._failures, retries=self._session.retries)

    def hold(self, request: NewRequest) -> asyncio.Future[None]:
        """Queue a hold."""
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            batch.require_no_video(request)
            row = batch.hold_row(request)
        except ValueError as error:
            future.set_exception(error)
            return future
        if batch.is_beyond_all_holds(request):
            return self.submit(ledger.refuse_beyond_all_holds, request)
        return self._queued(_Operation(future, self._loop.time(), request.id, row, request))

    def settle(
        self, request_id: str, settlement: Settlement, now_ms: int, answer: StoredAnswer | None = None
    ) -> asyncio.Future[Settled]:
        """Queue a settlement."""
        future: asyncio.Future[Settled] = self._loop.create_future()
        try:
            row = batch.settlement_row(request_id, settlement, now_ms, answer)
        except ValueError as error:
            future.set_exception(error)
            return future
        return self._queued(_Operation(future, self._loop.time(), request_id, row))

    def submit(self, function: Callable[[Connection, *Args], Awaitable[T]], *args: *Args) -> asyncio.Future[T]:
        """Queue a transaction of its own; the future has what the function returns, once it is durable."""
        future: asyncio.Future[T] = self._loop.create_future()
        return self._queued(_Operation(future, self._loop.time(), function=function, args=args))

    async def turn(self) -> None:
        """Return once the writer has got as far as the next operation, whatever came of the one before."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.appendleft(_Operation(future, self._loop.time()))  # ahead of the queue: a long queue is no failure
        self._wake.set()
        with suppress(StoreError):
            await future

    async def prove(self) -> None:
        """Prove that the store can be written, if a write has failed since the last success. Raises: StoreError."""
        failures = self._failures
        if failures > self._failures_overcome:
            await self.submit(_nothing)  # the fence is a row that is written
            self._failures_overcome = max(self._failures_overcome, failures)

    def _overdue(self) -> list[_Operation]:
        """Take out of the queue what has waited its time behind a write that failed: nothing of it was sent."""
        taken = []
        while self._queue and self._queue[0].queued_at + PATIENCE_SECONDS <= self._loop.time():
            taken.append(self._queue.popleft())
        return taken

    def break_off(self, error: BaseException) -> None:
        """Write nothing any more, and say so, once: this node is dead. What is queued is refused."""
        is_first = not isinstance(self._refusal, StoreCorruptError)
        self._refuse(error if isinstance(error, StoreCorruptError) else StoreCorruptError(f"this node cannot go on: {words_of(error)}"))
        if is_first and self._on_corrupt is not None:
            self._on_corrupt(error)

    async def close(self) -> None:
        """Refuse new operations, carry out the queued ones, and let go of the connection."""
        self._refuse(StoreUnavailableError("the store is closed"))
        await self._tasks.drain()
        while self._queue:  # the task was cancelled
            await self._run(self._take())
        await self._session.close()

    def _queued(self, operation: _Operation) -> asyncio.Future[Any]:
        if self._refusal is not None:
            operation.future.set_exception(failure(self._refusal))
        elif len(self._queue) >= QUEUE_OPERATIONS_MAX:
            operation.future.set_exception(StoreUnavailableError(f"{QUEUE_OPERATIONS_MAX} writes are waiting already"))
        else:
            self._queue.append(operation)
            self._wake.set()
        return operation.future

    async def _write_until_closed(self) -> None:
        size, ended_at = 0, 0.0
        try:
            while self._refusal is None or self._queue:
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                in_a_crowd = size >= CROWD_OPERATIONS and self._loop.time() - ended_at < CROWD_SECONDS
                if in_a_crowd and len(self._queue) < GATHERED_OPERATIONS and self._refusal is None:
                    await asyncio.sleep(GATHER_SECONDS)
                if self._doubtful:
                    await self._undo_doubtful()
                operations = self._take()
                if operations:
                    await self._run(operations)
                    size, ended_at = len(operations), self._loop.time()
        finally:
            self._refuse(StoreUnavailableError("the store's writer was stopped"))

    def _take(self) -> list[_Operation]:
        """Return the next batch: holds and settlements up to whatever is a transaction of its own, or that one alone."""
        taken: list[_Operation] = []
        ids: set[str] = set()
        while self._queue and len(taken) < BATCH_OPERATIONS_MAX:
            first = self._queue[0]
            if not first.request_id:
                return taken or [self._queue.popleft()]
            if first.request_id in ids:
                break
            ids.add(first.request_id)
            taken.append(self._queue.popleft())
        return taken

    async def _run(self, operations: Sequence[_Operation]) -> None:
        began = self._loop.time()
        until = max(began, operations[0].queued_at + PATIENCE_SECONDS)
        try:
            if isinstance(self._refusal, StoreCorruptError):
                raise failure(self._refusal)
            if operations[0].request_id:
                await self._book(operations, until)
            elif (function := operations[0].function) is not None:
                _resolve(operations[0], await self._session.transact(function, operations[0].args, until))
            else:  # a turn, which asks for no more than to be come to
                _resolve(operations[0], None)
                return
        except ValueRefusedError as error:
            await self._run_one_by_one(operations, error)
        except Exception as error:  # noqa: BLE001  the writer must outlive any bug of an operation; its caller is told
            self._failed(operations, error)
        else:
            if self._on_commit is not None:
                self._on_commit(CommitStats(len(operations), self._loop.time() - began))

    async def _book(self, operations: Sequence[_Operation], until: float) -> None:
        holds = [operation for operation in operations if operation.request is not None]
        settlements = [operation for operation in operations if operation.request is None]
        told = await self._session.book([hold.row for hold in holds], [one.row for one in settlements], until)
        h_told, h_why, s_told = told
        for place, hold in enumerate(holds):
            assert hold.request is not None
            if h_told[place] == 1:
                _resolve(hold, None)
            else:
                _reject(hold, batch.hold_refusal(hold.request, h_told[place], h_why[place], self._zone))
        for settlement, its_told in zip(settlements, s_told or (), strict=True):
            result = batch.settlement_result(settlement.request_id, settlement.row[4], its_told)
            (_reject if isinstance(result, Exception) else _resolve)(settlement, result)

    async def _run_one_by_one(self, operations: Sequence[_Operation], error: ValueRefusedError) -> None:
        """Run each operation of a batch alone, so that the one whose value the server does not take fails by itself."""
        if len(operations) == 1:
            _reject(operations[0], ValueError(f"request {operations[0].request_id} cannot be recorded: {error}"))
            return
        logger.warning("a batch is run one by one: %s", error)
        for operation in operations:
            await self._run([operation])

    async def _undo_doubtful(self) -> None:
        """End holds that were perhaps committed after their callers had been told that they failed."""
        doubtful = list(self._doubtful)
        rows = [batch.settlement_row(request.id, _UNDONE, request.created_at_ms, None) for request in doubtful]
        try:
            await self._session.book([], rows, self._loop.time())
        except StoreError as error:
            logger.warning("%d holds whose end nobody knows wait for the database: %s", len(doubtful), error)
        else:
            del self._doubtful[: len(doubtful)]

    def _failed(self, operations: Sequence[_Operation], error: Exception) -> None:
        """Tell the callers why nothing was written, or that nobody knows."""
        if isinstance(error, StoreError) and not isinstance(error, StoreUnavailableError | StoreCorruptError):
            _reject(operations[0], error)  # a refusal
            return
        if isinstance(error, StoreUnavailableError | StoreCorruptError):
            self._failures += 1
            logger.error("a transaction of %d operations failed: %s", len(operations), error)
        if isinstance(error, UnknownEndError):
            self._doubtful += [operation.request for operation in operations if operation.request is not None]
        overdue = self._overdue() if isinstance(error, StoreUnavailableError) else []
        for operation in (*operations, *overdue):
            _reject(operation, failure(error) if isinstance(error, StoreError) else error)
        if isinstance(error, StoreCorruptError):
            self.break_off(error)

    def _refuse(self, why: StoreError) -> None:
        """Accept no more operations. The first reason stands, but that this node is dead overrides it."""
        if self._refusal is None or isinstance(why, StoreCorruptError):
            self._refusal = why
        self._wake.set()

    def _died(self, error: BaseException | None) -> None:
        """Report that the task died of a bug: nothing can be written any more, so the process should end."""
        if error is not None and self._on_corrupt is not None:
            self._on_corrupt(error)


def _resolve(operation: _Operation, result: object) -> None:
    if not operation.future.done():  # its caller was cancelled; the write has happened all the same
        operation.future.set_result(result)


def _reject(operation: _Operation, error: object) -> None:
    if not operation.future.done():
        assert isinstance(error, BaseException)
        operation.future.set_exception(error)


async def _nothing(_: Connection) -> None:
    """Change nothing but the number of this node's last write."""
