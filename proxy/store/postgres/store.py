"""The store over PostgreSQL: each operation of the contract, sent to the node's writer or to a reader's connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from proxy.core.days import Zone
from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.core.retention import FoldedRequest
from proxy.core.settlement import Settlement
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.task import Step
from proxy.store.errors import StoreError, StoreRefusedError
from proxy.store.limit_changes import LimitChanges
from proxy.store.peers import NodeState
from proxy.store.postgres import admin, counting, customers, folding, idempotency, ledger, peers, reads, tasks
from proxy.store.postgres.connection import FAILURES, Connection, Connector, Readers, failure, is_lost
from proxy.store.postgres.counting import Counted
from proxy.store.postgres.node import Node
from proxy.store.postgres.peers import PostgresPeers
from proxy.store.postgres.verify import verify, verify_open
from proxy.store.postgres.writer import Writer
from proxy.store.progress import Report
from proxy.store.values import (
    Account,
    Backlog,
    Booking,
    Census,
    Check,
    ClaimedKey,
    Grant,
    Key,
    KeyUse,
    NewKey,
    NewRequest,
    OpenRequest,
    Receipt,
    Reference,
    Settled,
    StoredAnswer,
    UsageQuery,
    UsageRow,
)

T = TypeVar("T")
Args = TypeVarTuple("Args")
Count = Callable[[Connection, str], Awaitable[Counted | None]]


class PostgresStore:
    """`proxy.store.contract.Store` over one database, for one node. Reads never wait behind commits."""

    def __init__(
        self,
        name: str,
        connector: Connector,
        writer: Writer | None,
        node: Node | None,
        readers: Readers,
        opened: AsyncExitStack,
        zone: Zone,
    ) -> None:
        self.name = name
        self.zone = zone
        self.node = node
        """None: opened to be read only."""
        self.peers = None if node is None or writer is None else PostgresPeers(node, self._read, self._write)
        self._connector = connector
        self._writer = writer
        self._readers = readers
        self._opened = opened
        self._node_id = 0 if node is None else node.id
        self._one_long_read = asyncio.Lock()
        self._limit_changes = LimitChanges()

    # accounts and keys: the operator's

    def create_account(
        self, name: str, credit_nanos: Nanos, now_ms: int, reference: Reference | None = None
    ) -> asyncio.Future[Account]:
        return self._write(admin.create_account, name, credit_nanos, now_ms, reference)

    def credit_account(self, name: str, amount_nanos: Nanos, note: str, now_ms: int, reference: Reference) -> asyncio.Future[Booking]:
        return self._write(admin.credit_account, name, amount_nanos, note, now_ms, reference)

    def set_discount(self, name: str, discount: int) -> asyncio.Future[Account]:
        return self._write(customers.set_discount, name, discount)

    def refund_request(
        self,
        request_id: str,
        amount_nanos: Nanos | None,
        note: str,
        now_ms: int,
        reference: Reference,
        account: str | None = None,
    ) -> asyncio.Future[Booking]:
        return self._write(customers.refund_request, request_id, amount_nanos, note, now_ms, reference, account)

    def close_account(self, name: str, now_ms: int) -> asyncio.Future[Account]:
        return self._write(customers.close_account, name, now_ms)

    def create_key(self, account: str, key: NewKey) -> asyncio.Future[Key]:
        return self._write(admin.create_key, account, key)

    def revoke_key(self, key_id: str, now_ms: int) -> asyncio.Future[Key]:
        return self._write(admin.revoke_key, key_id, now_ms)

    def roll_key(self, key_id: str, new: NewKey, overlap_ms: int, now_ms: int) -> asyncio.Future[Key]:
        return self._write(admin.roll_key, key_id, new, overlap_ms, now_ms)

    def set_key_limits(self, key_id: str, change: LimitsChange, now_ms: int) -> asyncio.Future[Key]:
        return self._set_limits(admin.set_key_limits, counting.first_of_key, key_id, change, now_ms)

    def set_account_limits(self, name: str, change: LimitsChange, now_ms: int) -> asyncio.Future[Account]:
        return self._set_limits(admin.set_account_limits, counting.first_of_account, name, change, now_ms)

    def note_use(self, used_at_ms: Mapping[str, int]) -> asyncio.Future[None]:
        return self._write(admin.note_use, used_at_ms)

    async def accounts(self) -> list[Account]:
        return await self._read(admin.accounts)

    async def account(self, name: str) -> Account:
        return await self._read(admin.account, name)

    async def account_by_id(self, account_id: int) -> Account:
        return await self._read(ledger.account_by_id, account_id)

    async def keys(self, account: str | None = None) -> list[Key]:
        return await self._read(admin.keys, account)

    async def find_keys(self, prefix: str) -> list[Key]:
        return await self._read(admin.find_keys, prefix)

    async def key_use(self, now_ms: int, account: str | None = None, identity: str | None = None) -> list[KeyUse]:
        return await self._read(admin.key_use, now_ms, account, identity, self.zone)

    async def grants(self) -> list[Grant]:
        return await self._read(admin.grants)

    # the money path

    def place_hold(self, request: NewRequest) -> asyncio.Future[None]:
        return _failed(self._read_only()) if self._writer is None else self._writer.hold(request)

    def settle(
        self, request_id: str, settlement: Settlement, now_ms: int, answer: StoredAnswer | None = None
    ) -> asyncio.Future[Settled]:
        if self._writer is None:
            return _failed(self._read_only())
        return self._writer.settle(request_id, settlement, now_ms, answer)

    async def open_requests(self) -> list[OpenRequest]:
        return await self._read(reads.open_requests)

    async def orphaned_requests(self, most: int | None = None, *, with_videos: bool = True) -> list[OpenRequest]:
        return await self._read(reads.orphaned_requests, most, with_videos)

    async def claimed_key(self, account_id: int, key: str, now_ms: int) -> ClaimedKey | None:
        return await self._read(idempotency.claimed_key, account_id, key, now_ms)

    async def claims_under_way(self, places: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
        return await self._read(idempotency.under_way, places)

    def forget_claims(self, now_ms: int) -> asyncio.Future[int]:
        return self._write(idempotency.forget, now_ms)

    # retention

    async def old_requests(self, before_ms: int) -> dict[int, int]:
        return await self._read_long(folding.old_requests, before_ms)

    async def accounts_to_fold(self, before_ms: int) -> list[int]:
        return await self._read(folding.accounts_to_fold, before_ms)

    def fold_requests(self, account_id: int, before_ms: int) -> asyncio.Future[int]:
        return self._write(folding.fold, account_id, before_ms, self.zone)

    async def folded(self, request_id: str) -> FoldedRequest | None:
        return await self._read(folding.folded, request_id, self.zone)

    async def has_daily_sums(self, at_ms: int) -> bool:
        return await self._read(folding.has_daily_sums, at_ms, self.zone)

    # video tasks

    def place_task(self, request: NewRequest, task: VideoTask, due_at_ms: int) -> asyncio.Future[None]:
        return self._write(tasks.place_task, self._node_id, request, task, due_at_ms, self.zone)

    def advance_task(
        self,
        task_id: str,
        decide: Callable[[VideoTask], Step],
        now_ms: int,
        answer: StoredAnswer | None = None,
        *,
        keeps_claim: bool = False,
    ) -> asyncio.Future[Step]:
        return self._write(partial(tasks.advance, keeps_claim=keeps_claim), self._node_id, task_id, decide, now_ms, answer)

    async def task(self, task_id: str) -> VideoTask | None:
        return await self._read(tasks.task, task_id)

    async def task_states(self, task_ids: Collection[str]) -> dict[str, TaskState]:
        return await self._read(tasks.task_states, task_ids)

    async def tasks(self, account_id: int, limit: int, offset: int) -> list[VideoTask]:
        return await self._read(tasks.tasks, account_id, limit, offset)

    async def claim_task(self, task_id: str) -> bool:
        return await self._write(tasks.claim_task, self._node_id, task_id)

    async def due_tasks(
        self, now_ms: int, limit: int, upstream: str | None = None, after_ms: int = -1, *, with_lost: bool = True
    ) -> list[VideoTask]:
        asked = (self._node_id, now_ms, limit, upstream, after_ms, with_lost)
        due = await self._read(tasks.due_tasks, *asked)
        if due.are_claimed or self._writer is None:  # nothing to write; who only reads polls nothing
            return due.tasks
        return await self._write(tasks.claim_due_tasks, *asked)

    async def next_due_at_ms(self, after_ms: int = -1, upstream: str | None = None) -> int | None:
        return await self._read(tasks.next_due_at_ms, after_ms, upstream)

    async def open_tasks(self) -> list[VideoTask]:
        return await self._read(tasks.open_tasks)

    async def orphaned_tasks(self) -> list[VideoTask]:
        return await self._read(tasks.orphaned_tasks)

    async def unanswered_tasks(self, upstream: str, since_ms: int) -> list[VideoTask]:
        return await self._read(tasks.unanswered_tasks, upstream, since_ms)

    async def known_upstream_ids(self, upstream: str, since_ms: int) -> frozenset[str]:
        return await self._read(tasks.known_upstream_ids, upstream, since_ms)

    # what happened

    async def receipt(self, request_id: str) -> tuple[Receipt, int] | None:
        return await self._read(reads.receipt, request_id)

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        return await self._read_long(reads.usage, query, self.zone)

    async def verify(self, report: Report | None = None) -> list[Check]:
        return await self._read_long(verify, report)

    async def verify_open(self) -> list[Check]:
        return await self._read_long(verify_open)

    async def census(self) -> Census:
        return await self._read(reads.census)

    # the database

    async def nodes(self) -> list[NodeState]:
        return await self._read(peers.nodes)

    @property
    def backlog(self) -> Backlog:
        backlog = Backlog(0, 0) if self._writer is None else self._writer.backlog
        return replace(backlog, read_waits=self._readers.waits)

    async def ping(self) -> None:
        if self._writer is not None:
            if self._writer.refusal is not None:
                raise failure(self._writer.refusal)
            await self._writer.prove()
        await self._read(_ping)

    async def turn(self) -> None:
        if self._writer is not None:
            await self._writer.turn()

    async def backup(self, destination: Path, report: Report | None = None) -> list[Check]:  # noqa: ARG002
        raise StoreRefusedError(
            f"{self.name} is not copied into a file: backups of it are its server's. Keep them there by point-in-time recovery "
            "(a base backup and the WAL after it), or take a dump by pg_dump, which may run while gateways write"
        )

    async def close(self) -> None:
        await self._limit_changes.drain()
        await self._opened.aclose()

    def _write(self, function: Callable[[Connection, *Args], Awaitable[T]], *args: *Args) -> asyncio.Future[T]:
        """Run a function as a transaction of its own."""
        return _failed(self._read_only()) if self._writer is None else self._writer.submit(function, *args)

    def _set_limits(
        self, function: Callable[..., Awaitable[T]], count: Count, name: str, change: LimitsChange, now_ms: int
    ) -> asyncio.Future[T]:
        """Write a change of limits: at once, but for a money limit, which may be the first and then counts what the books show."""
        if self._writer is None:
            return _failed(self._read_only())
        return self._limit_changes.submit(
            change, partial(self._count, count, name), lambda counted: self._write(function, name, change, now_ms, counted)
        )

    async def _count(self, count: Count, name: str) -> Counted | None:
        async with self._connection_of_its_own() as connection:
            return await count(connection, name)

    async def _read(self, function: Callable[[Connection, *Args], Awaitable[T]], *args: *Args) -> T:
        """Run a short read on a shared connection, and once more where that has gone since it was used last."""
        try:
            async with self._readers.connection() as connection:
                return await function(connection, *args)
        except FAILURES as error:
            if not is_lost(error):
                raise failure(error) from error
        self._readers.forget()
        try:
            async with self._readers.connection() as connection:
                return await function(connection, *args)
        except FAILURES as error:
            raise failure(error) from error

    async def _read_long(self, function: Callable[[Connection, *Args], Awaitable[T]], *args: *Args) -> T:
        """Run a read of seconds or minutes on one snapshot and a connection of its own; one at a time."""
        async with (
            self._one_long_read,
            self._connection_of_its_own() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await function(connection, *args)

    @asynccontextmanager
    async def _connection_of_its_own(self) -> AsyncIterator[Connection]:
        """Yield a connection whose statements may take as long as they need."""
        try:
            connection = await self._connector.connect(statement_seconds=None)
            try:
                yield connection
            finally:
                connection.terminate()  # also in the midst of a statement: the server ends it
        except FAILURES as error:
            raise failure(error) from error

    def _read_only(self) -> StoreRefusedError:
        return StoreRefusedError(f"{self.name} was opened to be read only")


def _failed(why: StoreError) -> asyncio.Future[Any]:
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    failed.set_exception(why)
    return failed


async def _ping(connection: Connection) -> None:
    """Read one row of the ledger itself."""
    await connection.fetchval("SELECT 1 FROM accounts WHERE id = 1")
