"""What an operator agrees with one customer: a discount, a charge that is given back, the end of the account.

Functions of a connection, inside a transaction of the writer's; and what `verify` checks of them.
"""

import sqlite3

from proxy.core.money import DISCOUNT_WHOLE, Nanos, format_yuan
from proxy.store.errors import RequestNotFoundError, StoreRefusedError
from proxy.store.sqlite import ledger, payments
from proxy.store.sqlite.booked import HOLD_DAY
from proxy.store.sqlite.invariant import Invariant
from proxy.store.values import Account, Booking, Reference

_COUNT_FOLDED = f"""
    INSERT INTO refund_days (account_id, day, refunded_nanos)
    SELECT debit_id, {HOLD_DAY}, ?2 FROM transfers AS hold
    WHERE request_id = ?1 AND kind = 'hold' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = ?1)
    ON CONFLICT DO UPDATE SET refunded_nanos = refunded_nanos + excluded.refunded_nanos"""  # noqa: S608
"""A folded request's refund goes into its day's sums, where an open one's goes with the request when it is folded."""


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
    connection.execute(_COUNT_FOLDED, (request_id, amount))
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
        raise payments.taken(reference, booked)
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


INVARIANTS = (
    Invariant(
        name="a discount is in the charge as it is in the price",
        figures="SELECT count(*), coalesce(sum(charge_nanos), 0) FROM discounted WHERE settled_at_ms IS NOT NULL",
        say="{} requests with a discount, ¥{} charged",
        yuan=(1,),
        # Of what costs more than its hold, the hold is charged. What a video's discount came to, the check of its task says.
        offenders="""SELECT 'request ' || id || ': ' || charge_nanos || ' and ' || shortfall_nanos || ' not charged, it is '
                       || list_nanos || ' times ' || discount || ' / 10000'
                     FROM (SELECT discounted.*, CASE kind WHEN 'image' THEN units * json_extract(price, '$.image') ELSE (
                         SELECT (prompt_tokens - cached_tokens) * json_extract(value, '$.input')
                           + cached_tokens * json_extract(value, '$.cached_input') + completion_tokens * json_extract(value, '$.output')
                         FROM json_each(price, '$.tiers')
                         WHERE coalesce(json_extract(value, '$.up_to'), prompt_tokens) >= prompt_tokens ORDER BY key LIMIT 1) END
                         AS list_nanos
                       FROM discounted WHERE kind <> 'video' AND settled_at_ms IS NOT NULL)
                     WHERE CASE WHEN shortfall_nanos > 0 THEN charge_nanos <> hold_nanos
                       ELSE charge_nanos <> list_nanos / 10000 * discount + (list_nanos % 10000 * discount + 9999) / 10000 END
                     UNION ALL
                     SELECT 'task ' || video_tasks.id || ': discount ' || video_tasks.discount || ', its request''s price says '
                       || coalesce(discounted.discount, 'none')
                     FROM video_tasks LEFT JOIN discounted USING (id)
                     WHERE video_tasks.discount <> coalesce(discounted.discount, 10000)
                     UNION ALL
                     SELECT 'account ' || name || ': discount ' || discount FROM accounts WHERE discount NOT BETWEEN 1 AND 10000""",
    ),
    Invariant(
        name="no refund of a request is above its charge",
        figures="SELECT count(*), coalesce(sum(amount_nanos), 0) FROM transfers WHERE kind = 'reversal'",
        say="{} refunds of requests, ¥{}",
        yuan=(1,),
        offenders="""SELECT 'request ' || refunds.request_id || ': ' || given || ' given back to account ' || account_id || ', charged '
                       || coalesce(charge.amount_nanos || ' to account ' || charge.debit_id, 'nothing')
                     FROM (SELECT request_id, credit_id AS account_id, sum(amount_nanos) AS given FROM transfers
                       WHERE kind = 'reversal' GROUP BY request_id, credit_id) AS refunds
                     LEFT JOIN transfers AS charge ON charge.request_id = refunds.request_id AND charge.kind IN ('charge', 'release')
                     WHERE charge.kind IS NOT 'charge' OR given > charge.amount_nanos OR account_id <> charge.debit_id""",
    ),
    Invariant(
        name="refunds of folded requests are in the daily sums",
        figures="""SELECT coalesce(sum(amount), 0), (SELECT coalesce(sum(refunded_nanos), 0) FROM refund_days) FROM folded_refunds""",
        say="¥{} given back of folded requests, ¥{} of it since they were folded",
        yuan=(0, 1),
        offenders="""SELECT 'account ' || account_id || ', ' || date(day * 86400, 'unixepoch') || ': the daily sums say '
                       || sum(refunded) || ' given back, transfers without a request ' || sum(its_refunded)
                     FROM (SELECT account_id, day, refunded_nanos AS refunded, 0 AS its_refunded FROM request_days
                       UNION ALL SELECT account_id, day, refunded_nanos, 0 FROM refund_days
                       UNION ALL SELECT account_id, day, 0, amount FROM folded_refunds)
                     GROUP BY account_id, day HAVING sum(refunded) <> sum(its_refunded)""",
    ),
    Invariant(
        name="nothing happens to a closed account",
        figures="SELECT count(*), coalesce(sum(balance_nanos), 0) FROM accounts WHERE closed_at_ms IS NOT NULL",
        say="{} accounts are closed, with ¥{}",
        yuan=(1,),
        offenders="""SELECT 'account ' || name || ': closed, and has ' || held_nanos || ' held'
                     FROM accounts WHERE closed_at_ms IS NOT NULL AND held_nanos <> 0
                     UNION ALL
                     SELECT 'account ' || name || ': closed, and request ' || requests.id || ' is under way'
                     FROM requests JOIN accounts ON accounts.id = account_id WHERE settled_at_ms IS NULL AND closed_at_ms IS NOT NULL
                     UNION ALL
                     SELECT 'account ' || accounts.name || ': closed, and key ' || keys.id || ' lives'
                     FROM keys JOIN accounts ON accounts.id = account_id WHERE closed_at_ms IS NOT NULL AND revoked_at_ms IS NULL
                     UNION ALL
                     SELECT 'account ' || name || ': closed, and task ' || video_tasks.id || ' has its prompt'
                     FROM video_tasks JOIN accounts ON accounts.id = account_id WHERE closed_at_ms IS NOT NULL AND prompt <> ''
                     UNION ALL
                     SELECT 'account ' || name || ': closed, and ' || transfers.kind || ' ' || transfers.id || ' came later'
                     FROM transfers CROSS JOIN accounts ON accounts.id = iif(debit_id > 2, debit_id, credit_id)
                     WHERE transfers.id > closed_after""",
    ),
)
