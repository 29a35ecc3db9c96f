"""What an operator agrees with one customer: a discount, a charge that is given back, the end of the account.

Functions of a connection, inside a transaction of the writer's.
"""

import sqlite3

from proxy.core.money import DISCOUNT_WHOLE, Nanos, format_yuan
from proxy.store import refusals
from proxy.store.daily_sums import REFUND
from proxy.store.errors import RequestNotFoundError, StoreRefusedError
from proxy.store.sqlite import ledger, payments
from proxy.store.values import Account, Booking, Reference


def set_discount(connection: sqlite3.Connection, name: str, discount: int) -> Account:
    """Raises: AccountNotFoundError, AccountClosedError; StoreRefusedError: no factor above 0 and up to the whole price."""
    account = ledger.require_open(ledger.account_by_name(connection, name))
    if not 1 <= discount <= DISCOUNT_WHOLE:
        raise StoreRefusedError(f"a discount is 1 to {DISCOUNT_WHOLE} ten-thousandths, not {discount}")
    connection.execute("UPDATE accounts SET discount = ? WHERE id = ?", (discount, account.id))
    return ledger.account_by_id(connection, account.id)


def refund_request(
    connection: sqlite3.Connection,
    request_id: str,
    amount_nanos: Nanos | None,
    note: str,
    now_ms: int,
    reference: Reference,
    account: str | None = None,
) -> Booking:
    """Give back a part of a request's charge, or (None) what is left of it, folded or not, once for each reference.

    Raises: RequestNotFoundError, ReferenceTakenError, AccountClosedError; StoreRefusedError: not charged so much, or another account's.
    """
    account_id, charge, refunded = _charge_of(connection, request_id)
    owner = ledger.account_by_id(connection, account_id)
    if account is not None and account != owner.name:
        raise StoreRefusedError(f"request {request_id} is of account {owner.name}, not of {account}: nothing was booked")
    booked = _refunded_before(connection, reference, request_id, amount_nanos, charge)
    if booked is not None:
        return Booking(owner, False, booked)
    ledger.require_open(owner)
    amount = charge - refunded if amount_nanos is None else amount_nanos
    if amount < 0 or (amount == 0 and amount_nanos is not None):
        raise StoreRefusedError(f"¥{format_yuan(amount)} cannot be given back: name an amount above 0")
    if amount > charge - refunded or amount == 0:
        left = f"¥{format_yuan(charge)}, of which ¥{format_yuan(refunded)} were given back: ¥{format_yuan(charge - refunded)} are left"
        raise StoreRefusedError(f"request {request_id} cost {left}, nothing was booked")
    ledger.reverse(connection, owner, amount, request_id, note, now_ms, reference)
    connection.execute(REFUND.format(request="?", amount_nanos=amount), (request_id,))
    return Booking(ledger.account_by_id(connection, account_id), True, now_ms)


def _charge_of(connection: sqlite3.Connection, request_id: str) -> tuple[int, int, int]:
    """Return whose request it is, what it was charged, and what of that has been given back.

    Raises: RequestNotFoundError; StoreRefusedError: it is not settled, or was not charged.
    """
    row = connection.execute(
        "SELECT debit_id, amount_nanos, kind FROM transfers WHERE request_id = ? AND kind IN ('charge', 'release')", (request_id,)
    ).fetchone()
    if row is not None and row[2] == "charge":
        (refunded,) = connection.execute(
            "SELECT coalesce(sum(amount_nanos), 0) FROM transfers WHERE request_id = ? AND kind = 'reversal'", (request_id,)
        ).fetchone()
        return row[0], row[1], refunded
    found = connection.execute("SELECT settled_at_ms FROM requests WHERE id = ?", (request_id,)).fetchone()
    if row is None and found is None:
        raise RequestNotFoundError(f"there is no request {request_id}")
    if row is None and found == (None,):
        raise StoreRefusedError(f"request {request_id} is not settled yet: there is nothing to give back")
    raise StoreRefusedError(f"request {request_id} cost nothing: there is nothing to give back")


def _refunded_before(
    connection: sqlite3.Connection, reference: Reference, request_id: str, amount_nanos: Nanos | None, charge: int
) -> int | None:
    """Return when this very refund was booked, in unix milliseconds; None: its reference is free.

    Without an amount it is the same if it gave back all that was left then.

    Raises: ReferenceTakenError: the reference is another payment's.
    """
    booked = payments.find(connection, reference)
    if booked is None:
        return None
    (until_then,) = connection.execute(
        "SELECT sum(amount_nanos) FROM transfers WHERE request_id = ? AND kind = 'reversal' AND id <= ?",
        (booked.request_id, booked.transfer_id),
    ).fetchone()
    if booked.request_id != request_id or (until_then != charge if amount_nanos is None else booked.amount_nanos != amount_nanos):
        raise refusals.taken(reference, booked.amount_nanos, booked.account, booked.at_ms)
    return booked.at_ms


def close_account(connection: sqlite3.Connection, name: str, now_ms: int) -> Account:
    """Close an account for good: revoke its keys, and erase what its customer wrote and got. A second closing changes nothing.

    What is erased are prompts and links of its videos, and the answers kept under its idempotency keys. What money moved stays.

    Raises: AccountNotFoundError; StoreRefusedError: a request is under way, or holds money.
    """
    account = ledger.account_by_name(connection, name)
    if account.closed_at_ms is not None:
        return account
    (under_way,) = connection.execute(
        "SELECT count(*) FROM requests INDEXED BY requests_open WHERE settled_at_ms IS NULL AND account_id = ?", (account.id,)
    ).fetchone()
    if under_way or account.held_nanos:
        raise StoreRefusedError(
            f"account {name} has requests under way ({under_way}), which hold ¥{format_yuan(account.held_nanos)}: "
            "close it once they are settled"
        )
    connection.execute("UPDATE keys SET revoked_at_ms = ? WHERE account_id = ? AND revoked_at_ms IS NULL", (now_ms, account.id))
    _erase(connection, account.id)
    connection.execute(
        "UPDATE accounts SET closed_at_ms = ?, closed_after = (SELECT coalesce(max(id), 0) FROM transfers) WHERE id = ?",
        (now_ms, account.id),
    )
    return ledger.account_by_id(connection, account.id)


def _erase(connection: sqlite3.Connection, account_id: int) -> None:
    """Erase what a customer wrote and got, also from the pages' free bytes, where SQLite otherwise leaves it."""
    (before,) = connection.execute("PRAGMA secure_delete").fetchone()
    connection.execute("PRAGMA secure_delete = ON").fetchone()
    try:
        connection.execute("UPDATE video_tasks SET prompt = '', video_url = '', thumbnail_url = '' WHERE account_id = ?", (account_id,))
        connection.execute("DELETE FROM idempotency WHERE account_id = ?", (account_id,))
    finally:
        connection.execute(f"PRAGMA secure_delete = {before}").fetchone()
