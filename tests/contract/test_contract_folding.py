"""Folding of old requests into daily sums: queries before and after, and requests that are never folded."""

import pytest

from proxy.core.catalog import Kind
from proxy.core.days import CHINA
from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS, FoldedRequest
from proxy.core.settlement import TokenUsage, UsageSource
from proxy.store.contract import FOLD_REQUESTS_MAX, Store
from proxy.store.values import Account, Settled, StoredAnswer, UsageQuery
from tests.contract.conftest import Open
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, made, new_claim, new_key, new_request, new_video, pay, reference, settlement, submitted, task_of

DAY_1 = CHINA.begins_ms(CHINA.day(NOW_MS))
"""The beginning of a day; `DAY_3` is two whole days later."""
DAY_2, DAY_3, DAY_4 = (DAY_1 + n * DAY_MS for n in (1, 2, 3))
QUERIES = [
    UsageQuery(by, account, since_ms, until_ms)
    for by in ("model", "key", "day")
    for account in (None, "alice")
    for since_ms in (None, DAY_1, DAY_2)
    for until_ms in (None, DAY_2, DAY_3)
]


async def said(store: Store) -> list[object]:
    """Return the sums of every query by whole days."""
    return [await store.usage(query) for query in QUERIES]


async def refunded(store: Store, query: UsageQuery) -> dict[str, int]:
    return {row.group: row.refunded_nanos for row in await store.usage(query)}


async def fold_all(store: Store, account: Account, before_ms: int) -> int:
    total = 0
    while folded := await store.fold_requests(account.id, before_ms):
        total += folded
    return total


async def two_days(store: Store, alice: Account) -> None:
    """Make seven requests of alice's on two days and one on the third: two models, with and without key, one estimated, one free."""
    await store.create_key("alice", new_key())
    usage = TokenUsage(10, 3, cached_tokens=4, reasoning_tokens=2)
    for n, (at_ms, model, key_id, charge) in enumerate(
        [(DAY_1, "lite", "", 1), (DAY_1 + 5, "lite", "key_1", 2), (DAY_2 - 1, "lite", "", 4), (DAY_2, "pro", "key_1", 8)]
    ):
        await pay(
            store,
            new_request(f"req_{n}", account_id=alice.id, model=model, key_id=key_id, created_at_ms=at_ms),
            settlement(charge, usage=usage, shortfall_nanos=n),
        )
    await pay(store, new_request("zero", account_id=alice.id, hold_nanos=0, created_at_ms=DAY_2), settlement(0, usage=usage))
    await pay(store, new_request("released", account_id=alice.id, created_at_ms=DAY_2), settlement(0))
    estimate = settlement(16, usage_source=UsageSource.ESTIMATED, units=3)
    await pay(store, new_request("picture", account_id=alice.id, kind=Kind.IMAGE, created_at_ms=DAY_2), estimate)
    await pay(store, new_request("kept", account_id=alice.id, created_at_ms=DAY_3), settlement(32))


async def test_folding_changes_no_sum_and_no_balance(store: Store, alice: Account) -> None:
    await two_days(store, alice)
    sums, account = await said(store), await store.account("alice")

    assert await store.old_requests(DAY_3) == {alice.id: 7}
    assert await store.accounts_to_fold(DAY_3) == [alice.id]
    assert await store.fold_requests(alice.id, DAY_3) == 7
    assert await store.fold_requests(alice.id, DAY_3) == 0

    assert await said(store) == sums
    assert await store.account("alice") == account
    assert (await store.old_requests(DAY_3), await store.accounts_to_fold(DAY_3)) == ({}, [])
    assert await store.receipt("kept") is not None
    await assert_books_balance(store)


