"""Holds and their settlement, through the contract alone. Every test ends with an audit of the books."""

import asyncio

import pytest

from proxy.core.money import Nanos
from proxy.core.settlement import Outcome, TokenUsage
from proxy.store.contract import Store
from proxy.store.errors import AccountNotFoundError, InsufficientFundsError, StoreUnavailableError
from proxy.store.values import Account, OpenRequest, Settled
from tests.contract.conftest import Open
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, reference, settlement


async def balance_and_held(store: Store) -> tuple[int, int]:
    account = await store.account("alice")
    return account.balance_nanos, account.held_nanos


async def test_a_hold_is_taken_from_what_is_available_not_from_the_balance(store: Store, alice: Account) -> None:
    request = new_request(account_id=alice.id, hold_nanos=300)

    await store.place_hold(request)

    assert await balance_and_held(store) == (1000, 300)
    (held,) = await store.open_requests()
    assert held.owner
    assert held == OpenRequest("req_1", request.kind, alice.id, Nanos(300), NOW_MS, held.owner, request.key_id)
    await assert_books_balance(store)


async def test_a_settlement_charges_its_part_of_the_hold_and_releases_the_rest(store: Store, alice: Account) -> None:
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=300))

    assert await store.settle("req_1", settlement(120), NOW_MS + 5) is Settled.NOW

    assert await balance_and_held(store) == (880, 0)  # 1000 - 120
    assert await store.open_requests() == []
    await assert_books_balance(store)


@pytest.mark.parametrize(("charge", "balance"), [(0, 1000), (300, 700)])
async def test_a_hold_can_be_released_whole_or_charged_whole(store: Store, alice: Account, charge: int, balance: int) -> None:
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=300))

    await store.settle("req_1", settlement(charge), NOW_MS)

    assert await balance_and_held(store) == (balance, 0)
    await assert_books_balance(store)


async def test_a_request_is_settled_once_and_the_first_settlement_stands(store: Store, alice: Account) -> None:
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=300))
    first = settlement(120)

    answers = await asyncio.gather(store.settle("req_1", first, NOW_MS), store.settle("req_1", settlement(50), NOW_MS))
    late = await store.settle("req_1", settlement(120, outcome=Outcome.INTERRUPTED), NOW_MS + 9)
    again = await store.settle("req_1", first, NOW_MS + 10)

    assert [*answers, late, again] == [Settled.NOW, Settled.OTHERWISE, Settled.OTHERWISE, Settled.BEFORE]
    assert await balance_and_held(store) == (880, 0)
    found = await store.receipt("req_1")
    assert found is not None
    assert (found[0].settlement, found[0].settled_at_ms) == (first, NOW_MS)
    await assert_books_balance(store)


@pytest.mark.parametrize("charge", [301, -1, 2**80])
async def test_a_charge_above_the_hold_or_below_nothing_is_refused_and_the_hold_stays_open(
    store: Store, alice: Account, charge: int
) -> None:
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=300))

    with pytest.raises(ValueError, match=r"charge|settlement"):
        await store.settle("req_1", settlement(charge), NOW_MS)

    assert await balance_and_held(store) == (1000, 300)
    assert [request.id for request in await store.open_requests()] == ["req_1"]
    await assert_books_balance(store)


async def test_a_request_that_never_was_cannot_be_settled(store: Store, alice: Account) -> None:
    with pytest.raises(KeyError, match="req_9"):
        await store.settle("req_9", settlement(1), NOW_MS)

    assert await balance_and_held(store) == (1000, 0)
    await assert_books_balance(store)


async def test_an_account_can_be_held_to_the_last_nano_yuan_and_not_beyond(store: Store, alice: Account) -> None:
    await store.place_hold(new_request("req_1", account_id=alice.id, hold_nanos=1000))

    with pytest.raises(InsufficientFundsError, match="alice") as refused:
        await store.place_hold(new_request("req_2", account_id=alice.id, hold_nanos=1))

    assert await balance_and_held(store) == (1000, 1000)
    assert (refused.value.available_nanos, refused.value.needed_nanos) == (0, 1)
    assert await store.receipt("req_2") is None
    await assert_books_balance(store)


async def test_a_hold_beyond_64_bits_is_too_much_like_any_other(store: Store, alice: Account) -> None:
    with pytest.raises(InsufficientFundsError):
        await store.place_hold(new_request(account_id=alice.id, hold_nanos=10**30))

    assert await balance_and_held(store) == (1000, 0)
    await assert_books_balance(store)


async def test_a_request_that_costs_nothing_needs_no_money(store: Store) -> None:
    poor = await store.create_account("alice", Nanos(0), NOW_MS)

    await store.place_hold(new_request(account_id=poor.id, hold_nanos=0))
    settled = await store.settle("req_1", settlement(0), NOW_MS)

    assert settled is Settled.NOW
    assert await balance_and_held(store) == (0, 0)
    await assert_books_balance(store)


async def test_neither_an_unknown_account_nor_the_system_can_be_held(store: Store, alice: Account) -> None:
    for account_id in (1, 2, 999):
        with pytest.raises(AccountNotFoundError):
            await store.place_hold(new_request(account_id=account_id, hold_nanos=0))

    assert await store.open_requests() == []
    await assert_books_balance(store)


