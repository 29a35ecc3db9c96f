"""Holds and settlements of one batch: few statements, and exactly the rows that single operations would write."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.days import CHINA
from proxy.store.errors import InsufficientFundsError
from proxy.store.sqlite import admin, ledger
from proxy.store.sqlite.batch import ROWS_MAX, OpenHolds
from proxy.store.sqlite.file import migrations
from proxy.store.sqlite.spending import Spending
from proxy.store.sqlite.verify import verify
from proxy.store.sqlite.writer import _Operation, transact
from proxy.store.values import IdempotencyClaim, Settled
from tests.support.store import NOW_MS, OWNER, new_request, settlement, unlimited

BALANCE = 1000
TABLES = ("accounts", "requests", "transfers", "idempotency")


def new_books() -> sqlite3.Connection:
    """Return a store in memory with three accounts of `BALANCE` each, with ids 3, 4 and 5."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(connection, 0)
    for name in ("alice", "bob", "carol"):
        admin.create_account(connection, name, cast("Any", BALANCE), NOW_MS)
    return connection


@pytest.fixture
def books() -> Iterator[sqlite3.Connection]:
    with closing(new_books()) as connection:
        yield connection


def holds_of(connection: sqlite3.Connection) -> OpenHolds:
    """Return the open holds of a process that has just opened the books."""
    return OpenHolds(OWNER, Spending.opened(connection, CHINA))


def operation(function: Callable[..., Any], *args: Any) -> _Operation:
    return _Operation(cast("Any", None), function, args)


def hold(name: str, amount: int, account_id: int = 3, **fields: Any) -> _Operation:
    return operation(ledger.place_hold, new_request(name, account_id=account_id, hold_nanos=amount, **fields), OWNER, unlimited())


def settle(name: str, charge: int, now_ms: int = NOW_MS) -> _Operation:
    return operation(ledger.settle, name, settlement(charge), now_ms, None, unlimited())


def outcome(done: _Operation) -> object:
    return done.result if done.error is None else type(done.error)


