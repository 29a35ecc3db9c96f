"""The store over SQLite: each operation of the contract, sent to the writer's or a reader's thread."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
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
from proxy.store.errors import StoreError, StoreRefusedError, StoreUnavailableError
from proxy.store.limit_changes import LimitChanges
from proxy.store.progress import Report
from proxy.store.sqlite import admin, counting, customers, folding, idempotency, ledger, reads, tasks
from proxy.store.sqlite.admission import Admission
from proxy.store.sqlite.counting import Counted
from proxy.store.sqlite.file.backup import backup
from proxy.store.sqlite.file.connection import Connection, connection_to, failure
from proxy.store.sqlite.spending import Spending
from proxy.store.sqlite.verify import verify, verify_open
from proxy.store.sqlite.writer import Writer
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
Count = Callable[[sqlite3.Connection, str], Counted | None]


class SqliteStore:
    """`proxy.store.contract.Store` over one file. Reads never wait behind commits; long ones have a connection of their own."""

    def __init__(
        self,
        path: Path,
        writer: Writer | None,
        reader: Connection,
        opened: AsyncExitStack,
        zone: Zone,
        admission: Admission | None = None,
    ) -> None:
        self.path = path
        self.zone = zone
        self.peers: None = None
        self._admission = admission
        self._writer = writer
        self._owner = "" if writer is None else writer.owner
        self._reader = reader
        self._opened = opened
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
        return self._write_money(admin.create_key, account, key)

    def revoke_key(self, key_id: str, now_ms: int) -> asyncio.Future[Key]:
        return self._write(admin.revoke_key, key_id, now_ms)

    def roll_key(self, key_id: str, new: NewKey, overlap_ms: int, now_ms: int) -> asyncio.Future[Key]:
        return self._write_money(admin.roll_key, key_id, new, overlap_ms, now_ms)

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
        return self._take_on(ledger.place_hold, request, self._owner)

    def settle(
        self, request_id: str, settlement: Settlement, now_ms: int, answer: StoredAnswer | None = None
    ) -> asyncio.Future[Settled]:
        return self._write_money(ledger.settle, request_id, settlement, now_ms, answer)

    async def open_requests(self) -> list[OpenRequest]:
        return await self._read(reads.open_requests)

    async def orphaned_requests(self, most: int | None = None, *, with_videos: bool = True) -> list[OpenRequest]:
        # This process has the lock, so every other owner is dead. A reader has no lock, proves nothing and settles nothing.
        return [] if self._writer is None else await self._read(reads.orphaned_requests, self._owner, most, with_videos)

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
        return self._write(self._fold, account_id, before_ms)

    def _fold(self, connection: sqlite3.Connection, account_id: int, before_ms: int) -> int:
        folded = folding.fold(connection, account_id, before_ms, self.zone)
        if self._writer is not None:
            self._writer.count_frames(folded)
        return folded

    async def folded(self, request_id: str) -> FoldedRequest | None:
        return await self._read(folding.folded, request_id, self.zone)

    async def has_daily_sums(self, at_ms: int) -> bool:
        return await self._read(folding.has_daily_sums, at_ms, self.zone)

    # video tasks

    def place_task(self, request: NewRequest, task: VideoTask, due_at_ms: int) -> asyncio.Future[None]:
        return self._take_on(tasks.place_task, request, self._owner, task, due_at_ms)

    def advance_task(
        self,
        task_id: str,
        decide: Callable[[VideoTask], Step],
        now_ms: int,
        answer: StoredAnswer | None = None,
        *,
        keeps_claim: bool = False,  # noqa: ARG002  every task is this process's
    ) -> asyncio.Future[Step]:
        return self._write_money(tasks.advance, task_id, decide, now_ms, answer)

    async def task(self, task_id: str) -> VideoTask | None:
        return await self._read(tasks.task, task_id)

    async def task_states(self, task_ids: Collection[str]) -> dict[str, TaskState]:
        return await self._read(tasks.task_states, task_ids)

    async def tasks(self, account_id: int, limit: int, offset: int) -> list[VideoTask]:
        return await self._read(tasks.tasks, account_id, limit, offset)

    async def claim_task(self, task_id: str) -> bool:
        return self._writer is not None and await self.task(task_id) is not None

    async def due_tasks(
        self, now_ms: int, limit: int, upstream: str | None = None, after_ms: int = -1, *, with_lost: bool = True
    ) -> list[VideoTask]:
        return await self._read(tasks.due_tasks, now_ms, limit, upstream, after_ms, with_lost)

    async def next_due_at_ms(self, after_ms: int = -1, upstream: str | None = None) -> int | None:
        return await self._read(tasks.next_due_at_ms, after_ms, upstream)

    async def open_tasks(self) -> list[VideoTask]:
        return await self._read(tasks.open_tasks)

    async def orphaned_tasks(self) -> list[VideoTask]:
        return [] if self._writer is None else await self._read(tasks.orphaned_tasks, self._owner)

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
        return await self._read_telling(verify, report)

    async def verify_open(self) -> list[Check]:
        return await self._read(verify_open)

    async def census(self) -> Census:
        return await self._read(reads.census)

    async def nodes(self) -> None:
        return None

    @property
    def backlog(self) -> Backlog:
        return Backlog(0, 0) if self._writer is None else self._writer.backlog

    # the file

    async def ping(self) -> None:
        if self._writer is not None:
            if self._writer.refusal is not None:
                raise failure(self._writer.refusal)
            if self._admission is not None and self._admission.refusal:
                raise StoreUnavailableError(self._admission.refusal)
            await self._writer.prove()
        await self._read(reads.ping)

    async def turn(self) -> None:
        if self._writer is not None:
            await self._writer.turn()

    async def backup(self, destination: Path, report: Report | None = None) -> list[Check]:
        return await self._read_telling(backup, report, self.path, destination)

    async def close(self) -> None:
        await self._limit_changes.drain()
        await self._opened.aclose()

    def _write(self, function: Callable[[sqlite3.Connection, *Args], T], *args: *Args) -> asyncio.Future[T]:
        if self._writer is None:
            return _failed(StoreRefusedError(f"{self.path} was opened to be read only"))
        return self._writer.submit(function, *args)

    def _write_money(self, function: Callable[[sqlite3.Connection, *Args, Spending], T], *args: *Args) -> asyncio.Future[T]:
        """Write what moves money or changes its limits."""
        if self._writer is None:
            return _failed(StoreRefusedError(f"{self.path} was opened to be read only"))
        return self._writer.submit(function, *args, self._writer.spending)

    def _set_limits(self, function: Callable[..., T], count: Count, name: str, change: LimitsChange, now_ms: int) -> asyncio.Future[T]:
        """Write a change of limits: at once, but for a money limit, which may be the first and then counts what the books show."""
        if self._writer is None:
            return self._write_money(function, name, change, now_ms)
        return self._limit_changes.submit(
            change,
            partial(self._count, count, name),
            lambda counted: self._write_money(partial(function, counted=counted), name, change, now_ms),
        )

    async def _count(self, count: Count, name: str) -> Counted | None:
        async with connection_to(self.path, "ro") as connection:
            return await _told(connection, count, name)

    def _take_on(self, function: Callable[[sqlite3.Connection, *Args, Spending], T], *args: *Args) -> asyncio.Future[T]:
        """Write new paid work, unless what is open might find no room then."""
        if self._writer is not None and self._admission is not None and self._admission.refusal:
            return _failed(StoreUnavailableError(self._admission.refusal))
        return self._write_money(function, *args)

    async def _read(self, function: Callable[[sqlite3.Connection, *Args], T], *args: *Args) -> T:
        return await _told(self._reader, function, *args)

    async def _read_long(self, function: Callable[[sqlite3.Connection, *Args], T], *args: *Args) -> T:
        """Read for seconds, on a connection of its own, so that short reads do not wait; one at a time."""
        async with self._one_long_read, connection_to(self.path, "ro") as connection:
            return await _told(connection, function, *args)

    async def _read_telling(self, function: Callable[[sqlite3.Connection, Report, *Args], T], report: Report | None, *args: *Args) -> T:
        """Read as above and report progress; a caller that gives up, by Ctrl-C for example, does not wait for the end."""
        async with self._one_long_read, connection_to(self.path, "ro") as connection:
            try:
                return await connection.run_telling(function, report, *args)
            except sqlite3.Error as error:
                raise failure(error) from error


def _failed(why: StoreError) -> asyncio.Future[Any]:
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    failed.set_exception(why)
    return failed


async def _told(connection: Connection, function: Callable[[sqlite3.Connection, *Args], T], *args: *Args) -> T:
    try:
        return await connection.run(function, *args)
    except sqlite3.Error as error:
        raise failure(error) from error
