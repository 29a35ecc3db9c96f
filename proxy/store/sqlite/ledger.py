"""Money: holds, their settlement, and what an operator books. Plain functions of a connection, inside a transaction of the writer's.

They begin and end no transaction, so that another record, a video's task say, can be changed together with its money. One that raises
may have changed something: its caller undoes the savepoint.
"""

import sqlite3

import orjson
from msgspec.structs import asdict

from proxy.core.catalog import Kind
from proxy.core.money import NANOS_MAX, Nanos, format_yuan
from proxy.core.settlement import Settlement
from proxy.store import refusals
from proxy.store.errors import AccountClosedError, AccountNotFoundError, StoreRefusedError
from proxy.store.sqlite import idempotency, payments
from proxy.store.sqlite.spending import Spending
from proxy.store.values import Account, NewRequest, Reference, Settled, StoredAnswer

CASH_ID = 1
REVENUE_ID = 2
COUNT_MAX = 2**48
"""A count beyond it is stored as this: an upstream's nonsense must neither stop a settlement nor overflow the sums of `usage`."""

_ACCOUNT = "SELECT id, name, balance_nanos, held_nanos, created_at_ms, discount, closed_at_ms FROM accounts WHERE kind = 'customer'"

_HOLD = """
    UPDATE accounts SET held_nanos = held_nanos + ?1
    WHERE id = ?2 AND kind = 'customer' AND balance_nanos - held_nanos >= ?1 AND closed_at_ms IS NULL"""
