"""What an operator agrees with one customer: a discount, a charge that is given back, the end of the account.

Functions of a connection, in a transaction of the writer's.
"""

from proxy.core.money import DISCOUNT_WHOLE, Nanos, format_yuan
from proxy.store import refusals
from proxy.store.daily_sums import REFUND
from proxy.store.errors import RequestNotFoundError, StoreRefusedError
from proxy.store.postgres import admin, ledger
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import Connection
from proxy.store.values import Account, Booking, Reference


async def set_discount(connection: Connection, name: str, discount: int) -> Account:
    """Raises: AccountNotFoundError, AccountClosedError; StoreRefusedError: no factor above 0 and up to the whole price."""
    account = ledger.require_open(await ledger.locked_by_name(connection, name))
    if not 1 <= discount <= DISCOUNT_WHOLE:
        raise StoreRefusedError(f"a discount is 1 to {DISCOUNT_WHOLE} ten-thousandths, not {discount}")
    await connection.execute("UPDATE accounts SET discount = $1 WHERE id = $2", discount, account.id)
    await admin.changed(connection)
    return await ledger.account_by_id(connection, account.id)


async def refund_request(
    connection: Connection,
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
    account_id, charge = await _charge_of(connection, request_id)
    owner = await ledger.locked_by_id(connection, account_id)
    if account is not None and account != owner.name:
        raise StoreRefusedError(f"request {request_id} is of account {owner.name}, not of {account}: nothing was booked")
    booked = await _refunded_before(connection, reference, request_id, amount_nanos, charge)
    if booked is not None:
        return Booking(owner, False, booked)
    ledger.require_open(owner)
    refunded = int(
        await connection.fetchval(
            "SELECT coalesce(sum(amount_nanos), 0)::bigint FROM transfers WHERE request_id = $1 AND kind = 'reversal'", request_id
        )
    )
    amount = charge - refunded if amount_nanos is None else int(amount_nanos)
    if amount < 0 or (amount == 0 and amount_nanos is not None):
        raise StoreRefusedError(f"¥{format_yuan(amount)} cannot be given back: name an amount above 0")
    if amount > charge - refunded or amount == 0:
        left = f"¥{format_yuan(charge)}, of which ¥{format_yuan(refunded)} were given back: ¥{format_yuan(charge - refunded)} are left"
        raise StoreRefusedError(f"request {request_id} cost {left}, nothing was booked")
    await ledger.reverse(connection, owner, amount, request_id, note, now_ms, reference)
    await connection.execute(REFUND.format(request="$1", amount_nanos=amount), request_id)
    return Booking(await ledger.account_by_id(connection, account_id), True, now_ms)


async def _charge_of(connection: Connection, request_id: str) -> tuple[int, int]:
    """Return whose request it is, and what it was charged, and keep it from being folded; neither ever changes.

    Raises: RequestNotFoundError; StoreRefusedError: it is not settled, or was not charged.
    """
    request_id = shown(request_id)
    # Until this transaction ends nobody folds the request: its refund goes into the sums with it, or else into those of the day.
    found = await connection.fetchrow("SELECT settled_at_ms FROM requests WHERE id = $1 FOR KEY SHARE", request_id)
    row = await connection.fetchrow(
        "SELECT debit_id, amount_nanos, kind FROM transfers WHERE request_id = $1 AND kind IN ('charge', 'release')", request_id
    )
    if row is not None and row[2] == "charge":
        return row[0], row[1]
    if row is None and found is None:
        raise RequestNotFoundError(f"there is no request {request_id}")
    if row is None and found[0] is None:
        raise StoreRefusedError(f"request {request_id} is not settled yet: there is nothing to give back")
    raise StoreRefusedError(f"request {request_id} cost nothing: there is nothing to give back")


async def _refunded_before(
    connection: Connection, reference: Reference, request_id: str, amount_nanos: Nanos | None, charge: int
) -> int | None:
    """Return when this very refund was booked, in unix milliseconds; None: its reference is free.

    Without an amount it is the same if it gave back all that was left then.

    Raises: ReferenceTakenError: the reference is another payment's.
    """
    row = await connection.fetchrow(
        """SELECT transfers.request_id, transfers.amount_nanos, payments.created_at_ms, payments.amount_nanos, accounts.name,
             (SELECT sum(amount_nanos) FROM transfers AS earlier
              WHERE earlier.request_id = transfers.request_id AND earlier.kind = 'reversal' AND earlier.id <= transfers.id)::bigint
           FROM payments JOIN accounts ON accounts.id = payments.account_id LEFT JOIN transfers ON transfers.id = transfer_id
           WHERE source = $1 AND reference = $2""",
        *(shown(reference.source), shown(reference.text)),
    )
    if row is None:
        return None
    its_request, its_amount, booked_at_ms, paid, name, until_then = row
    if its_request != request_id or (until_then != charge if amount_nanos is None else its_amount != amount_nanos):
        raise refusals.taken(reference, paid, name, booked_at_ms)
    return int(booked_at_ms)


async def close_account(connection: Connection, name: str, now_ms: int) -> Account:
    """Close an account for good: revoke its keys, and erase what its customer wrote and got. A second closing changes nothing.

    What is erased are prompts and links of its videos, and the answers kept under its idempotency keys. What money moved stays.

    Raises: AccountNotFoundError; StoreRefusedError: a request is under way, or holds money.
    """
    account = await ledger.locked_by_name(connection, name)  # each hold takes this lock before it is committed
    if account.closed_at_ms is not None:
        return account
    under_way = await connection.fetchval("SELECT count(*) FROM requests WHERE account_id = $1 AND settled_at_ms IS NULL", account.id)
    if under_way or account.held_nanos:
        raise StoreRefusedError(
            f"account {name} has requests under way ({under_way}), which hold ¥{format_yuan(account.held_nanos)}: "
            "close it once they are settled"
        )
    await connection.execute("UPDATE keys SET revoked_at_ms = $1 WHERE account_id = $2 AND revoked_at_ms IS NULL", now_ms, account.id)
    await connection.execute("UPDATE video_tasks SET prompt = '', video_url = '', thumbnail_url = '' WHERE account_id = $1", account.id)
    await connection.execute("DELETE FROM idempotency WHERE account_id = $1", account.id)
    await connection.execute(
        "UPDATE accounts SET closed_at_ms = $1, closed_after = (SELECT coalesce(max(id), 0) FROM transfers) WHERE id = $2",
        *(now_ms, account.id),
    )
    await admin.changed(connection)
    return await ledger.account_by_id(connection, account.id)
