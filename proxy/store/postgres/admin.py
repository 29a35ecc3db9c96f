"""Accounts and keys, which an operator changes. Functions of a connection; a change runs in a transaction of the writer's.

Each change of keys, accounts and limits counts a version up and notifies, so that every node's snapshot follows (`changed`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.core.days import Zone
from proxy.core.limits import NO_LIMITS, LimitsChange
from proxy.core.money import Nanos
from proxy.core.shown_text import first_unseen
from proxy.core.timestamps import iso
from proxy.store import limit_row
from proxy.store.errors import AccountExistsError, KeyNotFoundError, StoreRefusedError
from proxy.store.postgres import counting, ledger, limits, payments
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import KEYS_CHANNEL, Connection
from proxy.store.postgres.counting import Counted
from proxy.store.values import Account, Booking, Grant, Key, KeyUse, NewKey, Reference

NAME_CHARACTERS_MAX = 100
OPENING = "opening"
"""Source of an opening's reference that is the account's name."""

_KEY = f"""
    SELECT keys.id, keys.name, keys.prefix, accounts.name, keys.created_at_ms, keys.revoked_at_ms, {limit_row.IDENTITY},
      keys.ends_at_ms, keys.last_used_at_ms, {limit_row.columns()}
    FROM keys JOIN accounts ON accounts.id = keys.account_id
    LEFT JOIN limits ON limits.account_id = keys.account_id AND limits.identity = {limit_row.IDENTITY}"""  # noqa: S608
_ORDER = "ORDER BY keys.created_at_ms, keys.number"
_SECRETS = "(id = $1 OR identity = $1)"
"""SQL of all secrets of an identity."""
_GRANTS = f"""
    SELECT keys.sha256, keys.id, keys.account_id, accounts.name, accounts.discount, {limit_row.IDENTITY}, keys.ends_at_ms, keys.name,
      {limit_row.columns()}, {limit_row.columns("of_account")}
    FROM keys JOIN accounts ON accounts.id = keys.account_id
    LEFT JOIN limits ON limits.account_id = keys.account_id AND limits.identity = {limit_row.IDENTITY}
    LEFT JOIN limits AS of_account ON of_account.account_id = keys.account_id AND of_account.identity = ''
    WHERE keys.revoked_at_ms IS NULL"""  # noqa: S608
_LIMIT_COLUMNS = limit_row.columns().count(",") + 1


async def changed(connection: Connection) -> int:
    """Count up the version of keys, accounts and limits, tell every node, and return it."""
    version = await connection.fetchval("UPDATE versions SET version = version + 1 WHERE what = 'keys' RETURNING version")
    await connection.execute(f"NOTIFY {KEYS_CHANNEL}")
    return int(version)


async def create_account(
    connection: Connection, name: str, credit_nanos: Nanos, now_ms: int, reference: Reference | None = None
) -> Account:
    """Open a customer's account, with money in it where the credit is not 0.

    Raises: AccountExistsError, ReferenceTakenError; StoreRefusedError: no fit name, or a negative credit.
    """
    if not name or len(name) > NAME_CHARACTERS_MAX or first_unseen(name) is not None or name != name.strip():
        raise StoreRefusedError(f"an account's name is 1 to {NAME_CHARACTERS_MAX} printable characters: {name!r}")
    if credit_nanos < 0:
        raise StoreRefusedError("a new account cannot begin in debt")
    account_id = await connection.fetchval(
        "INSERT INTO accounts (kind, name, created_at_ms) VALUES ('customer', $1, $2) ON CONFLICT (kind, name) DO NOTHING RETURNING id",
        *(name, now_ms),
    )
    if account_id is None:
        repeated = None if reference is None else await _opened_before(connection, name, credit_nanos, reference)
        raise AccountExistsError(f"there is an account {name} already", repeated)
    under = reference or Reference(OPENING, name)
    await payments.booked_at_ms(connection, under, None, credit_nanos)
    opened = await ledger.account_by_id(connection, account_id)
    if credit_nanos:
        await ledger.book(connection, opened, credit_nanos, "opening credit", now_ms, under)
    else:
        await payments.record(connection, under, account_id, credit_nanos, None, now_ms)
    await changed(connection)
    return await ledger.account_by_id(connection, account_id)


async def _opened_before(connection: Connection, name: str, credit_nanos: Nanos, reference: Reference) -> Booking | None:
    """Return the opening of an account that exists, if it was this very one. A later credit of the same amount is none."""
    account = await ledger.account_by_name(connection, name)
    at_ms = await payments.booked_at_ms(connection, reference, account.id, credit_nanos)
    return Booking(account, False, at_ms) if at_ms is not None and at_ms == account.created_at_ms else None


async def credit_account(
    connection: Connection, name: str, amount_nanos: Nanos, note: str, now_ms: int, reference: Reference
) -> Booking:
    """Raises: AccountNotFoundError, ReferenceTakenError, InsufficientFundsError, StoreRefusedError."""
    account = await ledger.locked_by_name(connection, name)
    at_ms = await payments.booked_at_ms(connection, reference, account.id, amount_nanos)
    if at_ms is not None:
        return Booking(account, False, at_ms)
    await ledger.book(connection, account, amount_nanos, note, now_ms, reference)
    return Booking(await ledger.account_by_id(connection, account.id), True, now_ms)


async def create_key(connection: Connection, account: str, key: NewKey) -> Key:
    """Raises: AccountNotFoundError, AccountClosedError; StoreRefusedError: id or secret is another key's, or a limit passes nothing."""
    owner = ledger.require_open(await ledger.locked_by_name(connection, account))
    if await _insert(connection, key, owner.id, key.name, None):
        await limits.write(connection, owner.id, key.id, key.limits)
        await changed(connection)
    return await key_by_id(connection, key.id)


