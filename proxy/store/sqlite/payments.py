"""Payments by their references, each booked once. Functions of a connection, inside a transaction of the writer's."""

import sqlite3

from proxy.core.money import Nanos, format_yuan
from proxy.core.timestamps import iso
from proxy.store.errors import ReferenceTakenError
from proxy.store.values import Reference


def booked_at_ms(connection: sqlite3.Connection, reference: Reference, account_id: int | None, amount_nanos: Nanos) -> int | None:
    """Return when this very payment was booked, in unix milliseconds; None: its reference is free.

    Raises: ReferenceTakenError: another payment has the reference. ``account_id`` None: the account does not exist, so any has.
    """
    row = connection.execute(
        """SELECT payments.account_id, payments.amount_nanos, payments.created_at_ms, accounts.name, transfers.kind
           FROM payments JOIN accounts ON accounts.id = payments.account_id LEFT JOIN transfers ON transfers.id = transfer_id
           WHERE source = ? AND reference = ?""",
        (reference.source, reference.text),
    ).fetchone()
    if row is None:
        return None
    its_account_id, its_amount, created_at_ms, name, kind = row
    if (its_account_id, its_amount) != (account_id, amount_nanos) or kind == "reversal":
        raise taken(reference, its_amount, name, created_at_ms)
    return int(created_at_ms)


def taken(reference: Reference, amount_nanos: int, name: str, booked_at_ms: int) -> ReferenceTakenError:
    """Return the refusal of a payment whose reference is another's."""
    return ReferenceTakenError(
        f"reference {reference.text} stands for another payment already, ¥{format_yuan(amount_nanos)} for account {name} "
        f"on {iso(booked_at_ms)}: nothing was booked"
    )


def record(
    connection: sqlite3.Connection, reference: Reference, account_id: int, amount_nanos: Nanos, transfer_id: int | None, now_ms: int
) -> None:
    """Take a reference that is free, for good. ``transfer_id`` None: an account was opened with nothing."""
    connection.execute(
        "INSERT INTO payments (source, reference, account_id, amount_nanos, transfer_id, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (reference.source, reference.text, account_id, amount_nanos, transfer_id, now_ms),
    )