async def test_what_was_given_back_is_in_the_sums_before_folding_and_after(store: Store, alice: Account) -> None:
    """Worked out by hand: of req_1 (model lite, day 1, charge 2) 1 and 1, of req_3 (pro, day 2, charge 8) 5, 1 of it after folding."""
    await two_days(store, alice)
    for number, (request_id, amount) in enumerate((("req_1", 1), ("req_1", 1), ("req_3", 4))):
        await store.refund_request(request_id, Nanos(amount), "", DAY_4, reference(f"r-{number}"))
    sums = await said(store)
    by_model = await refunded(store, UsageQuery("model"))
    assert by_model == {"doubao-pro-32k": 0, "lite": 2, "pro": 4}
    assert await refunded(store, UsageQuery("key")) == {"": 0, "key_1": 6}
    assert await refunded(store, UsageQuery("day", None, DAY_1, DAY_2)) == {"2025-11-25": 2}

    await fold_all(store, alice, DAY_3)

    assert await said(store) == sums
    await store.refund_request("req_3", Nanos(1), "", DAY_4, reference("late"))
    await store.refund_request("kept", Nanos(3), "", DAY_4, reference("kept"))  # not folded
    assert await refunded(store, UsageQuery("day")) == {"2025-11-25": 2, "2025-11-26": 5, "2025-11-27": 3}
    assert await refunded(store, UsageQuery("day", "alice", DAY_2, DAY_3)) == {"2025-11-26": 5}
    assert await refunded(store, UsageQuery("model")) == by_model | {"doubao-pro-32k": 3, "": 1}
    assert await refunded(store, UsageQuery("key")) == {"": 4, "key_1": 6}  # without a key: 3, and 1 whose key is not known any more
    (unnamed,) = [row for row in await store.usage(UsageQuery("model")) if not row.group]
    assert (unnamed.requests, unnamed.charge_nanos, unnamed.refunded_nanos) == (0, 0, 1)
    await assert_books_balance(store)


async def test_a_refund_of_one_account_is_in_no_other_ones_sums(store: Store, alice: Account) -> None:
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    for account in (alice, bob):
        await pay(store, new_request(f"req_{account.name}", account_id=account.id, created_at_ms=DAY_1), settlement(7))
    await store.refund_request("req_bob", Nanos(2), "", DAY_4, reference("before"))
    await fold_all(store, bob, DAY_3)
    await store.refund_request("req_bob", Nanos(3), "", DAY_4, reference("after"))

    rows = await store.usage(UsageQuery("day"))

    assert [(row.account, row.charge_nanos, row.refunded_nanos) for row in rows] == [("alice", 7, 0), ("bob", 7, 5)]
    assert [row.refunded_nanos for row in await store.usage(UsageQuery("day", "alice"))] == [0]
    await assert_books_balance(store)


async def test_a_day_may_be_folded_piece_by_piece(store: Store, alice: Account) -> None:
    for n in range(FOLD_REQUESTS_MAX + 3):
        await pay(store, new_request(f"req_{n}", account_id=alice.id, created_at_ms=DAY_1 + n), settlement(1))
    sums = await said(store)

    assert await store.fold_requests(alice.id, DAY_2) == FOLD_REQUESTS_MAX
    assert await said(store) == sums
    assert await store.fold_requests(alice.id, DAY_2) == 3

    assert await said(store) == sums
    await assert_books_balance(store)


async def test_only_the_accounts_own_requests_are_folded_and_only_older_ones(store: Store, alice: Account) -> None:
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    await two_days(store, alice)
    await pay(store, new_request("bobs", account_id=bob.id, created_at_ms=DAY_1), settlement(5))

    assert await store.old_requests(DAY_3) == {alice.id: 7, bob.id: 1}
    assert await store.fold_requests(alice.id, DAY_2) == 3

    assert await store.receipt("req_3") is not None
    assert await store.receipt("bobs") is not None
    assert await store.old_requests(DAY_3) == {alice.id: 4, bob.id: 1}
    await assert_books_balance(store)


async def test_a_day_that_goes_on_is_not_to_be_cut(store: Store, alice: Account) -> None:
    with pytest.raises(ValueError, match="whole"):
        await store.fold_requests(alice.id, DAY_2 + 1)


