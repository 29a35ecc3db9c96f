"""Accounts and keys, which an operator changes. Functions of a connection, inside a transaction of the writer's."""

import sqlite3

from proxy.core.money import Nanos
from proxy.core.shown_text import first_unseen
from proxy.store.errors import AccountExistsError, KeyNotFoundError, StoreRefusedError
from proxy.store.sqlite import ledger, payments
from proxy.store.values import Account, Booking, Grant, Key, NewKey, Reference

NAME_CHARACTERS_MAX = 100
OPENING = "opening"
"""Source of an opening's reference that is the account's name."""

_KEY = """
    SELECT keys.id, keys.name, keys.prefix, accounts.name, keys.created_at_ms, keys.revoked_at_ms
    FROM keys JOIN accounts ON accounts.id = keys.account_id"""


def create_account(
    connection: sqlite3.Connection, name: str, credit_nanos: Nanos, now_ms: int, reference: Reference | None = None
) -> Account:
    """Open a customer's account, with money in it where the credit is not 0.

    Raises: AccountExistsError, ReferenceTakenError; StoreRefusedError: no fit name, or a negative credit.
    """
    if not name or len(name) > NAME_CHARACTERS_MAX or first_unseen(name) is not None or name != name.strip():
        raise StoreRefusedError(f"an account's name is 1 to {NAME_CHARACTERS_MAX} printable characters: {name!r}")
    if credit_nanos < 0:
        raise StoreRefusedError("a new account cannot begin in debt")
    try:
        cursor = connection.execute(
            "INSERT INTO accounts (kind, name, created_at_ms) VALUES ('customer', ?, ?) RETURNING id", (name, now_ms)
        )
        (account_id,) = cursor.fetchone()
    except sqlite3.IntegrityError as error:
        repeated = None if reference is None else _opened_before(connection, name, credit_nanos, reference)
        raise AccountExistsError(f"there is an account {name} already", repeated) from error
    under = reference or Reference(OPENING, name)
    payments.booked_at_ms(connection, under, None, credit_nanos)
    if credit_nanos:
        ledger.book(connection, account_id, credit_nanos, "opening credit", now_ms, under)
    else:
        payments.record(connection, under, account_id, credit_nanos, None, now_ms)
    return ledger.account_by_id(connection, account_id)


def _opened_before(connection: sqlite3.Connection, name: str, credit_nanos: Nanos, reference: Reference) -> Booking | None:
    """Return the opening of an account that exists, if it was this very one. A later credit of the same amount is none."""
    account = ledger.account_by_name(connection, name)
    at_ms = payments.booked_at_ms(connection, reference, account.id, credit_nanos)
    return Booking(account, False, at_ms) if at_ms is not None and at_ms == account.created_at_ms else None


def credit_account(
    connection: sqlite3.Connection, name: str, amount_nanos: Nanos, note: str, now_ms: int, reference: Reference
) -> Booking:
    """Raises: AccountNotFoundError, ReferenceTakenError, InsufficientFundsError, StoreRefusedError."""
    account = ledger.account_by_name(connection, name)
    at_ms = payments.booked_at_ms(connection, reference, account.id, amount_nanos)
    if at_ms is not None:
        return Booking(account, False, at_ms)
    ledger.book(connection, account.id, amount_nanos, note, now_ms, reference)
    return Booking(ledger.account_by_id(connection, account.id), True, now_ms)


def create_key(connection: sqlite3.Connection, account: str, key: NewKey) -> Key:
    """Raises: AccountNotFoundError; StoreRefusedError: another key has the id or the secret."""
    owner = ledger.account_by_name(connection, account)
    try:
        connection.execute(
            "INSERT INTO keys (id, account_id, name, prefix, sha256, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
            (key.id, owner.id, key.name, key.prefix, key.sha256, key.created_at_ms),
        )
    except sqlite3.IntegrityError as error:
        same = (key.id, owner.id, key.name, key.sha256)
        if connection.execute("SELECT 1 FROM keys WHERE (id, account_id, name, sha256) = (?, ?, ?, ?)", same).fetchone() is None:
            raise StoreRefusedError(f"key {key.id} cannot be stored: {error}") from error
    return key_by_id(connection, key.id)


def revoke_key(connection: sqlite3.Connection, key_id: str, now_ms: int) -> Key:
    """Raises: KeyNotFoundError."""
    connection.execute("UPDATE keys SET revoked_at_ms = ? WHERE id = ? AND revoked_at_ms IS NULL", (now_ms, key_id))
    return key_by_id(connection, key_id)


def key_by_id(connection: sqlite3.Connection, key_id: str) -> Key:
    """Raises: KeyNotFoundError."""
    row = connection.execute(f"{_KEY} WHERE keys.id = ?", (key_id,)).fetchone()
    if row is None:
        raise KeyNotFoundError(f"there is no key {key_id}")
    return Key(*row)


def keys(connection: sqlite3.Connection, account: str | None) -> list[Key]:
    """Return all keys or those of an account, oldest first. Raises: AccountNotFoundError."""
    if account is None:
        rows = connection.execute(f"{_KEY} ORDER BY keys.created_at_ms, keys.rowid")
    else:
        owner = ledger.account_by_name(connection, account)
        rows = connection.execute(f"{_KEY} WHERE keys.account_id = ? ORDER BY keys.created_at_ms, keys.rowid", (owner.id,))
    return [Key(*row) for row in rows]


def grants(connection: sqlite3.Connection) -> list[Grant]:
    """Return the keys that are not revoked."""
    rows = connection.execute(
        """SELECT keys.sha256, keys.id, keys.account_id, accounts.name
           FROM keys JOIN accounts ON accounts.id = keys.account_id WHERE keys.revoked_at_ms IS NULL"""
    )
    return [Grant(*row) for row in rows]
