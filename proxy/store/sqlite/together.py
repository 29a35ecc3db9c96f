"""Holds and settlements that share a transaction, in a few statements for all of them.

Rule: the file is the same as if `ledger.place_hold` and `ledger.settle` had run one by one. Whatever is out of the ordinary (an
idempotency key, too little money, a request that is settled already, a video) is left `ALONE`: the caller runs it by itself.

Each statement of `sqlite3` gives up the interpreter's lock and takes it back, with the event loop on the other core: one by one, a hold
and its settlement cost 47 µs of this thread's CPU at 64 in flight, together 22.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence

from proxy.core.catalog import Kind
from proxy.core.money import NANOS_MAX
from proxy.core.settlement import Settlement
from proxy.store.contract import NewRequest, StoredAnswer
from proxy.store.sqlite import ledger

ALONE = object()
"""The result of an operation that was left out."""

ROWS_MAX = 32
"""Rows of one statement. The connection keeps each of its shapes prepared, so their number must have a bound."""

Settling = tuple[str, Settlement, int] | tuple[str, Settlement, int, StoredAnswer | None]
"""The arguments of `ledger.settle`."""

_AVAILABLE = "SELECT balance_nanos - held_nanos FROM accounts WHERE id = ? AND kind = 'customer'"
# A statement that began with its WITH would have no rowcount in Python 3.11.
_HOLD = """
    UPDATE accounts SET held_nanos = held_nanos + v.amount
    FROM (WITH v (id, amount) AS (VALUES {rows}) SELECT * FROM v) AS v WHERE accounts.id = v.id"""
_INSERT_REQUESTS = """
    INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
      claimed)
    VALUES {rows}"""
_INSERT_TRANSFERS = "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, note, created_at_ms) VALUES {rows}"

# One row whatever their number: fetching each would be another turn at the interpreter's lock.
_OPEN = """
    SELECT group_concat(id || ' ' || account_id || ' ' || hold_nanos) FROM requests
    WHERE id IN ({rows}) AND settled_at_ms IS NULL AND kind <> 'video' AND NOT claimed"""
_SETTLE_REQUESTS = """
    UPDATE requests SET settled_at_ms = v.settled_at_ms, outcome = v.outcome, usage_source = v.usage_source,
      charge_nanos = v.charge_nanos, prompt_tokens = v.prompt_tokens, cached_tokens = v.cached_tokens,
      completion_tokens = v.completion_tokens, reasoning_tokens = v.reasoning_tokens, units = v.units,
      shortfall_nanos = v.shortfall_nanos, http_status = v.http_status, upstream_id = v.upstream_id, first_byte_ms = v.first_byte_ms,
      total_ms = v.total_ms, note = v.note
    FROM (WITH v (id, settled_at_ms, outcome, usage_source, charge_nanos, prompt_tokens, cached_tokens, completion_tokens,
      reasoning_tokens, units, shortfall_nanos, http_status, upstream_id, first_byte_ms, total_ms, note) AS (VALUES {rows})
      SELECT * FROM v) AS v
    WHERE requests.id = v.id AND requests.settled_at_ms IS NULL"""
_END_HOLDS = """
    UPDATE accounts SET balance_nanos = balance_nanos - v.charge, held_nanos = held_nanos - v.hold
    FROM (WITH v (id, charge, hold) AS (VALUES {rows}) SELECT * FROM v) AS v WHERE accounts.id = v.id"""

Row = tuple[object, ...]


def place_holds(connection: sqlite3.Connection, calls: Sequence[tuple[NewRequest]]) -> list[object]:
    """Place each hold that the available balance covers, in their order; return None for each of them, or `ALONE`."""
    available: dict[int, int] = {}
    placed: list[NewRequest] = []
    results: list[object] = []
    for (request,) in calls:
        account_id, hold = request.account_id, request.hold_nanos
        if account_id not in available:
            row = connection.execute(_AVAILABLE, (account_id,)).fetchone()
            available[account_id] = row[0] if row else -1
        if request.claim is not None or request.kind is Kind.VIDEO or not 0 <= hold <= min(available[account_id], NANOS_MAX):
            results.append(ALONE)
            continue
        available[account_id] -= hold
        placed.append(request)
        results.append(None)
    _record(connection, placed)
    return results


def _record(connection: sqlite3.Connection, placed: Sequence[NewRequest]) -> None:
    held: defaultdict[int, int] = defaultdict(int)
    requests: list[Row] = []
    transfers: list[Row] = []
    for request in placed:
        hold = request.hold_nanos
        held[request.account_id] += hold
        requests.append(ledger.request_values(request))
        if hold:
            transfers.append(("hold", request.account_id, ledger.REVENUE_ID, hold, request.id, "", request.created_at_ms))
    _run(connection, _HOLD, tuple(held.items()))
    _run(connection, _INSERT_REQUESTS, requests)
    _run(connection, _INSERT_TRANSFERS, transfers)


def settle_all(connection: sqlite3.Connection, calls: Sequence[Settling]) -> list[object]:
    """Settle each request whose hold is open and which nothing else hangs on; return True for each of them, or `ALONE`."""
    holds = _open_holds(connection, {call[0] for call in calls})
    updates: list[Row] = []
    transfers: list[Row] = []
    charged: defaultdict[int, int] = defaultdict(int)
    released: defaultdict[int, int] = defaultdict(int)
    results: list[object] = []
    for request_id, settlement, now_ms, *_ in calls:
        found = holds.pop(request_id, None)
        if found is None:  # also the second of two settlements of one request
            results.append(ALONE)
            continue
        account_id, hold = found
        charge = settlement.charge_nanos
        updates.append((request_id, now_ms, *ledger.settlement_values(settlement)))
        if hold:
            ending, amount = ("charge", charge) if charge else ("release", hold)
            transfers.append((ending, account_id, ledger.REVENUE_ID, amount, request_id, "", now_ms))
        charged[account_id] += charge
        released[account_id] += hold
        results.append(True)
    _run(connection, _SETTLE_REQUESTS, updates)
    _run(connection, _INSERT_TRANSFERS, transfers)
    _run(connection, _END_HOLDS, [(account_id, charged[account_id], hold) for account_id, hold in released.items()])
    return results


def _open_holds(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return account and hold of each request that can be settled here. No id holds a space or a comma."""
    wanted = tuple(ids)
    found: dict[str, tuple[int, int]] = {}
    for begin in range(0, len(wanted), ROWS_MAX):
        some = wanted[begin : begin + ROWS_MAX]
        (joined,) = connection.execute(_OPEN.format(rows=", ".join("?" * len(some))), some).fetchone()
        for line in joined.split(",") if joined else ():
            request_id, account_id, hold = line.split(" ")
            found[request_id] = int(account_id), int(hold)
    return found


def _run(connection: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    """Run a statement for all rows, `ROWS_MAX` at a time.

    Raises: sqlite3.IntegrityError: a row contradicts the schema, or changed nothing.
    """
    for begin in range(0, len(rows), ROWS_MAX):
        some = rows[begin : begin + ROWS_MAX]
        row = f"({', '.join('?' * len(some[0]))})"
        done = connection.execute(statement.format(rows=", ".join([row] * len(some))), [value for row in some for value in row])
        if done.rowcount != len(some):
            raise sqlite3.IntegrityError(f"{len(some) - done.rowcount} of {len(some)} rows changed nothing")
