"""Reads of open holds, receipts and usage. Functions of a read-only connection."""

import sqlite3

import msgspec

from proxy.core.catalog import Kind
from proxy.core.days import Zone
from proxy.core.money import Nanos
from proxy.core.settlement import Attempt, Outcome, Settlement, TokenUsage, UsageSource
from proxy.core.video.record import TaskState
from proxy.store.sqlite import ledger
from proxy.store.values import Census, IdempotencyClaim, NewRequest, OpenRequest, OpenTasks, Receipt, UsageQuery, UsageRow

_OF_DAY = "date(day * 86400, 'unixepoch')"
_GROUPS = {
    "model": ("requests.model", "request_days.model", "''"),
    "key": ("coalesce(requests.key_id, '')", "request_days.key_id", "''"),
    "day": ("date((requests.created_at_ms + :offset) / 1000, 'unixepoch')", _OF_DAY, _OF_DAY),
}
"""SQL expressions of each group: for a request, for a daily sum, and for a day's refunds of requests that were folded before."""
_SUMMED = ("prompt_tokens", "cached_tokens", "completion_tokens", "units", "charge_nanos", "shortfall_nanos")
_TIME_MAX_MS = 2**62
_ATTEMPTS = msgspec.json.Decoder(tuple[Attempt, ...])

_OPEN = """
    SELECT id, kind, account_id, hold_nanos, created_at_ms, owner, coalesce(key_id, '') FROM requests
    WHERE settled_at_ms IS NULL {whose} ORDER BY created_at_ms, rowid"""
_RECEIPT = """
    SELECT requests.id, requests.kind, requests.account_id, coalesce(key_id, ''), model, upstream, upstream_model, stream, hold_nanos,
      price, requests.created_at_ms, idempotency.key, body_sha256, accounts.name, settled_at_ms,
      outcome, usage_source, charge_nanos, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, units, shortfall_nanos,
      http_status, upstream_id, first_byte_ms, total_ms, note, coalesce(key_name, ''), attempts,
      (SELECT coalesce(sum(amount_nanos), 0) FROM transfers WHERE request_id = requests.id AND transfers.kind = 'reversal')
    FROM requests JOIN accounts ON accounts.id = requests.account_id LEFT JOIN idempotency ON request_id = requests.id
    WHERE requests.id = ?"""


def ping(connection: sqlite3.Connection) -> None:
    """Read one row of the file itself, bypassing the program's caches."""
    connection.execute("SELECT 1 FROM accounts WHERE id = 1").fetchone()


def open_requests(connection: sqlite3.Connection) -> list[OpenRequest]:
    """Return the requests that are not settled, oldest first."""
    return [OpenRequest(request_id, Kind(kind), *rest) for request_id, kind, *rest in connection.execute(_OPEN.format(whose=""))]


def orphaned_requests(connection: sqlite3.Connection, living: str) -> list[OpenRequest]:
    """Return the open requests that any other owner than ``living`` placed, oldest first."""
    rows = connection.execute(_OPEN.format(whose="AND owner IS NOT ?"), (living,))
    return [OpenRequest(request_id, Kind(kind), *rest) for request_id, kind, *rest in rows]


def census(connection: sqlite3.Connection) -> Census:
    """Return counts of open holds and tasks. Both tables have an index of the open rows."""
    tasks = connection.execute(
        "SELECT upstream, state, count(*), min(due_at_ms) FROM video_tasks WHERE due_at_ms IS NOT NULL GROUP BY upstream, state"
    ).fetchall()
    held, holds, oldest = connection.execute(
        """
        SELECT coalesce(sum(hold_nanos), 0), count(*), min(CASE WHEN kind <> 'video' THEN created_at_ms END)
        FROM requests WHERE settled_at_ms IS NULL"""
    ).fetchone()
    return Census(Nanos(held), holds, oldest, [OpenTasks(upstream, TaskState(state), *rest) for upstream, state, *rest in tasks])


