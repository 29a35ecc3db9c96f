"""The audit of what money limits count, of all requests and of open ones, in each engine."""

import pytest

from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, pay, settlement
from tests.unit.store.audit.conftest import Books

ALL = "what money limits count is what the books say"
OPEN = "what money limits hold is held by open requests"


@pytest.fixture
async def books(empty: Books) -> Books:
    """Return books: alice may spend 500 a day; `folded` was 5 the day before, `paid` 7 of today, and `open` holds 100."""
    store = empty.store
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.set_account_limits("alice", LimitsChange(day_nanos=Nanos(500)), NOW_MS)
    await pay(store, new_request("folded", account_id=alice.id, created_at_ms=NOW_MS - 1), settlement(5))
    assert await store.fold_requests(alice.id, NOW_MS) == 1
    await pay(store, new_request("paid", account_id=alice.id), settlement(7))
    await store.place_hold(new_request("open", account_id=alice.id))
    await assert_books_balance(store)
    assert all(one.holds for one in await store.verify_open())
    return empty


@pytest.mark.parametrize(
    ("script", "check", "said"),
    [
        ("UPDATE spend SET spent_nanos = 8 WHERE held_nanos > 0", ALL, "8 spent and 100 held, the books say 7 and 100"),
        ("UPDATE spend SET spent_nanos = 6 WHERE held_nanos = 0", ALL, "6 spent and 0 held, the books say 5 and 0"),
        ("DELETE FROM spend WHERE held_nanos > 0", ALL, "0 spent and 0 held, the books say 7 and 100"),
        ("DELETE FROM limits", ALL, "7 spent and 100 held, the books say 0 and 0"),
        ("UPDATE spend SET held_nanos = 0", OPEN, "held 0, its open requests say 100"),
        ("UPDATE spend SET held_nanos = 1 WHERE held_nanos = 0", OPEN, "held 1, its open requests say 0"),
        ("UPDATE spend SET day = day + 1 WHERE held_nanos > 0", OPEN, "held 100, its open requests say 0"),
    ],
)
async def test_what_a_limit_counts_is_held_against_the_books(books: Books, script: str, check: str, said: str) -> None:
    await books.tamper(script)

    found = await books.offenders() | await books.offenders_of_open()
    assert any(offender.endswith(said) for offender in found[check]), found


async def test_a_fault_of_a_day_that_is_long_over_is_found_by_the_whole_audit(books: Books) -> None:
    await books.tamper(f"UPDATE spend SET day = day - 30, held_nanos = 1 WHERE held_nanos = 0 AND day < {NOW_MS // DAY_MS + 1}")

    assert len((await books.offenders())[ALL]) == 2  # the day that it was moved from, and the one that it was moved to