async def roll_key(connection: Connection, key_id: str, new: NewKey, overlap_ms: int, now_ms: int) -> Key:
    """Raises: KeyNotFoundError; StoreRefusedError: it has ended, or was rolled already, or the new id or secret is taken."""
    account_id = await _lock_account_of(connection, key_id)
    old = await key_by_id(connection, key_id)
    if not await _insert(connection, new, account_id, old.name, old.identity):
        return await key_by_id(connection, new.id)  # made by this very call before
    _require_living(old, now_ms)
    if old.ends_at_ms is not None:
        newer = await connection.fetchval(f"SELECT id FROM keys WHERE {_SECRETS} AND ends_at_ms IS NULL", old.identity)  # noqa: S608
        raise StoreRefusedError(f"key {key_id} was rolled already, and ends on {iso(old.ends_at_ms)}: roll {newer}, which followed it")
    if overlap_ms:
        await connection.execute(
            f"UPDATE keys SET ends_at_ms = $2 WHERE {_SECRETS} AND ends_at_ms > $2",  # noqa: S608
            *(old.identity, now_ms),
        )
    await connection.execute("UPDATE keys SET ends_at_ms = $1 WHERE id = $2", now_ms + overlap_ms, key_id)
    await changed(connection)
    return await key_by_id(connection, new.id)


async def _lock_account_of(connection: Connection, key_id: str) -> int:
    """Lock the account of a key, and return its id. Raises: KeyNotFoundError."""
    account_id = await connection.fetchval("SELECT account_id FROM keys WHERE id = $1", shown(key_id))
    if account_id is None:
        raise KeyNotFoundError(f"there is no key {key_id}")
    return (await ledger.locked_by_id(connection, account_id)).id