def receipt(connection: sqlite3.Connection, request_id: str) -> tuple[Receipt, int] | None:
    """Return a request's receipt and its owner's account id, or None."""
    row = connection.execute(_RECEIPT, (request_id,)).fetchone()
    if row is None:
        return None
    identity, kind, account_id, key_id, model, upstream, upstream_model, stream, hold, price, created_at_ms = row[:11]
    key, body_sha256, account, settled_at_ms, *settled, key_name, attempts, refunded = row[11:]
    request = NewRequest(
        id=identity,
        kind=Kind(kind),
        account_id=account_id,
        key_id=key_id,
        model=model,
        upstream=upstream,
        upstream_model=upstream_model,
        stream=bool(stream),
        hold_nanos=Nanos(hold),
        price=price,
        created_at_ms=created_at_ms,
        claim=None if key is None else IdempotencyClaim(key, body_sha256),
        key_name=key_name,
    )
    settlement = None if settled_at_ms is None else _settlement(attempts, *settled)
    return Receipt(request, account, settlement, settled_at_ms, Nanos(refunded)), account_id


def usage(connection: sqlite3.Connection, query: UsageQuery, zone: Zone) -> list[UsageRow]:
    """Return the sums of settled requests, folded or not, by account and group. Raises: AccountNotFoundError."""
    since_ms = 0 if query.since_ms is None else query.since_ms
    until_ms = _TIME_MAX_MS if query.until_ms is None else query.until_ms
    parameters = {"since": since_ms, "until": until_ms, "account": 0, "offset": zone.minutes * 60_000}
    # A day that has been folded counts whole, if it begins within the period.
    parameters |= {"first": zone.day(since_ms - 1) + 1, "end": zone.day(until_ms - 1) + 1}
    whose = "accounts.kind = 'customer'"
    if query.account is not None:
        whose, parameters["account"] = "accounts.id = :account", ledger.account_by_name(connection, query.account).id
    of_request, of_day, of_refunds = _GROUPS[query.by]
    sums = ", ".join(f"sum({name}) AS {name}" for name in _SUMMED)
    nothing = ", ".join("0" for _ in ("requests", *_SUMMED, "estimated"))
    # CROSS JOIN fixes the order: account by account, each a range of the index on (account, time).
    rows = connection.execute(
        f"""SELECT account, of, sum(requests), {", ".join(f"sum({name})" for name in _SUMMED)}, sum(estimated), sum(refunded) FROM (
              SELECT accounts.name AS account, {of_request} AS of, count(*) AS requests, {sums},
                sum(usage_source = 'estimated') AS estimated, 0 AS refunded
              FROM accounts CROSS JOIN requests ON requests.account_id = accounts.id
                AND requests.created_at_ms >= :since AND requests.created_at_ms < :until
              WHERE settled_at_ms IS NOT NULL AND {whose} GROUP BY 1, 2
              UNION ALL
              SELECT accounts.name, {of_day}, sum(requests), {sums}, sum(estimated), sum(refunded_nanos)
              FROM accounts CROSS JOIN request_days ON request_days.account_id = accounts.id AND day >= :first AND day < :end
              WHERE {whose} GROUP BY 1, 2
              UNION ALL
              SELECT accounts.name, {of_request}, {nothing}, amount_nanos
              FROM transfers INDEXED BY transfers_reversals CROSS JOIN requests ON requests.id = transfers.request_id
                AND requests.created_at_ms >= :since AND requests.created_at_ms < :until
              CROSS JOIN accounts ON accounts.id = requests.account_id WHERE transfers.kind = 'reversal' AND {whose}
              UNION ALL
              SELECT accounts.name, {of_refunds}, {nothing}, refunded_nanos
              FROM accounts CROSS JOIN refund_days ON refund_days.account_id = accounts.id AND day >= :first AND day < :end
              WHERE {whose})
            GROUP BY 1, 2 ORDER BY 1, 2""",  # noqa: S608  the groups are constants
        parameters,
    )
    return [UsageRow(*row) for row in rows]


def _settlement(
    attempts: str | None,
    outcome: str,
    usage_source: str,
    charge_nanos: int,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int,
    reasoning_tokens: int,
    units: int,
    shortfall_nanos: int,
    http_status: int,
    upstream_id: str,
    first_byte_ms: int | None,
    total_ms: int | None,
    note: str,
) -> Settlement:
    return Settlement(
        outcome=Outcome(outcome),
        usage_source=UsageSource(usage_source),
        charge_nanos=Nanos(charge_nanos),
        usage=TokenUsage(prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens),
        units=units,
        shortfall_nanos=Nanos(shortfall_nanos),
        http_status=http_status,
        upstream_id=upstream_id,
        first_byte_ms=first_byte_ms,
        total_ms=total_ms,
        note=note,
        attempts=() if attempts is None else _ATTEMPTS.decode(attempts),
    )
