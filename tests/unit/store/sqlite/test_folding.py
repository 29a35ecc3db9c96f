"""Folded books compared with books that are never folded: after any operations both give the same answers and balance."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from proxy.core.days import UTC
from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS
from proxy.core.settlement import TokenUsage, UsageSource
from proxy.store.contract import CLAIM_LIFE_MS
from proxy.store.errors import InsufficientFundsError, StoreRefusedError
from proxy.store.sqlite import admin, customers, folding, idempotency, ledger, open_store, reads, tasks
from proxy.store.sqlite.file import migrations
from proxy.store.sqlite.verify import verify
from proxy.store.values import NewRequest, Settled, StoredAnswer, UsageQuery, UsageRow
from tests.support.books import assert_books_balance
from tests.support.store import (
    NOW_MS,
    OLD_BOOKS,
    OWNER,
    made,
    new_claim,
    new_key,
    new_request,
    new_video,
    reference,
    settlement,
    submitted,
    task_of,
    unlimited,
)

BEGIN = NOW_MS // DAY_MS * DAY_MS
DAYS = 4
ACCOUNTS = (3, 4)
MODELS = ("lite", "pro")
QUERIES = [
    UsageQuery(cast("Any", by), account, since_ms, until_ms)
    for by in ("model", "key", "day")
    for account in (None, "alice")
    for since_ms in (None, BEGIN + DAY_MS)
    for until_ms in (None, BEGIN + 2 * DAY_MS)
]
moments = st.integers(BEGIN, BEGIN + DAYS * DAY_MS - 1) | st.sampled_from(
    [BEGIN + n * DAY_MS + d for n in range(DAYS) for d in (0, DAY_MS - 1)]
)


def new_books() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(connection, 0)
    for name in ("alice", "bob"):
        admin.create_account(connection, name, Nanos(1000), NOW_MS)
        admin.create_key(connection, name, new_key(f"key_{name}"), unlimited())
    return connection


class Books(RuleBasedStateMachine):
    """The same operations on two stores: `folded` is folded now and then, `kept` never."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = new_books()
        self.folded = new_books()
        self.open: list[NewRequest] = []
        self.serial = 0

    def teardown(self) -> None:
        self.kept.close()
        self.folded.close()

    @rule(
        at_ms=moments,
        hold=st.integers(0, 120),
        account_id=st.sampled_from(ACCOUNTS),
        model=st.sampled_from(MODELS),
        has_key=st.booleans(),
        kind=st.sampled_from(["chat", "chat", "keyed", "video"]),
    )
    def place(self, at_ms: int, hold: int, account_id: int, model: str, has_key: bool, kind: str) -> None:
        self.serial += 1
        name = f"{kind}_{self.serial}"
        fields: dict[str, Any] = {"account_id": account_id, "hold_nanos": hold, "created_at_ms": at_ms}
        fields["key_id"] = f"key_{'alice' if account_id == 3 else 'bob'}" if has_key else ""
        if kind == "video":
            request = new_video(name, **fields)
        else:
            request = new_request(name, model=model, claim=new_claim(name) if kind == "keyed" else None, **fields)
        refusals = [self._placed(connection, request) for connection in (self.kept, self.folded)]
        assert refusals[0] == refusals[1]
        if not refusals[0]:
            self.open.append(request)

    def _placed(self, connection: sqlite3.Connection, request: NewRequest) -> str:
        try:
            if request.kind == "video":
                tasks.place_task(connection, request, OWNER, task_of(request), request.created_at_ms, unlimited())
            else:
                ledger.place_hold(connection, request, OWNER, unlimited())
        except InsufficientFundsError as error:
            return str(error)
        return ""

    @rule(chance=st.integers(0, 1000), share=st.integers(0, 4), tokens=st.integers(0, 50), estimated=st.booleans())
    def settle(self, chance: int, share: int, tokens: int, estimated: bool) -> None:
        if not self.open:
            return
        request = self.open.pop(chance % len(self.open))
        source = UsageSource.ESTIMATED if estimated else UsageSource.REPORTED
        usage = TokenUsage(tokens * 2, tokens, cached_tokens=tokens, reasoning_tokens=tokens // 2)
        ending = settlement(request.hold_nanos * share // 4, usage=usage, usage_source=source, units=share, shortfall_nanos=tokens)
        for connection in (self.kept, self.folded):
            if request.kind == "video":
                tasks.advance(connection, request.id, submitted(f"cgt-{request.id}"), request.created_at_ms, None, unlimited())
                tasks.advance(connection, request.id, made(), request.created_at_ms, None, unlimited())
            else:
                answer = StoredAnswer(200, b"{}") if share else None
                ledger.settle(connection, request.id, ending, request.created_at_ms, answer, unlimited())

    @rule(days=st.integers(0, DAYS))
    def forget(self, days: int) -> None:
        for connection in (self.kept, self.folded):
            idempotency.forget(connection, BEGIN + days * DAY_MS + CLAIM_LIFE_MS)

    @rule(account_id=st.sampled_from(ACCOUNTS), days=st.integers(0, DAYS))
    def fold(self, account_id: int, days: int) -> None:
        before_ms = BEGIN + days * DAY_MS
        there = folding.old_requests(self.folded, before_ms).get(account_id, 0)
        assert folding.fold(self.folded, account_id, before_ms, UTC) == min(there, 3)

    @rule(account_id=st.sampled_from(ACCOUNTS))
    def credit(self, account_id: int) -> None:
        self.serial += 1
        for connection in (self.kept, self.folded):
            ledger.book(connection, account_id, Nanos(100), "", NOW_MS, reference(str(self.serial)))

    @rule(chance=st.integers(0, 1000), amount=st.integers(1, 40), is_folded=st.booleans())
    def refund(self, chance: int, amount: int, is_folded: bool) -> None:
        charged = (
            "SELECT request_id FROM transfers WHERE kind = 'charge' AND (request_id IN (SELECT id FROM requests)) <> ? ORDER BY id"
        )
        names = [name for (name,) in self.folded.execute(charged, (is_folded,))]
        if not names:
            return
        self.serial += 1
        name, given = names[chance % len(names)], (Nanos(amount), "", NOW_MS, reference(f"refund {self.serial}"))
        said = []
        for connection in (self.kept, self.folded):
            try:
                said.append(str(customers.refund_request(connection, name, *given)))
            except StoreRefusedError as error:
                said.append(str(error))
        assert said[0] == said[1]

    @invariant()
    def both_say_the_same(self) -> None:
        for query in QUERIES:
            folded, kept = reads.usage(self.folded, query, UTC), reads.usage(self.kept, query, UTC)
            assert _refunded(folded) == _refunded(kept)
            assert folded == kept if query.by == "day" else _without_refunds(folded) == _without_refunds(kept)
        assert ledger.accounts(self.folded) == ledger.accounts(self.kept)
        assert reads.open_requests(self.folded) == reads.open_requests(self.kept)
        transfers = "SELECT * FROM transfers ORDER BY id"
        assert self.folded.execute(transfers).fetchall() == self.kept.execute(transfers).fetchall()

    @invariant()
    def the_books_balance(self) -> None:
        for connection in (self.kept, self.folded):
            assert [check for check in verify(connection) if not check.holds] == []

    @invariant()
    def each_request_is_there_or_known_to_be_folded(self) -> None:
        for name, hold in self.kept.execute("SELECT id, hold_nanos FROM requests").fetchall():
            is_there = reads.receipt(self.folded, name) is not None
            known = folding.folded(self.folded, name, UTC)
            assert (known is not None) == (not is_there and hold > 0)


def _refunded(rows: list[UsageRow]) -> dict[str, int]:
    """Return what was given back by account."""
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.account] = sums.get(row.account, 0) + row.refunded_nanos
    return sums


def _without_refunds(rows: list[UsageRow]) -> list[UsageRow]:
    """Leave out what a refund of a folded request cannot know: its key and its model."""
    return [replace(row, refunded_nanos=Nanos(0)) for row in rows if row.requests]


def test_folded_books_say_what_kept_ones_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "FOLD_REQUESTS_MAX", 3)

    run_state_machine_as_test(Books, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))


