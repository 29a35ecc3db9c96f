"""The store over PostgreSQL: each operation of the contract, sent to the node's writer or to a reader's connection."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar, TypeVarTuple

from proxy.core.days import Zone
from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.core.settlement import Settlement
from proxy.store.errors import StoreError, StoreRefusedError
from proxy.store.postgres import admin, customers, ledger
from proxy.store.postgres.connection import FAILURES, Connection, Connector, Readers, failure, is_lost
from proxy.store.postgres.node import Node
from proxy.store.postgres.writer import Writer
from proxy.store.values import (
    Account,
    Backlog,
    Booking,
    Grant,
    Key,
    KeyUse,
    NewKey,
    NewRequest,
    Reference,
    Settled,
    StoredAnswer,
)

T = TypeVar("T")
Args = TypeVarTuple("Args")


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
        self._connector = connector
        self._writer = writer
        self._readers = readers
        self._opened = opened
        self._one_long_read = asyncio.Lock()

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
        return self._write(admin.set_key_limits, key_id, change, now_ms)

    def set_account_limits(self, name: str, change: LimitsChange, now_ms: int) -> asyncio.Future[Account]:
        return self._write(admin.set_account_limits, name, change, now_ms)

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

    # the database

    @property
    def backlog(self) -> Backlog:
        return Backlog(0, 0) if self._writer is None else self._writer.backlog

    async def ping(self) -> None:
        if self._writer is not None:
            if self._writer.refusal is not None:
                raise failure(self._writer.refusal)
            await self._writer.prove()
        await self._read(_ping)

    async def turn(self) -> None:
        if self._writer is not None:
            await self._writer.turn()

    async def close(self) -> None:
        await self._opened.aclose()

    def _write(self, function: Callable[[Connection, *Args], Awaitable[T]], *args: *Args) -> asyncio.Future[T]:
        """Run a function as a transaction of its own."""
        return _failed(self._read_only()) if self._writer is None else self._writer.submit(function, *args)

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
        async with self._one_long_read:
            try:
                connection = await self._connector.connect(statement_seconds=None)
                try:
                    async with connection.transaction(isolation="repeatable_read", readonly=True):
                        return await function(connection, *args)
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
