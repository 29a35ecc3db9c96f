"""Money limits against a plain model: whatever is held, settled, changed, undone or restarted, both say the same after each step.

The model knows nothing of days that are summed, of batches in few statements, or of what is remembered: it adds up all requests.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from proxy.core.days import CHINA, DAY_MS, UTC, Zone
from proxy.core.limits import LimitsChange, Period
from proxy.store.errors import InsufficientFundsError, SpendLimitError
from proxy.store.sqlite import admin, counting, folding, ledger
from proxy.store.sqlite.batch import OpenHolds
from proxy.store.sqlite.counting import Counted
from proxy.store.sqlite.file import migrations
from proxy.store.sqlite.spending import Spending, adopt_zone
from proxy.store.sqlite.verify import verify, verify_open
from proxy.store.sqlite.writer import _Operation, transact
from proxy.store.values import IdempotencyClaim
from tests.support.store import NOW_MS, OWNER, new_key, new_request, settlement, unlimited

BALANCES = {3: 10**6, 4: 120}
KEYS = {"key_a": 3, "key_b": 3, "key_c": 4, "": 3}
BEGIN_MS = NOW_MS - 20 * DAY_MS
DAYS = 45
"""Days on which requests are created: three months have some of them."""
Subject = tuple[int, str]


class Asked(Struct):
    """A request, as the model knows it. ``charge`` None: it is open."""

    account_id: int
    identity: str
    at_ms: int
    hold: int
    charge: int | None = None


class Model:
    """The rules in plain words: of each limit, what is spent and held of its period's requests is at most the limit."""

    def __init__(self) -> None:
        self.zone: Zone = CHINA
        self.limits: dict[tuple[Subject, Period], int] = {}
        self.asked: dict[str, Asked] = {}
        self.identities = {key: key for key in KEYS}

    def copy(self) -> "Model":
        other = Model()
        other.zone, other.limits, other.identities = self.zone, dict(self.limits), dict(self.identities)
        other.asked = {name: Asked(one.account_id, one.identity, one.at_ms, one.hold, one.charge) for name, one in self.asked.items()}
        return other

    def hold(self, name: str, account_id: int, key_id: str, at_ms: int, hold: int) -> bool:
        one = Asked(account_id, self.identities[key_id], at_ms, hold)
        gone = sum(other.hold if other.charge is None else other.charge for other in self._of((account_id, "")))
        if BALANCES[account_id] - gone < hold:
            return False
        for (subject, period), limit in self.limits.items():
            if hold and subject in ((account_id, ""), (account_id, one.identity)) and self._used(subject, period, at_ms) + hold > limit:
                return False
        self.asked[name] = one
        return True

    def rows(self) -> set[tuple[int, str, int, int, int]]:
        """Return the rows of ``spend``, but for those of nothing."""
        found: dict[tuple[int, str, int], list[int]] = {}
        for account_id, identity in {subject for subject, _ in self.limits}:
            for one in self._of((account_id, identity)):
                row = found.setdefault((account_id, identity, self.zone.day(one.at_ms)), [0, 0])
                row[one.charge is None] += one.hold if one.charge is None else one.charge
        return {(*key, spent, held) for key, (spent, held) in found.items() if spent or held}

    def _of(self, subject: Subject) -> list[Asked]:
        account_id, identity = subject
        return [one for one in self.asked.values() if one.account_id == account_id and identity in ("", one.identity)]

    def _used(self, subject: Subject, period: Period, at_ms: int) -> int:
        return sum(
            one.hold if one.charge is None else one.charge
            for one in self._of(subject)
            if self.zone.ends_ms(period, one.at_ms) == self.zone.ends_ms(period, at_ms)
        )


@cache
def template() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrations.migrate(connection, 0)
        for name, balance in (("alice", BALANCES[3]), ("bob", BALANCES[4])):
            admin.create_account(connection, name, cast("Any", balance), NOW_MS)
        for key_id, account_id in KEYS.items():
            if key_id:
                admin.create_key(connection, {3: "alice", 4: "bob"}[account_id], new_key(key_id), unlimited())
        adopt_zone(connection, CHINA)
        return connection.serialize()


