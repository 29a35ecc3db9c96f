"""The audit of accounts, requests and transfers: each check is tested with the fault that it is made for, in each engine."""

import pytest

from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS
from proxy.store.audit.invariant import OFFENDERS_MAX
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, settlement
from tests.unit.store.audit.conftest import GUARDS, Books


@pytest.fixture
async def books(empty: Books) -> Books:
    """Return books: alice (id 3) has 1,000; `charged` took 30 of 100, `released` 0 of 100, `open` holds 100; bob (4) has 0."""
    store = empty.store
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.create_account("bob", Nanos(0), NOW_MS)
    for request_id in ("charged", "released", "open"):
        await store.place_hold(new_request(request_id, account_id=alice.id, hold_nanos=100))
    await store.settle("charged", settlement(30), NOW_MS)
    await store.settle("released", settlement(0), NOW_MS)
    return empty


@pytest.mark.parametrize(
    ("script", "check", "offender"),
    [
        (
            "UPDATE accounts SET balance_nanos = 971 WHERE id = 3",
            "transfers sum to zero",
            "customers' balances, revenue and cash differ by 1 nano-yuan",
        ),
        (
            "UPDATE accounts SET balance_nanos = 971 WHERE id = 3",
            "balance = credits - debits",
            "account alice: balance 971, its transfers say 970",
        ),
        (
            "DELETE FROM transfers WHERE kind = 'credit'",
            "balance = credits - debits",
            "account alice: balance 970, its transfers say -30",
        ),
        (
            "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('credit', 1, 4, 5, 0)",
            "balance = credits - debits",
            "account bob: balance 0, its transfers say 5",
        ),
        (
            "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('refund', 3, 1, 5, 0)",
            "each credit and refund has one reference",
            "refund 7 of 5: it has no reference",
        ),
        (
            "DELETE FROM transfers WHERE kind = 'credit'",
            "each credit and refund has one reference",
            "reference opening alice: 1000 for account 3, its transfer says nothing",
        ),
        (
            "UPDATE payments SET amount_nanos = 999 WHERE account_id = 3",
            "each credit and refund has one reference",
            "reference opening alice: 999 for account 3, its transfer says 1000 for account 3",
        ),
        (
            "UPDATE payments SET account_id = 4 WHERE account_id = 3",
            "each credit and refund has one reference",
            "reference opening alice: 1000 for account 4, its transfer says 1000 for account 3",
        ),
        (
            "UPDATE payments SET transfer_id = (SELECT id FROM transfers WHERE kind = 'charge') WHERE account_id = 3",
            "each credit and refund has one reference",
            "reference opening alice: 1000 for account 3, its transfer says nothing",
        ),
        (
            "UPDATE payments SET amount_nanos = 5 WHERE account_id = 4",
            "each credit and refund has one reference",
            "reference opening bob: 5 for account 4, its transfer says nothing",
        ),
        (
            """CREATE TABLE copied AS SELECT * FROM payments; DROP TABLE payments; INSERT INTO copied SELECT * FROM copied;
               ALTER TABLE copied RENAME TO payments""",
            "each credit and refund has one reference",
            "reference opening alice: it stands for 2 payments",
        ),
        (
            "UPDATE accounts SET held_nanos = 99 WHERE id = 3",
            "held = sum of open holds",
            "account alice: held 99, its open holds say 100",
        ),
        (
            "UPDATE accounts SET balance_nanos = -1 WHERE id = 4",
            "available is never negative",
            "account bob: balance -1, held 0",
        ),
        (
            "DELETE FROM transfers WHERE request_id = 'open'",
            "each request has its hold",
            "request open: hold 100, its transfer says nothing",
        ),
        (
            "UPDATE transfers SET debit_id = 4 WHERE request_id = 'open'",
            "each request has its hold",
            "request open: hold 100, its transfer says 100 from account 4",
        ),
        (
            "UPDATE requests SET hold_nanos = 101 WHERE id = 'open'",
            "each request has its hold",
            "request open: hold 101, its transfer says 100 from account 3",
        ),
        (
            "DELETE FROM transfers WHERE kind = 'charge'",
            "each settled request has one charge or release",
            "request charged: charge 30, its transfer says nothing",
        ),
        (
            "UPDATE transfers SET amount_nanos = 29 WHERE kind = 'charge'",
            "each settled request has one charge or release",
            "request charged: charge 30, its transfer says charge of 29",
        ),
        (
            "UPDATE transfers SET kind = 'charge' WHERE kind = 'release'",
            "each settled request has one charge or release",
            "request released: charge 0, its transfer says charge of 100",
        ),
        (
            "UPDATE transfers SET amount_nanos = 101 WHERE kind = 'charge'",
            "no charge is above its hold",
            "request charged: charge 101, hold 100",
        ),
        (
            "DELETE FROM transfers WHERE kind = 'hold' AND request_id = 'charged'",
            "no charge is above its hold",
            "request charged: charge 30, hold none",
        ),
        (
            "DELETE FROM requests WHERE id = 'open'",
            "no open hold without a live request or task",
            "hold of request open, 100: the request is missing",
        ),
        (
            "DELETE FROM transfers WHERE kind = 'charge'",
            "no open hold without a live request or task",
            "hold of request charged, 100: the request is settled",
        ),
        (
            "UPDATE requests SET settled_at_ms = NULL, outcome = NULL, usage_source = NULL, charge_nanos = NULL WHERE id = 'charged'",
            "no finished request without its settlement",
            "request charged: charge of 30, but not settled",
        ),
        (
            "DELETE FROM requests WHERE id = 'charged'; DELETE FROM transfers WHERE kind = 'hold' AND request_id = 'charged'",
            "no charge without a request",
            "charge 5 of 30 from account 3: request charged is missing",
        ),
        (
            "UPDATE requests SET account_id = 4 WHERE id = 'charged'",
            "no charge without a request",
            "charge 5 of 30 from account 3: request charged is of account 4",
        ),
        (
            "DELETE FROM requests WHERE id = 'charged'",
            "what was folded is in the daily sums",
            (
                "account 3, 2025-11-25: the daily sums say 0 holds of 0 and 0 charges of 0, "
                "transfers without a request 1 of 100 and 1 of 30"
            ),
        ),
    ],
)
async def test_tampering_is_found_and_named(books: Books, script: str, check: str, offender: str) -> None:
    await assert_books_balance(books.store)

    await books.tamper(script)

    assert offender in (await books.offenders())[check]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "UPDATE request_days SET charge_nanos = 29",
            "2 holds of 200 and 1 charges of 29, transfers without a request 2 of 200 and 1 of 30",
        ),
        ("UPDATE request_days SET holds = 1", "1 holds of 200 and 1 charges of 30, transfers without a request 2 of 200 and 1 of 30"),
        ("UPDATE request_days SET charges = 2", "2 holds of 200 and 2 charges of 30, transfers without a request 2 of 200 and 1 of 30"),
        (
            "UPDATE request_days SET hold_nanos = 201",
            "2 holds of 201 and 1 charges of 30, transfers without a request 2 of 200 and 1 of 30",
        ),
        ("DELETE FROM request_days", "0 holds of 0 and 0 charges of 0, transfers without a request 2 of 200 and 1 of 30"),
        (
            "UPDATE transfers SET amount_nanos = 29 WHERE kind = 'charge'",
            "2 holds of 200 and 1 charges of 30, transfers without a request 2 of 200 and 1 of 29",
        ),
        (
            "DELETE FROM transfers WHERE request_id = 'charged'",
            "2 holds of 200 and 1 charges of 30, transfers without a request 1 of 100 and 0 of 0",
        ),
        (
            "UPDATE transfers SET kind = 'release' WHERE kind = 'charge'",
            "2 holds of 200 and 1 charges of 30, transfers without a request 2 of 200 and 0 of 0",
        ),
    ],
)
async def test_a_daily_sum_is_held_against_the_ledger(books: Books, script: str, said: str) -> None:
    assert await books.store.fold_requests(3, NOW_MS + DAY_MS) == 2
    await assert_books_balance(books.store)

    await books.tamper(script)

    found = await books.offenders()
    assert found["what was folded is in the daily sums"] == [f"account 3, 2025-11-25: the daily sums say {said}"]