def rows(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    return {table: connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in TABLES}


def assert_balanced(connection: sqlite3.Connection) -> None:
    assert [check for check in verify(connection) if check.offenders] == []


def test_a_crowd_takes_as_many_statements_as_a_few(books: sqlite3.Connection) -> None:
    open_holds = holds_of(books)
    said: list[str] = []
    assert transact(books, [hold(f"req_{n}", 1) for n in range(ROWS_MAX)], open_holds) is None
    books.set_trace_callback(said.append)

    batch = [settle(f"req_{n}", 1) for n in range(ROWS_MAX)] + [hold(f"req_a{n}", 1, 3 + n % 3) for n in range(ROWS_MAX)]
    assert transact(books, batch, open_holds) is None

    books.set_trace_callback(None)
    verbs = [statement.split(None, 2)[:2] for statement in said if not statement.startswith("--")]
    # the transfers of holds and settlements need more than one statement each
    assert len(verbs) == 8, verbs
    assert [done.result for done in batch] == [Settled.NOW] * ROWS_MAX + [None] * ROWS_MAX
    assert len(open_holds) == ROWS_MAX
    assert_balanced(books)


def test_money_that_a_settlement_releases_is_there_for_a_hold_of_its_batch(books: sqlite3.Connection) -> None:
    open_holds = holds_of(books)
    transact(books, [hold("req_1", 900)], open_holds)
    batch = [hold("req_2", 800), settle("req_1", 100)]

    transact(books, batch, open_holds)

    assert [outcome(done) for done in batch] == [None, Settled.NOW]
    assert_balanced(books)


def test_too_little_money_refuses_the_later_ones_alone(books: sqlite3.Connection) -> None:
    batch = [hold(f"req_{n}", 300) for n in range(5)]

    transact(books, batch, holds_of(books))

    assert [outcome(done) for done in batch] == [None] * 3 + [InsufficientFundsError] * 2
    assert_balanced(books)


def test_a_row_that_contradicts_the_schema_spoils_nobody_elses(books: sqlite3.Connection) -> None:
    batch = [hold("req_1", 1), hold("req_1", 1), hold("req_2", 1, key_id="key_of_nobody"), hold("req_3", 1)]
    open_holds = holds_of(books)

    assert transact(books, batch, open_holds) is None

    assert [outcome(done) for done in batch] == [None, ValueError, ValueError, None]
    assert_balanced(books)


def test_a_hold_that_is_abandoned_in_its_own_batch_leaves_nothing_behind(books: sqlite3.Connection) -> None:
    open_holds = holds_of(books)
    batch = [hold("req_1", 10), settle("req_1", 0)]

    transact(books, batch, open_holds)
    again = settle("req_1", 5)
    transact(books, [again], open_holds)

    assert [outcome(done) for done in (*batch, again)] == [None, Settled.NOW, Settled.OTHERWISE]
    assert len(open_holds) == 0
    assert_balanced(books)


def test_a_request_that_another_process_left_is_settled_too(books: sqlite3.Connection) -> None:
    transact(books, [hold("req_1", 10)], holds_of(books))
    batch = [settle("req_1", 4), settle("req_1", 3), settle("req_none", 1)]

    transact(books, batch, holds_of(books))

    assert [outcome(done) for done in batch] == [Settled.NOW, Settled.OTHERWISE, KeyError]
    assert_balanced(books)


NAMES = st.integers(0, 11).map("req_{}".format)
HOLDS = st.builds(
    lambda name, account, amount, claimed: ("hold", name, account, amount, claimed),
    NAMES,
    st.integers(3, 5),
    st.sampled_from([0, 1, 7, 400, 1001, -1]),
    st.booleans() | st.just(False),
)
SETTLEMENTS = st.builds(lambda name, charge: ("settle", name, charge), NAMES, st.sampled_from([0, 1, 7, 500]))


def made(what: tuple[Any, ...], at_ms: int) -> _Operation:
    if what[0] == "settle":
        return settle(what[1], what[2], at_ms)
    _, name, account_id, amount, is_claimed = what
    claim = IdempotencyClaim(name, bytes(32)) if is_claimed else None
    return hold(name, amount, account_id, claim=claim, created_at_ms=at_ms)


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(st.lists(HOLDS | SETTLEMENTS, min_size=1, max_size=12), min_size=1, max_size=5))
def test_whatever_is_asked_together_the_books_balance_and_nobody_gets_more_than_alone(batches: list[list[tuple[Any, ...]]]) -> None:
    with closing(new_books()) as books:
        open_holds = holds_of(books)
        for number, batch in enumerate(batches):
            operations = [made(what, NOW_MS + number) for what in batch]
            assert transact(books, operations, open_holds) is None
            settled = [done.args[0] for done in operations if done.function is ledger.settle and done.result is Settled.NOW]

            assert len(set(settled)) == len(settled)
            assert_balanced(books)
        unsettled = {name for (name,) in books.execute("SELECT id FROM requests WHERE settled_at_ms IS NULL AND NOT claimed")}
    assert set(open_holds._holds) <= unsettled


@settings(max_examples=100, deadline=None)
@given(batches=st.lists(st.lists(NAMES, min_size=1, max_size=12, unique=True), min_size=1, max_size=6))
def test_a_batch_writes_what_its_operations_would_have_written_alone(batches: list[list[str]]) -> None:
    """Each name is held at its first appearance and settled at the next, so order within a batch does not matter."""
    seen: set[str] = set()
    with closing(new_books()) as together, closing(new_books()) as alone:
        open_holds = holds_of(together)
        for number, names in enumerate(batches):
            asked = [("settle", name, 3) if name in seen else ("hold", name, 3 + len(name) % 3, 5, False) for name in names]
            asked.sort(key=lambda what: what[0] == "settle")  # a batch runs holds first
            seen.update(names)
            transact(together, [made(what, NOW_MS + number) for what in asked], open_holds)
            for what in asked:
                transact(alone, [made(what, NOW_MS + number)], holds_of(alone))

        assert rows(together) == rows(alone)


