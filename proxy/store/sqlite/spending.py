"""Money limits: what each account and key that has one has spent and holds, checked and moved in the transaction of the hold.

A row of ``spend`` for each day is the truth; what is summed of it here, on the writer's thread, spares each hold a sum over months.
It is true of the transaction as it stands: what is undone takes the sums of those that it touched along, and they are read again.

Everything belongs to the day on which a request was created, in the time zone of the ledger, whenever it is settled.
"""

import sqlite3
from functools import lru_cache
from typing import Literal, TypeVar

from proxy.core.days import Zone, month_of
from proxy.core.limits import Period, SpendLimits
from proxy.store import refusals
from proxy.store.audit.booked import BOOKED, LIMITED
from proxy.store.limit_row import HAS_MONEY, IDENTITY
from proxy.store.refusals import Left
from proxy.store.sqlite import counting
from proxy.store.sqlite.counting import Counted
from proxy.store.values import NewRequest

DAYS_KEPT = 8
"""Days whose sums are remembered for each account or key: nearly all settlements are of today, a video's of the last few days."""
_FIRST_DAY = -(2**40)

_REBUILD = f"INSERT INTO spend SELECT * FROM (WITH {LIMITED}, {BOOKED} SELECT account_id, identity, day, spent, held FROM booked)"  # noqa: S608
_SUMS = """
    SELECT coalesce(sum(iif(day = ?3, spent_nanos, 0)), 0), coalesce(sum(iif(day = ?3, held_nanos, 0)), 0),
      coalesce(sum(iif(day >= ?4 AND day < ?5, spent_nanos + held_nanos, 0)), 0), coalesce(sum(spent_nanos + held_nanos), 0)
    FROM spend WHERE account_id = ?1 AND identity = ?2 AND day >= ?6"""
_WRITE = "INSERT OR REPLACE INTO spend (account_id, identity, day, spent_nanos, held_nanos) VALUES (?, ?, ?, ?, ?)"
_LIMITED = f"SELECT account_id, identity, day_nanos, month_nanos, total_nanos FROM limits WHERE {HAS_MONEY}"  # noqa: S608
# CROSS JOIN fixes the order: each key looks its limits up.
_LIMITED_KEYS = f"""
    SELECT keys.id, limits.account_id, limits.identity
    FROM keys CROSS JOIN limits ON limits.account_id = keys.account_id AND limits.identity = {IDENTITY} AND {HAS_MONEY}"""  # noqa: S608
_MONTH = lru_cache(64)(month_of)

T = TypeVar("T")
Row = tuple[int, str, int, int, int]
"""Account, identity, day, and the nano-yuan spent and held of it."""


class _Subject:
    """An account, or a key with all of its secrets, that has a money limit. Of a day in `days`, month and total are known too."""

    __slots__ = ("account_id", "days", "identity", "limits", "months", "total")

    def __init__(self, account_id: int, identity: str, limits: SpendLimits) -> None:
        self.account_id = account_id
        self.identity = identity
        self.limits = limits
        self.forget()

    def forget(self) -> None:
        self.days: dict[int, list[int]] = {}
        """Nano-yuan spent and held, by day."""
        self.months: dict[int, int] = {}
        """Nano-yuan spent and held together, by the month's first day."""
        self.total: int | None = None

    def load(self, connection: sqlite3.Connection, day: int) -> list[int]:
        """Return what is spent and held of a day, and know its month and the total, as far as they are limited."""
        found = self.days.get(day)
        if found is not None:
            return found
        first, end = _MONTH(day)
        since = day if self.limits.month is None else first
        since = since if self.limits.total is None else _FIRST_DAY
        spent, held, month, total = connection.execute(_SUMS, (self.account_id, self.identity, day, first, end, since)).fetchone()
        self.months.setdefault(first, month)
        if self.total is None:
            self.total = total
        return self.days.setdefault(day, [spent, held])

    def left(self, connection: sqlite3.Connection, day: int) -> list[tuple[Period, int, int]]:
        """Return each limit of a day with what is left of it, which is negative where the limit was lowered since."""
        spent, held = self.load(connection, day)
        limits, found = self.limits, []
        if limits.day is not None:
            found.append((Period.DAY, int(limits.day), limits.day - spent - held))
        if limits.month is not None:
            found.append((Period.MONTH, int(limits.month), limits.month - self.months[_MONTH(day)[0]]))
        if limits.total is not None and self.total is not None:
            found.append((Period.TOTAL, int(limits.total), limits.total - self.total))
        return found

    def move(self, connection: sqlite3.Connection, day: int, spent: int, held: int) -> Row:
        """Add to what is spent and held of a day; return the day's row as it is now."""
        row = self.load(connection, day)
        row[0] += spent
        row[1] += held
        self.months[_MONTH(day)[0]] += spent + held
        if self.total is not None:
            self.total += spent + held
        return (self.account_id, self.identity, day, row[0], row[1])