async def _insert(connection: Connection, key: NewKey, account_id: int, name: str, identity: str | None) -> bool:
    """Insert a key; return False where it is there already. Raises: StoreRefusedError: another key has the id or the secret."""
    row = (key.id, account_id, shown(name), key.sha256, identity)
    made = await connection.execute(
        """INSERT INTO keys (id, account_id, name, sha256, identity, prefix, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)
           ON CONFLICT DO NOTHING""",
        *(*row, key.prefix, key.created_at_ms),
    )
    if made != "INSERT 0 0":
        return True
    same = await connection.fetchval(
        "SELECT 1 FROM keys WHERE (id, account_id, name, sha256) = ($1, $2, $3, $4) AND identity IS NOT DISTINCT FROM $5", *row
    )
    if same is None:
        raise StoreRefusedError(f"key {key.id} cannot be stored: another key has its id or its secret")
    return False


async def revoke_key(connection: Connection, key_id: str, now_ms: int) -> Key:
    """Raises: KeyNotFoundError."""
    await _lock_account_of(connection, key_id)
    identity = (await key_by_id(connection, key_id)).identity
    await connection.execute(
        f"UPDATE keys SET revoked_at_ms = $2 WHERE {_SECRETS} AND revoked_at_ms IS NULL",  # noqa: S608
        *(identity, now_ms),
    )
    await changed(connection)
    return await key_by_id(connection, key_id)


async def set_key_limits(connection: Connection, key_id: str, change: LimitsChange, now_ms: int, counted: Counted | None = None) -> Key:
    """Raises: KeyNotFoundError; StoreRefusedError: it is revoked, or nothing could pass such a limit."""
    account_id = await _lock_account_of(connection, key_id)
    key = await key_by_id(connection, key_id)
    if key.revoked_at_ms is not None:
        raise StoreRefusedError(f"key {key_id} was revoked on {iso(key.revoked_at_ms)}, for good")
    await _change_limits(connection, account_id, key.identity, change, now_ms, counted)
    return await key_by_id(connection, key_id)


async def set_account_limits(
    connection: Connection, name: str, change: LimitsChange, now_ms: int, counted: Counted | None = None
) -> Account:
    """Raises: AccountNotFoundError, AccountClosedError; StoreRefusedError: nothing could pass such a limit."""
    account_id = ledger.require_open(await ledger.locked_by_name(connection, name)).id
    await _change_limits(connection, account_id, "", change, now_ms, counted)
    return await account(connection, name)


async def _change_limits(
    connection: Connection, account_id: int, identity: str, change: LimitsChange, now_ms: int, counted: Counted | None
) -> None:
    if isinstance(change.expires_at_ms, int) and change.expires_at_ms <= now_ms:
        raise StoreRefusedError(f"an end must be in the future, not {iso(change.expires_at_ms)}")
    before = await limits.read(connection, account_id, identity)
    after = change.of(before)
    await limits.write(connection, account_id, identity, after)
    if after.spend and not before.spend:
        await counting.write_first(connection, account_id, identity, counted)
    elif before.spend and not after.spend:
        await connection.execute("DELETE FROM spend WHERE account_id = $1 AND identity = $2", account_id, identity)
    await changed(connection)


def _require_living(key: Key, now_ms: int) -> None:
    """Raises: StoreRefusedError."""
    if key.revoked_at_ms is not None:
        raise StoreRefusedError(f"key {key.id} was revoked on {iso(key.revoked_at_ms)}, for good")
    ends = [at_ms for at_ms in (key.ends_at_ms, key.limits.expires_at_ms if key.limits else None) if at_ms is not None]
    if ends and min(ends) <= now_ms:
        raise StoreRefusedError(f"key {key.id} ended on {iso(min(ends))}: only a key that can be used can be rolled")


async def note_use(connection: Connection, used_at_ms: Mapping[str, int]) -> None:
    """Keep when keys were last used, where that is later than what is known."""
    # In the order of ids, as every node does: two that note the same keys wait for one another, and never in a circle.
    await connection.execute(
        """WITH used AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS u (id, at_ms)),
           locked AS (SELECT keys.id, at_ms FROM keys JOIN used ON used.id = keys.id
             WHERE at_ms > coalesce(last_used_at_ms, 0) ORDER BY keys.id FOR NO KEY UPDATE OF keys)
           UPDATE keys SET last_used_at_ms = greatest(last_used_at_ms, locked.at_ms) FROM locked WHERE keys.id = locked.id""",
        list(map(shown, used_at_ms)),
        list(used_at_ms.values()),
    )