def test_a_hold_that_what_is_held_already_leaves_no_room_for_is_refused_without_a_second_try(books: sqlite3.Connection) -> None:
    open_holds = holds_of(books)
    said: list[str] = []
    assert transact(books, [hold("req_first", 900)], open_holds) is None
    books.set_trace_callback(said.append)

    batch = [hold("req_large", 200), hold("req_small", 50)]
    assert transact(books, batch, open_holds) is None

    books.set_trace_callback(None)
    assert [outcome(done) for done in batch] == [InsufficientFundsError, None]
    assert "ROLLBACK" not in said, "the batch was written, refused by the schema, and begun anew"
    assert_balanced(books)


def test_holds_of_one_batch_leave_each_other_what_is_left_without_a_second_try(books: sqlite3.Connection) -> None:
    said: list[str] = []
    books.set_trace_callback(said.append)

    batch = [hold("req_1", 600), hold("req_2", 600), hold("req_3", 400)]
    assert transact(books, batch, holds_of(books)) is None

    books.set_trace_callback(None)
    assert [outcome(done) for done in batch] == [None, InsufficientFundsError, None]
    assert "ROLLBACK" not in said
    assert_balanced(books)


def test_what_costs_nothing_and_what_holds_nothing_is_written_with_the_others(books: sqlite3.Connection) -> None:
    open_holds = holds_of(books)
    assert transact(books, [hold("req_free", 100), hold("req_of_nothing", 0), hold("req_paid", 100)], open_holds) is None
    assert len(open_holds) == 3
    said: list[str] = []
    books.set_trace_callback(said.append)

    batch = [settle("req_free", 0), settle("req_of_nothing", 0), settle("req_paid", 60)]
    assert transact(books, batch, open_holds) is None

    books.set_trace_callback(None)
    assert [done.result for done in batch] == [Settled.NOW] * 3
    assert not [statement for statement in said if statement.startswith(("ROLLBACK", "SAVEPOINT"))]
    kinds = books.execute("SELECT kind, amount_nanos FROM transfers WHERE request_id IS NOT NULL ORDER BY id").fetchall()
    assert kinds == [("hold", 100), ("hold", 100), ("release", 100), ("charge", 60)]
    assert_balanced(books)


@pytest.mark.parametrize("amount", [0, 1])
def test_a_hold_for_nobody_is_refused_without_a_second_try_of_the_others(books: sqlite3.Connection, amount: int) -> None:
    said: list[str] = []
    books.set_trace_callback(said.append)

    batch = [hold("req_nobodys", amount, account_id=99), hold("req_alices", 10)]
    assert transact(books, batch, holds_of(books)) is None

    books.set_trace_callback(None)
    assert batch[0].error is not None
    assert outcome(batch[1]) is None
    assert "ROLLBACK" not in said
    assert_balanced(books)


@pytest.mark.parametrize("accounts", [ROWS_MAX - 1, ROWS_MAX, ROWS_MAX + 1, 2 * ROWS_MAX + 1])
def test_a_batch_may_be_of_any_number_of_accounts(books: sqlite3.Connection, accounts: int) -> None:
    ids = [admin.create_account(books, f"customer-{number}", cast("Any", BALANCE), NOW_MS).id for number in range(accounts)]

    said: list[str] = []
    books.set_trace_callback(said.append)

    batch = [hold(f"req_{account_id}", 7, account_id) for account_id in ids]
    assert transact(books, batch, holds_of(books)) is None

    books.set_trace_callback(None)
    assert "ROLLBACK" not in said
    assert [outcome(done) for done in batch] == [None] * accounts
    assert [ledger.account_by_id(books, account_id).held_nanos for account_id in ids] == [7] * accounts
    assert_balanced(books)
