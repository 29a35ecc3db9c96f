"""Idempotency keys: the request that owns each, and the first answer under it. Functions of a connection.

A request owns a key for 24 hours from its claim, and at least until it is settled: a video may take longer than a day.
"""

import sqlite3
from collections.abc import Collection

from proxy.store.contract import CLAIM_LIFE_MS, FORGET_CLAIMS_MAX
from proxy.store.errors import KeyClaimedError
from proxy.store.values import ClaimedKey, IdempotencyClaim, NewRequest, StoredAnswer

_OWNED = """
    SELECT key, body_sha256, request_id, status, answer
    FROM idempotency JOIN requests ON requests.id = request_id
    WHERE idempotency.account_id = ? AND key = ? AND (idempotency.created_at_ms > ? OR settled_at_ms IS NULL)"""


def claimed_key(connection: sqlite3.Connection, account_id: int, key: str, now_ms: int) -> ClaimedKey | None:
    """Return a key's claim, request and answer, or None if it is free."""
    row = connection.execute(_OWNED, (account_id, key, now_ms - CLAIM_LIFE_MS)).fetchone()
    if row is None:
        return None
    key, body_sha256, request_id, status, answer = row
    return ClaimedKey(IdempotencyClaim(key, body_sha256), request_id, None if status is None else StoredAnswer(status, answer))


def under_way(connection: sqlite3.Connection, places: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return which of these keys, each with its account before it, have no answer yet."""
    look = "SELECT 1 FROM idempotency WHERE account_id = ? AND key = ? AND status IS NULL"
    return {place for place in places if connection.execute(look, place).fetchone() is not None}


def require_free(connection: sqlite3.Connection, request: NewRequest, claim: IdempotencyClaim) -> None:
    """Check that a key is free. Raises: KeyClaimedError."""
    claimed = claimed_key(connection, request.account_id, claim.key, request.created_at_ms)
    if claimed is not None:
        raise KeyClaimedError(claimed)


def take(connection: sqlite3.Connection, request: NewRequest, claim: IdempotencyClaim) -> None:
    """Give a free key to a recorded request; an expired claim is replaced."""
    connection.execute(
        "INSERT OR REPLACE INTO idempotency (account_id, key, body_sha256, request_id, created_at_ms) VALUES (?, ?, ?, ?, ?)",
        (request.account_id, claim.key, claim.body_sha256, request.id, request.created_at_ms),
    )


def keep(connection: sqlite3.Connection, request_id: str, answer: StoredAnswer) -> None:
    """Store the answer under the request's key, if it has one without an answer: the first answer stands."""
    connection.execute(
        "UPDATE idempotency SET status = ?, answer = ? WHERE request_id = ? AND status IS NULL",
        (answer.status, answer.body, request_id),
    )


def give_back(connection: sqlite3.Connection, request_id: str) -> None:
    """Free the request's key, unless an answer is stored under it."""
    connection.execute("DELETE FROM idempotency WHERE request_id = ? AND status IS NULL", (request_id,))


def forget(connection: sqlite3.Connection, now_ms: int) -> int:
    """Delete the oldest expired claims, at most `FORGET_CLAIMS_MAX`, and return how many."""
    return connection.execute(
        """DELETE FROM idempotency WHERE rowid IN (
             SELECT idempotency.rowid FROM idempotency JOIN requests ON requests.id = request_id
             WHERE idempotency.created_at_ms <= ? AND settled_at_ms IS NOT NULL
             ORDER BY idempotency.created_at_ms LIMIT ?)""",
        (now_ms - CLAIM_LIFE_MS, FORGET_CLAIMS_MAX),
    ).rowcount