_INSERT_REQUEST = """
    INSERT INTO requests (owner, id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price,
      created_at_ms, claimed, key_name)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SETTLE_REQUEST = """
    UPDATE requests SET settled_at_ms = ?, outcome = ?, usage_source = ?, charge_nanos = ?, prompt_tokens = ?, cached_tokens = ?,
      completion_tokens = ?, reasoning_tokens = ?, units = ?, shortfall_nanos = ?, http_status = ?, upstream_id = ?, first_byte_ms = ?,
      total_ms = ?, note = ?
    WHERE id = ? AND settled_at_ms IS NULL
    RETURNING account_id, coalesce(key_id, ''), created_at_ms, hold_nanos, kind, claimed"""
_NOTE_ATTEMPTS = "UPDATE requests SET upstream = ?, upstream_model = ?, key_name = ?, attempts = ? WHERE id = ?"
_INSERT_TRANSFER = """
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, note, created_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)"""


def place_hold(connection: sqlite3.Connection, request: NewRequest, owner: str, spending: Spending) -> None:
    """Do as `record`, for all but videos. Raises: as `record`; ValueError for a video, which nothing would end without its task."""
    if request.kind is Kind.VIDEO:
        raise ValueError(f"request {request.id} is a video: it is placed with its task")
    record(connection, request, owner, spending)


def record(connection: sqlite3.Connection, request: NewRequest, owner: str, spending: Spending) -> None:
    """Record a request with its hold, which is a pending transfer from the customer to revenue. A hold of 0 moves nothing.

    Raises: KeyClaimedError before all else, as a retry is owed its first answer whatever is available now; SpendLimitError;
    InsufficientFundsError; AccountNotFoundError, AccountClosedError; ValueError for a negative hold, a used id or an unknown key.
    """
    claim = request.claim
    if claim is not None:
        idempotency.require_free(connection, request, claim)
    hold = request.hold_nanos
    if hold < 0:
        raise ValueError(f"a hold cannot be negative: {hold}")
    if hold and not spending.is_idle:
        spending.require(request)
    if hold > NANOS_MAX or connection.execute(_HOLD, (hold, request.account_id)).rowcount == 0:
        held_for = require_open(account_by_id(connection, request.account_id))
        raise refusals.insufficient(held_for.name, held_for.available_nanos, hold)
    try:
        connection.execute(_INSERT_REQUEST, (owner, *request_values(request)))
        if claim is not None:
            idempotency.take(connection, request, claim)
        if hold:
            _transfer(connection, "hold", request.account_id, REVENUE_ID, hold, request.id, "", request.created_at_ms)
            spending.count(request)
            spending.write()
    except sqlite3.IntegrityError as error:
        raise ValueError(f"request {request.id} cannot be recorded: {error}") from error


def settle(
    connection: sqlite3.Connection,
    request_id: str,
    settlement: Settlement,
    now_ms: int,
    answer: StoredAnswer | None,
    spending: Spending,
) -> Settled:
    """End a request's hold, once: post its charge and release the rest, or release all of it where nothing is charged.

    Its idempotency key, where it has one, keeps the answer, or is given back if there is none.

    Raises: KeyError: no such request; ValueError: a charge above the hold, a negative figure, or a video whose task goes on.
    """
    try:
        row = connection.execute(_SETTLE_REQUEST, (now_ms, *settlement_values(settlement), request_id)).fetchone()
    except sqlite3.IntegrityError as error:
        raise ValueError(f"the settlement of {request_id} contradicts itself or its hold: {settlement}") from error
    if row is None:
        return _settled_before(connection, request_id, settlement)
    account_id, key_id, created_at_ms, hold, kind, claimed = row
    if len(settlement.attempts) > 1:
        last = settlement.attempts[-1]
        told = orjson.dumps([asdict(attempt) for attempt in settlement.attempts]).decode()
        connection.execute(_NOTE_ATTEMPTS, (last.upstream, last.model, last.key or None, told, request_id))
    if kind == "video":
        _require_ended_task(connection, request_id)
    if claimed:
        _end_claim(connection, request_id, answer)
    if hold:
        charge = settlement.charge_nanos
        ending, amount = ("charge", charge) if charge else ("release", hold)
        _transfer(connection, ending, account_id, REVENUE_ID, amount, request_id, "", now_ms)
        connection.execute(
            "UPDATE accounts SET balance_nanos = balance_nanos - ?, held_nanos = held_nanos - ? WHERE id = ?",
            (charge, hold, account_id),
        )
        spending.settle(account_id, key_id, created_at_ms, hold, charge)
        spending.write()
    return Settled.NOW


def book(connection: sqlite3.Connection, account_id: int, amount_nanos: Nanos, note: str, now_ms: int, reference: Reference) -> None:
    """Take money in from cash, or, where the amount is negative, pay it back out, under a reference that is free.

    Raises: StoreRefusedError: nothing to book, or beyond what a balance can be; AccountClosedError, InsufficientFundsError.
    """
    account = require_open(account_by_id(connection, account_id))
    if amount_nanos == 0:
        raise StoreRefusedError("an amount of 0 books nothing")
    if account.balance_nanos + amount_nanos > NANOS_MAX:
        raise StoreRefusedError(f"a balance cannot be above ¥{format_yuan(NANOS_MAX)}")
    if account.available_nanos + amount_nanos < 0:
        raise refusals.not_to_be_taken_back(account.name, account.available_nanos, -amount_nanos)
    if amount_nanos > 0:
        _transfer(connection, "credit", CASH_ID, account_id, amount_nanos, None, note, now_ms)
    else:
        _transfer(connection, "refund", account_id, CASH_ID, -amount_nanos, None, note, now_ms)
    (transfer_id,) = connection.execute("SELECT last_insert_rowid()").fetchone()
    payments.record(connection, reference, account_id, amount_nanos, transfer_id, now_ms)
    connection.execute("UPDATE accounts SET balance_nanos = balance_nanos + ? WHERE id = ?", (amount_nanos, account_id))


def reverse(
    connection: sqlite3.Connection, account: Account, amount_nanos: int, request_id: str, note: str, now_ms: int, reference: Reference
) -> None:
    """Give an amount of a request's charge back, under a reference that is free.

    Raises: StoreRefusedError: beyond what a balance can be.
    """
    if account.balance_nanos + amount_nanos > NANOS_MAX:
        raise StoreRefusedError(f"a balance cannot be above ¥{format_yuan(NANOS_MAX)}")
    _transfer(connection, "reversal", REVENUE_ID, account.id, amount_nanos, request_id, note, now_ms)
    (transfer_id,) = connection.execute("SELECT last_insert_rowid()").fetchone()
    payments.record(connection, reference, account.id, Nanos(amount_nanos), transfer_id, now_ms)
    connection.execute("UPDATE accounts SET balance_nanos = balance_nanos + ? WHERE id = ?", (amount_nanos, account.id))


def require_open(account: Account) -> Account:
    """Return the account. Raises: AccountClosedError."""
    if account.closed_at_ms is not None:
        raise AccountClosedError(refusals.closed(account.name, account.closed_at_ms))
    return account


def account_by_id(connection: sqlite3.Connection, account_id: int) -> Account:
    """Raises: AccountNotFoundError."""
    row = connection.execute(f"{_ACCOUNT} AND id = ?", (account_id,)).fetchone()
    if row is None:
        raise AccountNotFoundError(f"there is no account with the id {account_id}")
    return Account(*row)


def account_by_name(connection: sqlite3.Connection, name: str) -> Account:
    """Raises: AccountNotFoundError."""
    row = connection.execute(f"{_ACCOUNT} AND name = ?", (name,)).fetchone()
    if row is None:
        raise AccountNotFoundError(f"there is no account {name}")
    return Account(*row)


def accounts(connection: sqlite3.Connection) -> list[Account]:
    """Return the customers, by name."""
    return [Account(*row) for row in connection.execute(f"{_ACCOUNT} ORDER BY name")]


def _transfer(
    connection: sqlite3.Connection,
    kind: str,
    debit_id: int,
    credit_id: int,
    amount_nanos: int,
    request_id: str | None,
    note: str,
    now_ms: int,
) -> None:
    connection.execute(_INSERT_TRANSFER, (kind, debit_id, credit_id, amount_nanos, request_id, note, now_ms))


def _settled_before(connection: sqlite3.Connection, request_id: str, settlement: Settlement) -> Settled:
    """Compare with the settlement that stands. Raises: KeyError: no such request."""
    standing = connection.execute("SELECT outcome, charge_nanos FROM requests WHERE id = ?", (request_id,)).fetchone()
    if standing is None:
        raise KeyError(request_id)
    return Settled.BEFORE if standing == (settlement.outcome.value, settlement.charge_nanos) else Settled.OTHERWISE


def _require_ended_task(connection: sqlite3.Connection, request_id: str) -> None:
    """Raises: ValueError where a video's task has not ended, in the same transaction or before."""
    if connection.execute("SELECT 1 FROM video_tasks WHERE id = ? AND ended_at_ms IS NULL", (request_id,)).fetchone():
        raise ValueError(f"the settlement of {request_id} is its task's, which goes on")