async def test_what_is_left_of_a_folded_request_is_what_the_ledger_says(store: Store, alice: Account) -> None:
    await two_days(store, alice)
    assert await store.folded("req_3") is None

    await fold_all(store, alice, DAY_3)

    assert await store.receipt("req_3") is None
    assert await store.folded("req_3") == FoldedRequest("req_3", alice.id, "alice", DAY_2, Nanos(100), Nanos(8))
    assert await store.folded("released") == FoldedRequest("released", alice.id, "alice", DAY_2, Nanos(100), Nanos(0))
    assert await store.folded("zero") is None  # it moved nothing
    assert await store.folded("kept") is None
    assert await store.folded("never-was") is None
    assert [await store.has_daily_sums(at_ms) for at_ms in (DAY_1 - 1, DAY_1, DAY_3 - 1, DAY_3)] == [False, True, True, False]


async def test_a_folded_request_can_be_neither_settled_nor_placed_again(store: Store, alice: Account) -> None:
    await two_days(store, alice)
    await fold_all(store, alice, DAY_3)
    account = await store.account("alice")

    with pytest.raises(KeyError):
        await store.settle("req_3", settlement(8), DAY_4)
    with pytest.raises(ValueError, match="req_3"):
        await store.place_hold(new_request("req_3", account_id=alice.id, created_at_ms=DAY_4))

    assert await store.account("alice") == account
    await assert_books_balance(store)


async def test_periods_that_cut_a_folded_day_add_up(store: Store, alice: Account) -> None:
    await two_days(store, alice)
    await fold_all(store, alice, DAY_3)
    noon = DAY_1 + DAY_MS // 2

    async def charged(since_ms: int | None, until_ms: int | None) -> int:
        return sum(row.charge_nanos for row in await store.usage(UsageQuery("day", None, since_ms, until_ms)))

    assert await charged(DAY_1, noon) == 7  # the whole first day counts at its beginning
    assert await charged(noon, DAY_3) == 24
    assert await charged(DAY_1 + 1, DAY_1 + 2) == 0
    assert await charged(None, noon) + await charged(noon, None) == await charged(None, None) == 63


async def test_an_open_request_is_never_folded(store: Store, alice: Account) -> None:
    await store.place_hold(new_request("open", account_id=alice.id, created_at_ms=DAY_1))

    assert await store.old_requests(DAY_4) == {}
    assert await store.fold_requests(alice.id, DAY_4) == 0

    assert await store.settle("open", settlement(7), DAY_4) is Settled.NOW
    assert await store.fold_requests(alice.id, DAY_4) == 1
    assert [(row.group, row.charge_nanos) for row in await store.usage(UsageQuery("day"))] == [("2025-11-25", 7)]
    await assert_books_balance(store)


async def test_a_request_is_kept_while_its_answer_is_owed_to_a_key(store: Store, alice: Account) -> None:
    await store.place_hold(new_request("keyed", account_id=alice.id, created_at_ms=DAY_1, claim=new_claim()))
    await store.settle("keyed", settlement(7), DAY_1, StoredAnswer(200, b"{}"))

    assert await store.fold_requests(alice.id, DAY_4) == 0

    await store.forget_claims(DAY_4)
    assert await store.fold_requests(alice.id, DAY_4) == 1
    await assert_books_balance(store)


async def test_a_video_goes_with_its_task_once_that_has_ended(store: Store, alice: Account) -> None:
    request = new_video(account_id=alice.id, created_at_ms=DAY_1)
    await store.place_task(request, task_of(request), DAY_1)
    assert await store.fold_requests(alice.id, DAY_4) == 0
    await store.advance_task("vreq_1", submitted(), DAY_1)
    assert await store.fold_requests(alice.id, DAY_4) == 0
    await store.advance_task("vreq_1", made(), DAY_1)
    sums = await said(store)

    assert await store.fold_requests(alice.id, DAY_4) == 1

    assert await said(store) == sums
    assert await store.task("vreq_1") is None
    assert await store.tasks(alice.id, 10, 0) == []
    assert await store.folded("vreq_1") == FoldedRequest("vreq_1", alice.id, "alice", DAY_1, Nanos(100), Nanos(100))
    await assert_books_balance(store)


async def test_sums_outlive_the_process(reopen: Open) -> None:
    store = await reopen()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await two_days(store, alice)
    sums = await said(store)
    await fold_all(store, alice, DAY_3)
    await store.close()

    again = await reopen()

    assert await said(again) == sums
    await assert_books_balance(again)
