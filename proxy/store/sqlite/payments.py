"""Payments by their references, each booked once. Functions of a connection, inside a transaction of the writer's."""

import sqlite3
from typing import NamedTuple

from proxy.core.money import Nanos
from proxy.store import refusals
from proxy.store.values import Reference


class Booked(NamedTuple):
    """A payment as it is booked."""

    account_id: int
    account: str
    amount_nanos: int
    at_ms: int
    transfer_id: int | None
    """None: an account was opened with nothing."""
    request_id: str | None
    """Of the request that was refunded by it."""


def booked_at_ms(connection: sqlite3.Connection, reference: Reference, account_id: int | None, amount_nanos: Nanos) -> int | None:
    """Return when this very payment was booked, in unix milliseconds; None: its reference is free.

    Raises: ReferenceTakenError: another payment has the reference. ``account_id`` None: the account does not exist, so any has.
    """
    booked = find(connection, reference)
    if booked is None:
        return None
    if (booked.account_id, booked.amount_nanos) != (account_id, amount_nanos) or booked.request_id is not None:
        raise refusals.taken(reference, booked.amount_nanos, booked.account, booked.at_ms)
    return booked.at_ms


def find(connection: sqlite3.Connection, reference: Reference) -> Booked | None:
    """Return what is booked under a reference; None: it is free."""
    row = connection.execute(
        """SELECT payments.account_id, accounts.name, payments.amount_nanos, payments.created_at_ms, transfer_id, transfers.request_id
           FROM payments JOIN accounts ON accounts.id = payments.account_id LEFT JOIN transfers ON transfers.id = transfer_id
           WHERE source = ? AND reference = ?""",
        (reference.source, reference.text),
    ).fetchone()
    return None if row is None else Booked(*row)


def record(
    connection: sqlite3.Connection, reference: Reference, account_id: int, amount_nanos: Nanos, transfer_id: int | None, now_ms: int
) -> None:
    """Take a reference that is free, for good. ``transfer_id`` None: an account was opened with nothing."""
    connection.execute(
        "INSERT INTO payments (source, reference, account_id, amount_nanos, transfer_id, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (reference.source, reference.text, account_id, amount_nanos, transfer_id, now_ms),
    )