async def key_by_id(connection: Connection, key_id: str) -> Key:
    """Raises: KeyNotFoundError."""
    row = await connection.fetchrow(f"{_KEY} WHERE keys.id = $1", shown(key_id))
    if row is None:
        raise KeyNotFoundError(f"there is no key {key_id}")
    return _key(row)


async def keys(connection: Connection, account: str | None) -> list[Key]:
    """Return all keys or those of an account, oldest first. Raises: AccountNotFoundError."""
    if account is None:
        rows = await connection.fetch(f"{_KEY} {_ORDER}")
    else:
        owner = await ledger.account_by_name(connection, account)
        rows = await connection.fetch(f"{_KEY} WHERE keys.account_id = $1 {_ORDER}", owner.id)
    return [_key(row) for row in rows]


async def find_keys(connection: Connection, prefix: str) -> list[Key]:
    """Return the keys whose stored beginning begins so, or is the beginning of this; of a whole secret, the very one."""
    digest = hashlib.sha256(prefix.encode("utf-8", "surrogateescape")).digest()
    exact = await connection.fetchrow(f"{_KEY} WHERE keys.sha256 = $1", digest)
    if exact is not None:
        return [_key(exact)]
    typed = prefix.encode("utf-8", "replace").decode()
    rows = await connection.fetch(
        f"{_KEY} WHERE starts_with(keys.prefix, $1) OR (keys.prefix <> '' AND starts_with($1, keys.prefix)) {_ORDER}", shown(typed)
    )
    return [_key(row) for row in rows]


async def accounts(connection: Connection) -> list[Account]:
    """Return the customers with their limits, by name."""
    rows = await connection.fetch(f"SELECT account_id, {limit_row.columns()} FROM limits WHERE identity = ''")  # noqa: S608
    limited = {account_id: limit_row.of_columns(its) for account_id, *its in rows}
    return [replace(one, limits=limited[one.id]) if one.id in limited else one for one in await ledger.accounts(connection)]


async def account(connection: Connection, name: str) -> Account:
    """Return a customer with its limits. Raises: AccountNotFoundError."""
    found = await ledger.account_by_name(connection, name)
    its = await limits.read(connection, found.id, "")
    return found if its == NO_LIMITS else replace(found, limits=its)


async def key_use(connection: Connection, now_ms: int, account: str | None, identity: str | None, zone: Zone) -> list[KeyUse]:
    """Return what was spent of each money limit in the periods that run. Raises: AccountNotFoundError."""
    account_id = None if account is None else (await ledger.account_by_name(connection, account)).id
    return await limits.use(connection, now_ms, account_id, identity, zone)


async def grants(connection: Connection) -> list[Grant]:
    """Return the keys that are not revoked, with the limits of each and of its account: one statement, so one moment."""
    return [
        Grant(
            sha256=sha256,
            key_id=key_id,
            account_id=account_id,
            account_name=name,
            identity=identity,
            ends_at_ms=ends_at_ms,
            limits=limit_row.of_columns(its[:_LIMIT_COLUMNS]),
            account_limits=limit_row.of_columns(its[_LIMIT_COLUMNS:]),
            key_name=key_name,
            discount=discount,
        )
        for sha256, key_id, account_id, name, discount, identity, ends_at_ms, key_name, *its in await connection.fetch(_GRANTS)
    ]


def _key(row: Sequence[Any]) -> Key:
    key_id, name, prefix, account, created_at_ms, revoked_at_ms, identity, ends_at_ms, last_used_at_ms, *its = row
    known = (created_at_ms, revoked_at_ms, identity, ends_at_ms, last_used_at_ms)
    return Key(key_id, name, prefix, account, *known, limit_row.of_columns(its))
