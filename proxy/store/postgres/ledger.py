"""Money within a transaction of its own: holds and settlements beside another record, and what an operator books.

Functions of a connection, in a transaction of the writer's. Whoever changes an account's money or limits locks its row first, by
`locked_by_name` or `locked_by_id`, after the rows of requests and before whatever is written under that lock.
"""

from typing import Any

from proxy.core.days import Zone
from proxy.core.money import NANOS_MAX, Nanos, format_yuan
from proxy.core.settlement import Settlement
from proxy.store import refusals
from proxy.store.errors import AccountClosedError, AccountNotFoundError, StoreRefusedError
from proxy.store.postgres import batch, payments
from proxy.store.postgres.connection import Connection
from proxy.store.values import Account, NewRequest, Reference, Settled, StoredAnswer

CASH_ID = 1
REVENUE_ID = 2

_ACCOUNT = "SELECT id, name, balance_nanos, held_nanos, created_at_ms, discount, closed_at_ms FROM accounts WHERE kind = 'customer'"


async def hold(connection: Connection, node_id: int, request: NewRequest, zone: Zone) -> None:
    """Record a request with its hold and its claim, beside what else the transaction writes.

    Raises: KeyRefusedError, KeyClaimedError, SpendLimitError, InsufficientFundsError, AccountNotFoundError, AccountClosedError;
    ValueError for a negative hold, a used id or an unknown key. Nothing was written then.
    """
    row = batch.hold_row(request)
    if batch.is_beyond_all_holds(request):
        await refuse_beyond_all_holds(connection, request)
    (told,), (why,), _ = await connection.fetchrow(batch.BOOK, node_id, None, True, False, *batch.arguments([row], []))
    if told != 1:
        raise batch.hold_refusal(request, told, why, zone)


async def settle(
    connection: Connection, node_id: int, request_id: str, settlement: Settlement, now_ms: int, answer: StoredAnswer | None
) -> Settled:
    """End a request's hold, once, beside what else the transaction writes; a video's task must have ended in it.

    Raises: KeyError: no such request; ValueError: a charge above the hold, a negative figure, or a video whose task goes on.
    """
    row = batch.settlement_row(request_id, settlement, now_ms, answer)
    _, _, (told,) = await connection.fetchrow(batch.BOOK, node_id, None, True, False, *batch.arguments([], [row]))
    result = batch.settlement_result(request_id, settlement.charge_nanos, told)
    if isinstance(result, Exception):
        raise result
    return result


async def refuse_beyond_all_holds(connection: Connection, request: NewRequest) -> None:
    """Raises: InsufficientFundsError, AccountNotFoundError, AccountClosedError: the hold is more than any balance covers."""
    account = require_open(await account_by_id(connection, request.account_id))
    raise refusals.insufficient(account.name, account.available_nanos, request.hold_nanos)


async def book(connection: Connection, account: Account, amount_nanos: Nanos, note: str, now_ms: int, reference: Reference) -> None:
    """Take money in from cash, or, if the amount is negative, pay it back out, under a reference that is free. The account is locked.

    Raises: StoreRefusedError: nothing to book, or beyond what a balance can be; AccountClosedError, InsufficientFundsError.
    """
    require_open(account)
    if amount_nanos == 0:
        raise StoreRefusedError("an amount of 0 books nothing")
    _require_room(account, amount_nanos)
    if account.available_nanos + amount_nanos < 0:
        raise refusals.not_to_be_taken_back(account.name, account.available_nanos, -amount_nanos)
    way = ("credit", CASH_ID, account.id) if amount_nanos > 0 else ("refund", account.id, CASH_ID)
    await _move(connection, *way, abs(amount_nanos), None, note, now_ms, account, amount_nanos, reference)


async def reverse(
    connection: Connection, account: Account, amount_nanos: int, request_id: str, note: str, now_ms: int, reference: Reference
) -> None:
    """Give an amount of a request's charge back, under a reference that is free. The account is locked.

    Raises: StoreRefusedError: beyond what a balance can be.
    """
    _require_room(account, amount_nanos)
    await _move(
        connection, "reversal", REVENUE_ID, account.id, amount_nanos, request_id, note, now_ms, account, amount_nanos, reference
    )


def require_open(account: Account) -> Account:
    """Return the account. Raises: AccountClosedError."""
    if account.closed_at_ms is not None:
        raise AccountClosedError(refusals.closed(account.name, account.closed_at_ms))
    return account


async def account_by_id(connection: Connection, account_id: int) -> Account:
    """Raises: AccountNotFoundError."""
    return _found(await connection.fetchrow(f"{_ACCOUNT} AND id = $1", account_id), f"with the id {account_id}")


async def account_by_name(connection: Connection, name: str) -> Account:
    """Raises: AccountNotFoundError."""
    return _found(await connection.fetchrow(f"{_ACCOUNT} AND name = $1", batch.shown(name)), name)


async def locked_by_id(connection: Connection, account_id: int) -> Account:
    """Return an account, which nobody else changes until the transaction ends. Raises: AccountNotFoundError."""
    return _found(await connection.fetchrow(f"{_ACCOUNT} AND id = $1 FOR NO KEY UPDATE", account_id), f"with the id {account_id}")


async def locked_by_name(connection: Connection, name: str) -> Account:
    """Return an account likewise. Raises: AccountNotFoundError."""
    return _found(await connection.fetchrow(f"{_ACCOUNT} AND name = $1 FOR NO KEY UPDATE", batch.shown(name)), name)


async def accounts(connection: Connection) -> list[Account]:
    """Return the customers, by name."""
    return [Account(*row) for row in await connection.fetch(f"{_ACCOUNT} ORDER BY name")]


def _found(row: Any, which: str) -> Account:
    if row is None:
        raise AccountNotFoundError(f"there is no account {which}")
    return Account(*row)


def _require_room(account: Account, amount_nanos: int) -> None:
    if account.balance_nanos + amount_nanos > NANOS_MAX:
        raise StoreRefusedError(f"a balance cannot be above ¥{format_yuan(NANOS_MAX)}")


async def _move(
    connection: Connection,
    kind: str,
    debit_id: int,
    credit_id: int,
    amount_nanos: int,
    request_id: str | None,
    note: str,
    now_ms: int,
    account: Account,
    change_nanos: int,
    reference: Reference,
) -> None:
    """Write a transfer, its reference, and the account's balance."""
    transfer_id = await connection.fetchval(
        """INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, note, created_at_ms)
           VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id""",
        *(kind, debit_id, credit_id, amount_nanos, request_id, batch.shown(note), now_ms),
    )
    await payments.record(connection, reference, account.id, change_nanos, transfer_id, now_ms)
    await connection.execute("UPDATE accounts SET balance_nanos = balance_nanos + $1 WHERE id = $2", change_nanos, account.id)
