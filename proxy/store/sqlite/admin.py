"""Accounts and keys, which an operator changes. Functions of a connection, inside a transaction of the writer's."""

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from proxy.core.days import Zone
from proxy.core.limits import NO_LIMITS, NO_SPEND_LIMITS, LimitsChange
from proxy.core.money import Nanos
from proxy.core.shown_text import first_unseen
from proxy.core.timestamps import iso
from proxy.store import limit_row
from proxy.store.errors import AccountExistsError, KeyNotFoundError, StoreRefusedError
from proxy.store.sqlite import counting, ledger, limits, payments
from proxy.store.sqlite.counting import Counted
from proxy.store.sqlite.spending import Spending
from proxy.store.values import Account, Booking, Grant, Key, KeyUse, NewKey, Reference

NAME_CHARACTERS_MAX = 100
OPENING = "opening"
"""Source of an opening's reference that is the account's name."""

_KEY = f"""
    SELECT keys.id, keys.name, keys.prefix, accounts.name, keys.created_at_ms, keys.revoked_at_ms, {limit_row.IDENTITY},
      keys.ends_at_ms, keys.last_used_at_ms, {limit_row.columns()}
    FROM keys JOIN accounts ON accounts.id = keys.account_id
    LEFT JOIN limits ON limits.account_id = keys.account_id AND limits.identity = {limit_row.IDENTITY}"""  # noqa: S608
_SECRETS = "(id = ?1 OR identity = ?1)"
"""SQL of all secrets of an identity."""


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


def create_key(connection: sqlite3.Connection, account: str, key: NewKey, spending: Spending) -> Key:
    """Raises: AccountNotFoundError, AccountClosedError; StoreRefusedError: id or secret is another key's, or a limit passes nothing."""
    owner = ledger.require_open(ledger.account_by_name(connection, account))
    if _insert(connection, key, owner.id, key.name, None):
        limits.write(connection, owner.id, key.id, key.limits)
        if key.limits.spend:
            nothing = counting.count_new(connection, owner.id, key.id)
            spending.changed(owner.id, key.id, NO_SPEND_LIMITS, key.limits.spend, nothing)
    return key_by_id(connection, key.id)


def roll_key(connection: sqlite3.Connection, key_id: str, new: NewKey, overlap_ms: int, now_ms: int, spending: Spending) -> Key:
    """Raises: KeyNotFoundError; StoreRefusedError: it has ended, or was rolled already, or the new id or secret is taken."""
    old = key_by_id(connection, key_id)
    (account_id,) = connection.execute("SELECT account_id FROM keys WHERE id = ?", (key_id,)).fetchone()
    if not _insert(connection, new, account_id, old.name, old.identity):
        return key_by_id(connection, new.id)  # made by this very call before
    _require_living(old, now_ms)
    if old.ends_at_ms is not None:
        followed = connection.execute(f"SELECT id FROM keys WHERE {_SECRETS} AND ends_at_ms IS NULL", (old.identity,))  # noqa: S608
        (newer,) = followed.fetchone()
        raise StoreRefusedError(f"key {key_id} was rolled already, and ends on {iso(old.ends_at_ms)}: roll {newer}, which followed it")
    if overlap_ms:
        connection.execute(
            f"UPDATE keys SET ends_at_ms = ?2 WHERE {_SECRETS} AND ends_at_ms > ?2",  # noqa: S608
            (old.identity, now_ms),
        )
    connection.execute("UPDATE keys SET ends_at_ms = ? WHERE id = ?", (now_ms + overlap_ms, key_id))
    spending.joined(account_id, old.identity)
    return key_by_id(connection, new.id)