async def test_a_charge_of_somebody_elses_folded_request_is_found(books: Books) -> None:
    await books.store.fold_requests(3, NOW_MS + DAY_MS)

    await books.tamper("UPDATE transfers SET debit_id = 4 WHERE kind = 'charge'")

    assert (await books.offenders())["no charge without a request"] == [
        "charge 5 of 30 from account 4: request charged is of account 3"
    ]


@pytest.mark.parametrize("kind", ["charge", "release", "hold"])
async def test_a_second_charge_of_a_request_cannot_even_be_written(books: Books, kind: str) -> None:
    with pytest.raises(GUARDS):
        await books.write(
            "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)"
            f" VALUES ('{kind}', 3, 2, 1, 'charged', 0)"
        )

    await assert_books_balance(books.store)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfers SET amount_nanos = 1",
        "DELETE FROM transfers",
    ],
)
async def test_transfers_are_append_only(books: Books, statement: str) -> None:
    with pytest.raises(GUARDS, match="append-only"):
        await books.write(statement)

    await assert_books_balance(books.store)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts SET balance_nanos = held_nanos - 1 WHERE id = 3",
        "UPDATE accounts SET held_nanos = -1 WHERE id = 3",
        "UPDATE accounts SET balance_nanos = 1 WHERE id = 1",
        "UPDATE accounts SET balance_nanos = 'much' WHERE id = 3",
        "UPDATE requests SET charge_nanos = 101 WHERE id = 'charged'",
        "UPDATE requests SET settled_at_ms = 1 WHERE id = 'open'",
        "DELETE FROM requests WHERE id = 'charged'",
        "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('credit', 1, 3, 0, 0)",
        "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('credit', 3, 4, 1, 0)",
        "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('charge', 3, 2, 1, 0)",
    ],
)
async def test_the_database_itself_refuses_what_would_break_the_books(books: Books, statement: str) -> None:
    with pytest.raises(GUARDS):
        await books.write(statement)

    await assert_books_balance(books.store)