def _end_claim(connection: sqlite3.Connection, request_id: str, answer: StoredAnswer | None) -> None:
    if answer is not None:
        idempotency.keep(connection, request_id, answer)
    else:
        idempotency.give_back(connection, request_id)


def request_values(request: NewRequest) -> tuple[object, ...]:
    """Return the columns of a new request after its owner, as `_INSERT_REQUEST` names them.

    Exact types: sqlite3 looks for an adapter for each enum or bool, about 1 µs; and `value` of an enum is a call, `_value_` is not.
    """
    return (
        request.id,
        request.kind._value_,
        request.account_id,
        request.key_id or None,
        request.model,
        request.upstream,
        request.upstream_model,
        int(request.stream),
        request.hold_nanos,
        request.price,
        request.created_at_ms,
        int(request.claim is not None),
        request.key_name or None,
    )


def settlement_values(settlement: Settlement) -> tuple[object, ...]:
    """Return the columns of `_SETTLE_REQUEST` from the outcome to the note."""
    usage = settlement.usage
    counts: tuple[int, ...] = (
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
        settlement.units,
        settlement.shortfall_nanos,
    )
    if max(counts) > COUNT_MAX:
        counts = tuple(min(count, COUNT_MAX) for count in counts)
    if settlement.charge_nanos > NANOS_MAX:
        raise ValueError(f"a charge of {settlement.charge_nanos} is above any hold")
    return (
        settlement.outcome._value_,
        settlement.usage_source._value_,
        settlement.charge_nanos,
        *counts,
        settlement.http_status,
        settlement.upstream_id,
        settlement.first_byte_ms,
        settlement.total_ms,
        settlement.note,
    )