def test_looking_for_what_is_old_is_a_look_into_an_index() -> None:
    with closing(new_books()) as connection:
        said: list[str] = []
        connection.set_trace_callback(said.append)
        folding.accounts_to_fold(connection, BEGIN)
        folding.fold(connection, 3, BEGIN, UTC)
        folding.folded(connection, "req", UTC)
        connection.set_trace_callback(None)
        plans = [row[3] for statement in said if "SELECT" in statement for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]

    scans = [
        step for step in plans if step.startswith("SCAN") and step not in ("SCAN accounts", "SCAN json_each VIRTUAL TABLE INDEX 1:")
    ]
    assert scans == []


async def test_a_file_of_version_three_is_folded_without_a_rewrite_of_its_ledger(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for script in migrations.scripts()[:3]:
            connection.executescript(script)
        connection.executescript(f"PRAGMA user_version = 3; BEGIN;{OLD_BOOKS};COMMIT;")
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'transfers'").fetchone()

    store = await open_store(path)

    assert await store.fold_requests(3, BEGIN + DAY_MS - 8 * 3_600_000) == 1
    assert await store.settle("open", settlement(20), NOW_MS) is Settled.NOW
    await assert_books_balance(store)
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'transfers'").fetchone() == page
        parents = {row[2] for row in connection.execute("PRAGMA foreign_key_list(transfers)")}
        assert parents == {"accounts"}