class Spending:
    """All that have a money limit: nobody, until it is `opened`. Only the writer's thread uses it."""

    def __init__(self, connection: sqlite3.Connection, zone: Zone) -> None:
        self.zone = zone
        self.by_key: dict[str, _Subject] = {}
        """Of each key's id, where its identity has a money limit."""
        self.by_account: dict[int, _Subject] = {}
        self.is_idle = True
        """True while nobody has a money limit: then a hold asks nothing else."""
        self._connection = connection
        self._unwritten: dict[tuple[int, str, int], Row] = {}
        self._touched: list[_Subject] = []
        self._is_stale = False
        self._has_changed = False

    @classmethod
    def opened(cls, connection: sqlite3.Connection, zone: Zone) -> "Spending":
        """Return the money limits that the file has."""
        spending = cls(connection, zone)
        spending._load()
        return spending

    # holds and settlements

    def take(self, request: NewRequest) -> bool:
        """Count a hold towards all limits, or towards none if one of them leaves too little. `rows` has yet to be written."""
        subjects = self._subjects(request.key_id, request.account_id)
        if not subjects:
            return True
        day, hold = self.zone.day(request.created_at_ms), request.hold_nanos
        for subject in subjects:
            for _, _, left in subject.left(self._connection, day):
                if left < hold:
                    return False
        for subject in subjects:
            self._move(subject, day, 0, hold)
        return True

    def count(self, request: NewRequest) -> None:
        """Count a hold that `require` has let pass. `rows` has yet to be written."""
        day = self.zone.day(request.created_at_ms)
        for subject in self._subjects(request.key_id, request.account_id):
            self._move(subject, day, 0, request.hold_nanos)

    def require(self, request: NewRequest) -> None:
        """Check that the limits leave room for a hold. Raises: SpendLimitError, for the one of them that begins anew the latest."""
        day = self.zone.day(request.created_at_ms)
        beyond: list[Left] = []
        for subject in self._subjects(request.key_id, request.account_id):
            whose: Literal["key", "account"] = "key" if subject.identity else "account"
            lefts = subject.left(self._connection, day)
            beyond += [(whose, period, limit, left) for period, limit, left in lefts if left < request.hold_nanos]
        if beyond:
            raise refusals.beyond_limits(beyond, request, self.zone)

    def settle(self, account_id: int, key_id: str, created_at_ms: int, hold: int, charge: int) -> None:
        """Move a hold's charge to what is spent, and forget the rest of it. `rows` has yet to be written."""
        subjects = self._subjects(key_id, account_id)
        if subjects:
            day = self.zone.day(created_at_ms)
            for subject in subjects:
                self._move(subject, day, charge, -hold)

    def rows(self) -> list[Row]:
        """Return the rows that are to be written, once."""
        if not self._unwritten:
            return []
        rows = list(self._unwritten.values())
        self._unwritten.clear()
        return rows

    def write(self) -> None:
        """Write `rows` at once, for an operation that runs by itself."""
        if self._unwritten:
            self._connection.executemany(_WRITE, self.rows())

    def _subjects(self, key_id: str, account_id: int) -> list[_Subject]:
        key, account = self.by_key.get(key_id), self.by_account.get(account_id)
        return [subject for subject in (key, account) if subject is not None]

    def _move(self, subject: _Subject, day: int, spent: int, held: int) -> None:
        self._touched.append(subject)
        row = subject.move(self._connection, day, spent, held)
        self._unwritten[row[:3]] = row

    # changes of limits

    def changed(self, account_id: int, identity: str, before: SpendLimits, after: SpendLimits, counted: Counted | None = None) -> None:
        """Take over a change that was written: the first money limit counts what the books show already, the last one forgets it.

        Args: counted: what they showed before this transaction, so that only the rest is counted in it.
        """
        self._has_changed = True
        if after and not before:
            if counted is None or (counted.account_id, counted.identity) != (account_id, identity):
                now = counting.count(self._connection, account_id, identity)
            else:
                now = counting.count_rest(self._connection, counted)
            self._connection.executemany(_WRITE, now.rows)
        elif before and not after:
            self._connection.execute("DELETE FROM spend WHERE account_id = ? AND identity = ?", (account_id, identity))
        if before or after:
            self._load_one(account_id, identity)

    def joined(self, account_id: int, identity: str) -> None:
        """Take over that a key was made, or has one secret more."""
        self._has_changed = True
        self._load_one(account_id, identity)

    # transactions

    def refresh(self) -> None:
        """Read who has a money limit, after a change was undone. Call at the beginning of a transaction."""
        if self._is_stale:
            self._load()

    def mark(self) -> int:
        """Return where a savepoint begins, for `undo`."""
        return len(self._touched)

    def undo(self, mark: int) -> None:
        """Forget what was done since a mark: its savepoint was rolled back, and the connection can be read."""
        self._forget(self._touched[mark:])
        del self._touched[mark:]
        if self._has_changed:
            self._load()

    def committed(self) -> None:
        for subject in self._touched:
            if len(subject.days) > DAYS_KEPT:
                subject.forget()
        self._touched.clear()
        self._has_changed = False

    def rolled_back(self) -> None:
        """Forget what the transaction did. It reads nothing: the file may not be readable now."""
        self._forget(self._touched)
        self._touched.clear()
        self._is_stale = self._is_stale or self._has_changed
        self._has_changed = False

    def _forget(self, subjects: list[_Subject]) -> None:
        for subject in subjects:
            subject.forget()
        self._unwritten.clear()

    def _load(self) -> None:
        rows = self._connection.execute(_LIMITED).fetchall()
        subjects = {(row[0], row[1]): _Subject(row[0], row[1], SpendLimits(*row[2:])) for row in rows}
        keys = self._connection.execute(_LIMITED_KEYS) if subjects else ()
        self.by_account = {account_id: subject for (account_id, identity), subject in subjects.items() if not identity}
        self.by_key = {key_id: subjects[account_id, identity] for key_id, account_id, identity in keys}
        self.is_idle = not subjects
        self._is_stale = False

    def _load_one(self, account_id: int, identity: str) -> None:
        row = self._connection.execute(f"{_LIMITED} AND account_id = ? AND identity = ?", (account_id, identity)).fetchone()
        subject = None if row is None else _Subject(account_id, identity, SpendLimits(*row[2:]))
        if not identity:
            _put(self.by_account, account_id, subject)
        else:
            for (key_id,) in self._connection.execute("SELECT id FROM keys WHERE id = ?1 OR identity = ?1", (identity,)):
                _put(self.by_key, key_id, subject)
        self.is_idle = not self.by_account and not self.by_key


def _put(subjects: dict[T, _Subject], whose: T, subject: _Subject | None) -> None:
    if subject is None:
        subjects.pop(whose, None)
    else:
        subjects[whose] = subject


def adopt_zone(connection: sqlite3.Connection, zone: Zone) -> None:
    """Count the days of the file in a time zone from now on: rebuild what was spent in another.

    Raises: StoreRefusedError: requests are folded into days of another zone, which nothing can cut again.
    """
    before = zone_of(connection)
    if before == zone:
        return
    if before is not None and connection.execute("SELECT 1 FROM request_days LIMIT 1").fetchone():
        raise refusals.folded_in_another_zone(before, zone)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("INSERT OR REPLACE INTO facts (name, value) VALUES ('zone_minutes', ?)", (zone.minutes,))
        connection.execute("DELETE FROM spend")
        connection.execute(_REBUILD)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def zone_of(connection: sqlite3.Connection) -> Zone | None:
    """Return the time zone of the file's days; None: it has not been opened to write since there are time zones."""
    row = connection.execute("SELECT value FROM facts WHERE name = 'zone_minutes'").fetchone()
    return None if row is None else Zone(row[0])
