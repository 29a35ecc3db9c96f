"""Payments by their references, each booked once. Functions of a connection, in a transaction of the writer's.

The account must be locked before its reference is looked up; two accounts that race for one reference meet at the primary key, and the
second one is tried again.
"""

from proxy.store import refusals
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import ChangedMeanwhileError, Connection
from proxy.store.values import Reference


async def booked_at_ms(connection: Connection, reference: Reference, account_id: int | None, amount_nanos: int) -> int | None:
    """Return when this very payment was booked, in unix milliseconds; None: its reference is free.

    Raises: ReferenceTakenError: another payment has the reference. ``account_id`` None: the account does not exist, so any has.
    """
    row = await connection.fetchrow(
        """SELECT payments.account_id, payments.amount_nanos, payments.created_at_ms, accounts.name, transfers.kind
           FROM payments JOIN accounts ON accounts.id = payments.account_id LEFT JOIN transfers ON transfers.id = transfer_id
           WHERE source = $1 AND reference = $2""",
        *_name(reference),
    )
    if row is None:
        return None
    its_account_id, its_amount, created_at_ms, name, kind = row
    if (its_account_id, its_amount) != (account_id, amount_nanos) or kind == "reversal":
        raise refusals.taken(reference, its_amount, name, created_at_ms)
    return int(created_at_ms)


async def record(
    connection: Connection, reference: Reference, account_id: int, amount_nanos: int, transfer_id: int | None, now_ms: int
) -> None:
    """Take a reference that is free, for good. ``transfer_id`` None: an account was opened with nothing."""
    taken = await connection.execute(
        """INSERT INTO payments (source, reference, account_id, amount_nanos, transfer_id, created_at_ms)
           VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (source, reference) DO NOTHING""",
        *_name(reference),
        *(account_id, amount_nanos, transfer_id, now_ms),
    )
    if taken == "INSERT 0 0":
        raise ChangedMeanwhileError(f"reference {reference.text} was taken meanwhile")


def _name(reference: Reference) -> tuple[str, str]:
    return shown(reference.source), shown(reference.text)