def _insert(connection: sqlite3.Connection, key: NewKey, account_id: int, name: str, identity: str | None) -> bool:
    """Insert a key; return False where it is there already. Raises: StoreRefusedError: another key has the id or the secret."""
    try:
        connection.execute(
            "INSERT INTO keys (id, account_id, name, prefix, sha256, created_at_ms, identity) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key.id, account_id, name, key.prefix, key.sha256, key.created_at_ms, identity),
        )
    except sqlite3.IntegrityError as error:
        same = (key.id, account_id, name, key.sha256, identity)
        found = "SELECT 1 FROM keys WHERE (id, account_id, name, sha256) = (?, ?, ?, ?) AND identity IS ?"
        if connection.execute(found, same).fetchone() is None:
            raise StoreRefusedError(f"key {key.id} cannot be stored: {error}") from error
        return False
    return True


def revoke_key(connection: sqlite3.Connection, key_id: str, now_ms: int) -> Key:
    """Raises: KeyNotFoundError."""
    identity = key_by_id(connection, key_id).identity
    connection.execute(
        f"UPDATE keys SET revoked_at_ms = ?2 WHERE {_SECRETS} AND revoked_at_ms IS NULL",  # noqa: S608
        (identity, now_ms),
    )
    return key_by_id(connection, key_id)


def set_key_limits(
    connection: sqlite3.Connection,
    key_id: str,
    change: LimitsChange,
    now_ms: int,
    spending: Spending,
    counted: Counted | None = None,
) -> Key:
    """Raises: KeyNotFoundError; StoreRefusedError: it is revoked, or nothing could pass such a limit."""
    key = key_by_id(connection, key_id)
    if key.revoked_at_ms is not None:
        raise StoreRefusedError(f"key {key_id} was revoked on {iso(key.revoked_at_ms)}, for good")
    (account_id,) = connection.execute("SELECT account_id FROM keys WHERE id = ?", (key_id,)).fetchone()
    _change_limits(connection, account_id, key.identity, change, now_ms, spending, counted)
    return key_by_id(connection, key_id)


def set_account_limits(
    connection: sqlite3.Connection,
    name: str,
    change: LimitsChange,
    now_ms: int,
    spending: Spending,
    counted: Counted | None = None,
) -> Account:
    """Raises: AccountNotFoundError, AccountClosedError; StoreRefusedError: nothing could pass such a limit."""
    account_id = ledger.require_open(ledger.account_by_name(connection, name)).id
    _change_limits(connection, account_id, "", change, now_ms, spending, counted)
    return account(connection, name)


def _change_limits(
    connection: sqlite3.Connection,
    account_id: int,
    identity: str,
    change: LimitsChange,
    now_ms: int,
    spending: Spending,
    counted: Counted | None,
) -> None:
    if isinstance(change.expires_at_ms, int) and change.expires_at_ms <= now_ms:
        raise StoreRefusedError(f"an end must be in the future, not {iso(change.expires_at_ms)}")
    before = limits.read(connection, account_id, identity)
    after = change.of(before)
    limits.write(connection, account_id, identity, after)
    if before.spend != after.spend:
        spending.changed(account_id, identity, before.spend, after.spend, counted)


def _require_living(key: Key, now_ms: int) -> None:
    """Raises: StoreRefusedError."""
    if key.revoked_at_ms is not None:
        raise StoreRefusedError(f"key {key.id} was revoked on {iso(key.revoked_at_ms)}, for good")
    ends = [at_ms for at_ms in (key.ends_at_ms, key.limits.expires_at_ms if key.limits else None) if at_ms is not None]
    if ends and min(ends) <= now_ms:
        raise StoreRefusedError(f"key {key.id} ended on {iso(min(ends))}: only a key that can be used can be rolled")


def note_use(connection: sqlite3.Connection, used_at_ms: Mapping[str, int]) -> None:
    """Keep when keys were last used, where that is later than what is known."""
    connection.execute(
        """UPDATE keys SET last_used_at_ms = used.value FROM json_each(?) AS used
           WHERE keys.id = used.key AND used.value > coalesce(last_used_at_ms, 0)""",
        (orjson.dumps(dict(used_at_ms)).decode(),),
    )


def key_by_id(connection: sqlite3.Connection, key_id: str) -> Key:
    """Raises: KeyNotFoundError."""
    row = connection.execute(f"{_KEY} WHERE keys.id = ?", (key_id,)).fetchone()
    if row is None:
        raise KeyNotFoundError(f"there is no key {key_id}")
    return _key(row)