@pytest.mark.parametrize(("request_id", "hold", "key_id"), [("req_1", 5, ""), ("req_2", -5, ""), ("req_3", 5, "key_unknown")])
async def test_a_request_that_contradicts_the_books_changes_nothing(
    store: Store, alice: Account, request_id: str, hold: int, key_id: str
) -> None:
    await store.place_hold(new_request("req_1", account_id=alice.id, hold_nanos=300))

    with pytest.raises(ValueError, match=r"hold|request"):
        await store.place_hold(new_request(request_id, account_id=alice.id, hold_nanos=hold, key_id=key_id))

    assert await balance_and_held(store) == (1000, 300)
    await assert_books_balance(store)


async def test_two_hundred_at_once_cannot_overdraw_a_balance_for_thirty_seven(store: Store) -> None:
    account = await store.create_account("alice", Nanos(37 * 10 + 9), NOW_MS)
    requests = [new_request(f"req_{number}", account_id=account.id, hold_nanos=10) for number in range(200)]

    answers = await asyncio.gather(*map(store.place_hold, requests), return_exceptions=True)

    assert [answer is None for answer in answers] == [True] * 37 + [False] * 163
    assert {type(answer) for answer in answers[37:]} == {InsufficientFundsError}
    assert await balance_and_held(store) == (379, 370)
    await assert_books_balance(store)


async def test_a_refusal_in_the_midst_of_others_is_its_own_only(store: Store, alice: Account) -> None:
    await store.place_hold(new_request("req_0", account_id=alice.id, hold_nanos=100))

    answers = await asyncio.gather(
        store.place_hold(new_request("req_1", account_id=alice.id, hold_nanos=200)),
        store.place_hold(new_request("req_1", account_id=alice.id, hold_nanos=200)),
        store.settle("req_0", settlement(101), NOW_MS),
        store.credit_account("nobody", Nanos(1), "", NOW_MS, reference()),
        store.settle("req_0", settlement(70), NOW_MS),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers] == [type(None), ValueError, ValueError, AccountNotFoundError, Settled]
    assert await balance_and_held(store) == (930, 200)  # 1000 - 70
    await assert_books_balance(store)


async def test_a_caller_that_stops_waiting_changes_nothing_about_the_write(store: Store, alice: Account) -> None:
    abandoned = store.place_hold(new_request(account_id=alice.id, hold_nanos=300))

    abandoned.cancel()
    settled = await store.settle("req_1", settlement(100), NOW_MS)  # queued behind it

    assert settled is Settled.NOW
    assert await balance_and_held(store) == (900, 0)
    await assert_books_balance(store)


async def test_absurd_counts_of_an_upstream_do_not_stop_a_settlement(store: Store, alice: Account) -> None:
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=300))
    absurd = settlement(300, usage=TokenUsage(10**30, 10**30), shortfall_nanos=10**40)

    assert await store.settle("req_1", absurd, NOW_MS) is Settled.NOW

    assert await balance_and_held(store) == (700, 0)
    await assert_books_balance(store)


async def test_what_was_acknowledged_is_there_after_closing_and_opening_again(reopen: Open) -> None:
    before = await reopen()
    account = await before.create_account("alice", Nanos(1000), NOW_MS)
    await before.place_hold(new_request("req_1", account_id=account.id, hold_nanos=300))
    await before.place_hold(new_request("req_2", account_id=account.id, hold_nanos=200))
    await before.settle("req_1", settlement(30), NOW_MS)
    await before.close()

    after = await reopen()

    assert await balance_and_held(after) == (970, 200)
    assert [request.id for request in await after.open_requests()] == ["req_2"]
    assert await after.settle("req_1", settlement(300), NOW_MS) is Settled.OTHERWISE
    await assert_books_balance(after)


async def test_closing_commits_what_is_queued_and_refuses_what_comes_later(reopen: Open) -> None:
    before = await reopen()
    account = await before.create_account("alice", Nanos(1000), NOW_MS)
    queued = [before.place_hold(new_request(f"req_{n}", account_id=account.id, hold_nanos=1)) for n in range(900)]

    await before.close()
    late = before.place_hold(new_request("req_late", account_id=account.id))

    assert all(future.done() and future.exception() is None for future in queued)
    with pytest.raises(StoreUnavailableError):
        await late
    with pytest.raises(StoreUnavailableError):
        await before.ping()
    after = await reopen()
    assert await balance_and_held(after) == (1000, 900)
    await assert_books_balance(after)


async def test_open_requests_come_oldest_first(store: Store, alice: Account) -> None:
    for request_id, age_ms in (("req_b", 5), ("req_c", 9), ("req_a", 0)):
        await store.place_hold(new_request(request_id, account_id=alice.id, hold_nanos=1, created_at_ms=NOW_MS - age_ms))

    listed = await store.open_requests()

    assert [request.id for request in listed] == ["req_c", "req_b", "req_a"]
    await assert_books_balance(store)
