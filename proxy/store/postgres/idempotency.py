"""Idempotency keys: the request that owns each, and the first answer under it. A key is claimed in ``book``, with its request's hold.

A request owns a key for 24 hours from its claim, and at least until it is settled: a video may take longer than a day.
"""

from collections.abc import Collection

from proxy.store.contract import CLAIM_LIFE_MS, FORGET_CLAIMS_MAX
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import Connection
from proxy.store.values import ClaimedKey, IdempotencyClaim, StoredAnswer

_FORGET = """
    DELETE FROM idempotency WHERE request_id = ANY (ARRAY(
      SELECT old.request_id FROM idempotency AS old JOIN requests ON requests.id = old.request_id
      WHERE old.created_at_ms <= $1 AND settled_at_ms IS NOT NULL
      ORDER BY old.created_at_ms LIMIT $2 FOR UPDATE OF old SKIP LOCKED))"""


async def claimed_key(connection: Connection, account_id: int, key: str, now_ms: int) -> ClaimedKey | None:
    """Return a key's claim, request and answer, or None if it is free."""
    if "\0" in key:
        return None  # `batch.hold_row` lets nobody claim it
    row = await connection.fetchrow(
        """SELECT key, body_sha256, request_id, status, answer FROM idempotency JOIN requests ON requests.id = request_id
           WHERE idempotency.account_id = $1 AND key = $2 AND (idempotency.created_at_ms > $3 OR settled_at_ms IS NULL)""",
        *(account_id, key, now_ms - CLAIM_LIFE_MS),
    )
    if row is None:
        return None
    key, body_sha256, request_id, status, answer = row
    return ClaimedKey(IdempotencyClaim(key, body_sha256), request_id, None if status is None else StoredAnswer(status, answer))


async def under_way(connection: Connection, places: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return which of these keys, each with its account before it, have no answer yet."""
    rows = await connection.fetch(
        """SELECT account_id, key FROM idempotency JOIN unnest($1::bigint[], $2::text[]) AS asked (account, name)
           ON account_id = asked.account AND key = asked.name WHERE status IS NULL""",
        *([account_id for account_id, _ in places], [shown(key) for _, key in places]),
    )
    return {(account_id, key) for account_id, key in rows}


async def keep(connection: Connection, request_id: str, answer: StoredAnswer) -> None:
    """Store the answer under the request's key, if it has one without an answer: the first answer stands."""
    await connection.execute(
        "UPDATE idempotency SET status = $2, answer = $3 WHERE request_id = $1 AND status IS NULL",
        *(request_id, answer.status, answer.body),
    )


async def forget(connection: Connection, now_ms: int) -> int:
    """Delete the oldest expired claims, at most `FORGET_CLAIMS_MAX`, and return how many. What another node is taking is left to it."""
    told = await connection.execute(_FORGET, now_ms - CLAIM_LIFE_MS, FORGET_CLAIMS_MAX)
    return int(told.removeprefix("DELETE "))