def keys(connection: sqlite3.Connection, account: str | None) -> list[Key]:
    """Return all keys or those of an account, oldest first. Raises: AccountNotFoundError."""
    if account is None:
        rows = connection.execute(f"{_KEY} ORDER BY keys.created_at_ms, keys.rowid")
    else:
        owner = ledger.account_by_name(connection, account)
        rows = connection.execute(f"{_KEY} WHERE keys.account_id = ? ORDER BY keys.created_at_ms, keys.rowid", (owner.id,))
    return [_key(row) for row in rows]


def find_keys(connection: sqlite3.Connection, prefix: str) -> list[Key]:
    """Return the keys whose stored beginning begins so, or is the beginning of this; of a whole secret, the very one."""
    digest = hashlib.sha256(prefix.encode("utf-8", "surrogateescape")).digest()
    exact = connection.execute(f"{_KEY} WHERE keys.sha256 = ?", (digest,)).fetchone()
    if exact is not None:
        return [_key(exact)]
    rows = connection.execute(
        f"""{_KEY} WHERE substr(keys.prefix, 1, length(?1)) = ?1
              OR (keys.prefix <> '' AND substr(?1, 1, length(keys.prefix)) = keys.prefix)
            ORDER BY keys.created_at_ms, keys.rowid""",
        (prefix,),
    )
    return [_key(row) for row in rows]


def accounts(connection: sqlite3.Connection) -> list[Account]:
    """Return the customers with their limits, by name."""
    rows = connection.execute(f"SELECT account_id, {limit_row.columns()} FROM limits WHERE identity = ''")  # noqa: S608
    limited = {account_id: limit_row.of_columns(row) for account_id, *row in rows}
    return [replace(one, limits=limited[one.id]) if one.id in limited else one for one in ledger.accounts(connection)]


def account(connection: sqlite3.Connection, name: str) -> Account:
    """Return a customer with its limits. Raises: AccountNotFoundError."""
    found = ledger.account_by_name(connection, name)
    its = limits.read(connection, found.id, "")
    return found if its == NO_LIMITS else replace(found, limits=its)


def key_use(connection: sqlite3.Connection, now_ms: int, account: str | None, identity: str | None, zone: Zone) -> list[KeyUse]:
    """Return what was spent of each money limit in the periods that run. Raises: AccountNotFoundError."""
    account_id = None if account is None else ledger.account_by_name(connection, account).id
    return limits.use(connection, now_ms, account_id, identity, zone)


def grants(connection: sqlite3.Connection) -> list[Grant]:
    """Return the keys that are not revoked, with the limits of each and of its account."""
    whole = {one.id: one.limits for one in accounts(connection)}
    rows = connection.execute(
        f"""SELECT keys.sha256, keys.id, keys.account_id, accounts.name, accounts.discount, {limit_row.IDENTITY},
              keys.ends_at_ms, keys.name, {limit_row.columns()}
            FROM keys JOIN accounts ON accounts.id = keys.account_id
            LEFT JOIN limits ON limits.account_id = keys.account_id AND limits.identity = {limit_row.IDENTITY}
            WHERE keys.revoked_at_ms IS NULL"""  # noqa: S608
    )
    return [
        Grant(
            sha256=sha256,
            key_id=key_id,
            account_id=account_id,
            account_name=name,
            identity=identity,
            ends_at_ms=ends_at_ms,
            limits=limit_row.of_columns(its),
            account_limits=whole[account_id],
            key_name=key_name,
            discount=discount,
        )
        for sha256, key_id, account_id, name, discount, identity, ends_at_ms, key_name, *its in rows
    ]


def _key(row: Sequence[Any]) -> Key:
    key_id, name, prefix, account, created_at_ms, revoked_at_ms, identity, ends_at_ms, last_used_at_ms, *its = row
    known = (created_at_ms, revoked_at_ms, identity, ends_at_ms, last_used_at_ms)
    return Key(key_id, name, prefix, account, *known, limit_row.of_columns(its))