@pytest.mark.parametrize(
    ("script", "check", "offender"),
    [
        (
            "UPDATE accounts SET held_nanos = 971 WHERE id = 3",
            "available is never negative",
            "account alice: balance 970, held 971",
        ),
        (
            "UPDATE accounts SET held_nanos = 99 WHERE id = 3",
            "held = sum of open holds",
            "account alice: held 99, its open requests say 100",
        ),
        (
            "DELETE FROM transfers WHERE request_id = 'open'",
            "each open request has its hold, and no end",
            "request open: hold 100, its transfers say nothing",
        ),
        (
            """INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
               VALUES ('release', 3, 2, 100, 'open', 0)""",
            "each open request has its hold, and no end",
            "request open: hold 100, its transfers say 100 and release",
        ),
        (
            "UPDATE requests SET kind = 'video' WHERE id = 'open'",
            "each open video has a task that goes on",
            "video open: its task has never been",
        ),
    ],
)
async def test_a_start_finds_what_is_wrong_with_what_is_open(books: Books, script: str, check: str, offender: str) -> None:
    assert all(one.holds for one in await books.store.verify_open())

    await books.tamper(script)

    assert offender in (await books.offenders_of_open())[check]


async def test_a_long_list_of_offenders_is_cut_and_counted(books: Books) -> None:
    for n in range(OFFENDERS_MAX + 5):
        await books.store.create_account(f"account {n}", Nanos(0), NOW_MS)

    await books.tamper("UPDATE accounts SET held_nanos = 1 WHERE name LIKE 'account %'")

    shown = (await books.offenders())["held = sum of open holds"]
    assert len(shown) == OFFENDERS_MAX + 1
    assert shown[-1] == "and 5 more"
