"""Holds and settlements that share a transaction, in a few statements for all of them.

Rule: the file is the same as if `ledger.place_hold` and `ledger.settle` had run one by one. Whatever is out of the ordinary (an
idempotency key, too little money, a video, a request that several upstreams were asked for, one that another process left open) is left
to run by itself.

Each statement of `sqlite3` gives up the interpreter's lock and takes it back, against an event loop that wants it too: with a hold and
a settlement in seven statements each, 47 µs of this thread's CPU a request at 64 in flight; with six for a whole batch, 25.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from proxy.core.catalog import Kind
from proxy.core.money import NANOS_MAX
from proxy.core.settlement import Settlement
from proxy.store.sqlite import ledger
from proxy.store.sqlite.spending import Spending
from proxy.store.values import NewRequest, StoredAnswer

ROWS_MAX = 32
"""Rows of one statement. The connection keeps each of its shapes prepared, so their number must have a bound."""

_VIDEO = Kind.VIDEO
Row = tuple[object, ...]


class _Statement:
    """One statement for any number of rows, up to `ROWS_MAX`. ``?1`` in ``first`` is one parameter that all rows begin with."""

    def __init__(self, text: str, columns: int, first: str = "") -> None:
        row = f"({first}{', '.join('?' * columns)})"
        self._texts = [text.format(rows=", ".join([row] * rows)) for rows in range(ROWS_MAX + 1)]

    def run(self, connection: sqlite3.Connection, rows: Sequence[Row], first: Row = ()) -> None:
        """Run it for all rows. ``first``: the parameter that they begin with, if the statement has one.

        Raises: sqlite3.IntegrityError: a row contradicts the schema, or changed nothing.
        """
        for begin in range(0, len(rows), ROWS_MAX):
            some = rows[begin : begin + ROWS_MAX]
            done = connection.execute(self._texts[len(some)], (*first, *chain.from_iterable(some)))
            if done.rowcount != len(some):
                raise sqlite3.IntegrityError(f"{len(some) - done.rowcount} of {len(some)} rows changed nothing")


# A statement that began with its WITH would have no rowcount in Python 3.11.
_MOVE = _Statement(
    """UPDATE accounts SET balance_nanos = balance_nanos - v.charged, held_nanos = held_nanos + v.held
       FROM (WITH v (id, charged, held) AS (VALUES {rows}) SELECT * FROM v) AS v WHERE accounts.id = v.id""",
    3,
)
_INSERT_REQUESTS = _Statement(
    """INSERT INTO requests (owner, id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price,
         created_at_ms, claimed, key_name)
       VALUES {rows}""",
    13,
    first="?1, ",  # one owner for all rows: bound once, it costs a request no instruction of Python
)
_INSERT_TRANSFERS = _Statement(
    "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, note, created_at_ms) VALUES {rows}", 7
)
_SETTLE_REQUESTS = _Statement(
    """UPDATE requests SET settled_at_ms = v.settled_at_ms, outcome = v.outcome, usage_source = v.usage_source,
         charge_nanos = v.charge_nanos, prompt_tokens = v.prompt_tokens, cached_tokens = v.cached_tokens,
         completion_tokens = v.completion_tokens, reasoning_tokens = v.reasoning_tokens, units = v.units,
         shortfall_nanos = v.shortfall_nanos, http_status = v.http_status, upstream_id = v.upstream_id,
         first_byte_ms = v.first_byte_ms, total_ms = v.total_ms, note = v.note
       FROM (WITH v (id, settled_at_ms, outcome, usage_source, charge_nanos, prompt_tokens, cached_tokens, completion_tokens,
         reasoning_tokens, units, shortfall_nanos, http_status, upstream_id, first_byte_ms, total_ms, note) AS (VALUES {rows})
         SELECT * FROM v) AS v
       WHERE requests.id = v.id AND requests.settled_at_ms IS NULL""",
    16,
)
# Whole rows, not what is added to them: a CHECK is made before a conflict is seen, and what a settlement adds to the held is negative.
_SPEND = _Statement("INSERT OR REPLACE INTO spend (account_id, identity, day, spent_nanos, held_nanos) VALUES {rows}", 5)
# One row whatever their number: fetching each would be another turn at the interpreter's lock.
_AVAILABLE_TEXT = """
    SELECT group_concat(id || ' ' || (balance_nanos - held_nanos)) FROM accounts
    WHERE id IN ({ids}) AND kind = 'customer' AND closed_at_ms IS NULL"""
_AVAILABLE = [_AVAILABLE_TEXT.format(ids=", ".join("?" * accounts)) for accounts in range(ROWS_MAX + 1)]


@dataclass(slots=True)
class Changes:
    """Changes of one batch: gathered first, then written, and remembered once they are committed."""

    owner: str
    """Id of the owner that places the holds of the batch."""
    spending: Spending
    requests: list[Row] = field(default_factory=list)
    settlements: list[Row] = field(default_factory=list)
    transfers: list[Row] = field(default_factory=list)
    charged: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    held: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    opened: dict[str, NewRequest] = field(default_factory=dict)

    def write(self, connection: sqlite3.Connection) -> None:
        """Raises: sqlite3.Error: nothing of the transaction may stand."""
        _INSERT_REQUESTS.run(connection, self.requests, (self.owner,))
        _SETTLE_REQUESTS.run(connection, self.settlements)
        _INSERT_TRANSFERS.run(connection, self.transfers)
        _MOVE.run(connection, [(account_id, self.charged[account_id], held) for account_id, held in self.held.items()])
        _SPEND.run(connection, self.spending.rows())


class OpenHolds:
    """The ordinary requests that this process has placed and not yet settled, by their ids.

    One process alone writes the file, so whatever is here need not be looked up; what is not is looked up by `ledger.settle`.
    """

    def __init__(self, owner: str, spending: Spending) -> None:
        self.owner = owner
        self.spending = spending
        self._holds: dict[str, NewRequest] = {}

    def __len__(self) -> int:
        return len(self._holds)

    def place(self, connection: sqlite3.Connection, requests: Sequence[NewRequest], changes: Changes) -> list[bool]:
        """Gather the holds that the available balances cover, in their order; return for each request whether it is among them."""
        available = _available(connection, {request.account_id for request in requests})
        return [self._place(request, available, changes) for request in requests]

    def _place(self, request: NewRequest, available: dict[int, int], changes: Changes) -> bool:
        account_id, hold = request.account_id, request.hold_nanos
        if request.claim is not None or request.kind is _VIDEO or not 0 <= hold <= min(available.get(account_id, -1), NANOS_MAX):
            return False
        if hold and not self.spending.is_idle and not self.spending.take(request):
            return False
        available[account_id] -= hold
        changes.requests.append(ledger.request_values(request))
        if hold:
            changes.transfers.append(("hold", account_id, ledger.REVENUE_ID, hold, request.id, "", request.created_at_ms))
        changes.held[account_id] += hold
        changes.opened[request.id] = request
        return True

    def settle(
        self, changes: Changes, request_id: str, settlement: Settlement, now_ms: int, _answer: StoredAnswer | None, _: Spending
    ) -> bool:
        """Gather one settlement, if its hold is here; return whether it was. A second one of the same request is not gathered.

        Its answer is of no use: a request whose idempotency key would keep it has no hold here.
        """
        if settlement.attempts:
            return False  # its row tells who answered in the end, too
        found = self._holds.pop(request_id, None)
        if found is None:
            return False
        account_id, hold, charge = found.account_id, found.hold_nanos, settlement.charge_nanos
        changes.settlements.append((request_id, now_ms, *ledger.settlement_values(settlement)))
        if hold:
            ending, amount = ("charge", charge) if charge else ("release", hold)
            changes.transfers.append((ending, account_id, ledger.REVENUE_ID, amount, request_id, "", now_ms))
            if not self.spending.is_idle:
                self.spending.settle(account_id, found.key_id, found.created_at_ms, hold, charge)
        changes.charged[account_id] += charge
        changes.held[account_id] -= hold
        return True

    def committed(self, changes: Changes) -> None:
        """Remember what is durable. What a failed transaction gathered is forgotten: it will be looked up."""
        self._holds.update(changes.opened)

    def forget(self, request_id: str, changes: Changes) -> None:
        """Leave a request to be looked up: it has been settled by itself, perhaps in the very batch of its hold."""
        self._holds.pop(request_id, None)
        changes.opened.pop(request_id, None)


def _available(connection: sqlite3.Connection, account_ids: Iterable[int]) -> dict[int, int]:
    wanted = tuple(account_ids)
    found: dict[int, int] = {}
    for begin in range(0, len(wanted), ROWS_MAX):
        some = wanted[begin : begin + ROWS_MAX]
        (joined,) = connection.execute(_AVAILABLE[len(some)], some).fetchone()
        for pair in joined.split(",") if joined else ():
            account_id, _, amount = pair.partition(" ")
            found[int(account_id)] = int(amount)
    return found