class World:
    """The store's side: a file in memory, and a process that holds, settles and forgets at a restart."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.deserialize(template())
        connection.execute("PRAGMA foreign_keys = ON")
        self.model = Model()
        self.remembered: set[str] = set()
        """Requests that this process can settle together with others."""
        self.keys = dict(KEYS)
        """Accounts by secrets, those of rolled keys too."""
        self.newest = {key: key for key in KEYS if key}
        """The secret of each identity that can be rolled."""
        self.has_folded = False
        self.counted: dict[tuple[int, str], Counted] = {}
        """What was counted for a first limit, any number of transactions ago."""
        self.serial = 0
        self._restart(CHINA)

    def restart(self, zone: Zone) -> None:
        if not self.has_folded:
            adopt_zone(self.connection, zone)
            self.model.zone = zone
        self._restart(self.model.zone)

    def _restart(self, zone: Zone) -> None:
        self.open_holds = OpenHolds(OWNER, Spending.opened(self.connection, zone))
        self.remembered.clear()
        self.counted.clear()

    def count(self, key: int, account_id: int) -> None:
        """Count for a first limit of a key or an account, before its transaction."""
        key_id = list(self.keys)[key % len(self.keys)]
        counted = (
            counting.first_of_key(self.connection, key_id)
            if key_id
            else counting.first_of_account(self.connection, {3: "alice", 4: "bob"}[account_id])
        )
        if counted is not None:
            self.counted[counted.account_id, counted.identity] = counted

    def batch(self, steps: Sequence[tuple[Any, ...]], *, fails: bool) -> None:
        """Run steps as one transaction, and by the model; the outcome of each must be the same."""
        steps = [self._named(step) for step in steps]
        said = [
            (step[0], step[-1] if step[0] == "roll" else step[1:2]) for step in steps
        ]  # each request is settled, each key rolled, once
        steps = [step for at, step in enumerate(steps) if step[0] not in ("settle", "roll") or said[at] not in said[:at]]
        operations = [self._operation(step) for step in steps]
        if fails:
            operations.append(operation(end_the_transaction))
        before = self.model.copy()
        error = transact(self.connection, operations, self.open_holds)
        assert (error is not None) == fails
        keys, newest = dict(self.keys), dict(self.newest)
        expected = self._by_the_model(steps)
        if fails:
            self.remembered -= {step[1] for step in steps if step[0] == "hold"}
            self.model, self.keys, self.newest = before, keys, newest
            return
        for step, done in zip(steps, operations, strict=True):
            if step[0] == "hold":
                assert isinstance(done.error, SpendLimitError | InsufficientFundsError | None), done.error
                assert (done.error is None) == expected[step[1]], (step, done.error)
            else:
                assert done.error is None, (step, done.error)

    def _named(self, step: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give a hold a name of its own, a settlement a request that is open, and a rolled key an id."""
        what, *rest = step
        if what == "settle":
            there = [name for name, one in self.model.asked.items() if one.charge is None]
            if not there:
                return ("nothing",)
            name = there[rest[0] % len(there)]
            return ("settle", name, self.model.asked[name].hold * rest[1] // 4)
        self.serial += 1
        if what == "hold":
            return ("hold", f"hold_{self.serial}", list(self.keys)[rest[0] % len(self.keys)], *rest[1:])
        if what == "limit":
            return ("limit", list(self.keys)[rest[0] % len(self.keys)], *rest[1:])
        return (what, f"roll_{self.serial}", *rest) if what == "roll" else step

    def _operation(self, step: tuple[Any, ...]) -> _Operation:
        spending = self.open_holds.spending
        match step:
            case ("hold", name, key_id, day, hold, is_claimed):
                claim = IdempotencyClaim(name, bytes(32)) if is_claimed else None
                request = new_request(
                    name, account_id=self.keys[key_id], key_id=key_id, hold_nanos=hold, created_at_ms=day, claim=claim
                )
                return operation(ledger.place_hold, request, OWNER, spending)
            case ("settle", name, charge):
                return operation(ledger.settle, name, settlement(charge), NOW_MS, None, spending)
            case ("limit", key_id, account_id, period, limit):
                change = LimitsChange(**{f"{period}_nanos": limit})
                if key_id:
                    counted = self.counted.get((self.keys[key_id], self.model.identities[key_id]))
                    return operation(admin.set_key_limits, key_id, change, NOW_MS, spending, counted)
                counted = self.counted.get((account_id, ""))
                return operation(admin.set_account_limits, {3: "alice", 4: "bob"}[account_id], change, NOW_MS, spending, counted)
            case ("roll", key_id, identity):
                return operation(admin.roll_key, self.newest[identity], new_key(key_id), 0, NOW_MS, spending)
            case ("fold", account_id):
                zone = self.model.zone
                return operation(folding.fold, account_id, zone.begins_ms(zone.day(NOW_MS) - 8), zone)
        return operation(lambda _: None)

    def _by_the_model(self, steps: Sequence[tuple[Any, ...]]) -> dict[str, bool]:
        """Tell the model what a batch does, in the order in which it is done; return which holds it admits."""
        placed: dict[str, bool] = {}
        together: set[str] = set()
        for _, name, *rest in (step for step in steps if step[0] == "hold"):
            placed[name] = not rest[3] and self._hold(name, *rest[:3])
            together |= {name} if placed[name] else set()
        for step in steps:
            if step[0] == "settle" and step[1] in self.remembered:
                self.remembered.discard(step[1])
                self.model.asked[step[1]].charge = step[2]
        for step in steps:
            if step[0] == "hold" and not placed[step[1]]:
                placed[step[1]] = self._hold(*step[1:5])
            else:
                self._alone(step)
        self.remembered |= together
        return placed

    def _alone(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("settle", name, charge) if self.model.asked[name].charge is None:
                self.model.asked[name].charge = charge
            case ("limit", key_id, account_id, period, limit):
                subject = (self.keys[key_id], self.model.identities[key_id]) if key_id else (account_id, "")
                self.model.limits.pop((subject, period), None)
                if limit is not None:
                    self.model.limits[subject, period] = limit
            case ("roll", key_id, identity):
                self.keys[key_id], self.model.identities[key_id], self.newest[identity] = self.keys[identity], identity, key_id
            case ("fold", _):
                self.has_folded = self.has_folded or bool(self.connection.execute("SELECT 1 FROM request_days").fetchone())

    def _hold(self, name: str, key_id: str, at_ms: int, hold: int) -> bool:
        return self.model.hold(name, self.keys[key_id], key_id, at_ms, hold)

    def check(self) -> None:
        rows = self.connection.execute("SELECT * FROM spend WHERE spent_nanos + held_nanos > 0").fetchall()
        assert set(rows) == self.model.rows()
        assert [check for check in verify_open(self.connection) if check.offenders] == []


def operation(function: Any, *args: Any) -> _Operation:
    return _Operation(cast("Any", None), function, args)


def end_the_transaction(connection: sqlite3.Connection) -> None:
    """End the transaction behind the writer's back, as SQLite does where the disk is full."""
    connection.execute("ROLLBACK")
    raise sqlite3.OperationalError("database or disk is full")


moments = st.integers(0, DAYS * 24 - 1).map(lambda hour: BEGIN_MS + hour * 3_600_000) | st.sampled_from(
    [CHINA.begins_ms(CHINA.day(NOW_MS)) + days * DAY_MS + ms for days in (-25, 0, 6, 7) for ms in (-1, 0)]
)
HOLDS = st.tuples(st.just("hold"), st.integers(0, 9), moments, st.sampled_from([0, 1, 5, 20, 60]), st.booleans())
SETTLES = st.tuples(st.just("settle"), st.integers(0, 99), st.integers(0, 4))
LIMITS = st.tuples(
    st.just("limit"),
    st.integers(0, 9),
    st.sampled_from(list(BALANCES)),
    st.sampled_from(list(Period)),
    st.sampled_from([None, 1, 10, 40, 100]),
)
ROLLS = st.tuples(st.just("roll"), st.sampled_from([key for key in KEYS if key]))
FOLDS = st.tuples(st.just("fold"), st.sampled_from(list(BALANCES)))
BATCHES = st.tuples(
    st.lists(HOLDS | HOLDS | HOLDS | SETTLES | SETTLES | LIMITS | ROLLS | FOLDS, min_size=1, max_size=8),
    st.sampled_from(["fails", "restart", "elsewhere", "", "", "", "", ""]),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(list(BALANCES))), max_size=2),
)
"""Steps of one transaction, what becomes of it, and what is counted afterwards for first limits to come."""


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(BATCHES, min_size=1, max_size=10))
def test_whatever_happens_spend_books_and_model_agree_after_every_step(
    batches: list[tuple[list[tuple[Any, ...]], str, list[tuple[int, int]]]],
) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        world = World(connection)
        for steps, then, counts in batches:
            world.batch(steps, fails=then == "fails")
            world.check()
            if then in ("restart", "elsewhere"):
                world.restart(UTC if then == "elsewhere" else CHINA)
                world.check()
            for key, account_id in counts:
                world.count(key, account_id)
        assert [check for check in verify(connection) if check.offenders] == []
