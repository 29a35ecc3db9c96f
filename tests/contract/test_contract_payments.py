"""Payments by their references, and whatever else an operator asks for twice after a lost answer: done once."""

import asyncio

import pytest

from proxy.core.money import NANOS_MAX, Nanos
from proxy.store.contract import Store
from proxy.store.errors import AccountExistsError, ReferenceTakenError, StoreRefusedError
from proxy.store.values import Account, Booking, Reference
from tests.contract.conftest import Open
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_key, new_request, reference


@pytest.mark.parametrize(("amount", "balance"), [(500, 1500), (-400, 600)])
async def test_the_same_payment_again_books_nothing_and_says_so(store: Store, alice: Account, amount: int, balance: int) -> None:
    first = await store.credit_account("alice", Nanos(amount), "invoice 7", NOW_MS, reference("invoice-7"))
    again = await store.credit_account("alice", Nanos(amount), "another note", NOW_MS + 9, reference("invoice-7"))

    assert (first.is_new, first.booked_at_ms, first.account.balance_nanos) == (True, NOW_MS, balance)
    assert again == Booking(first.account, is_new=False, booked_at_ms=NOW_MS)
    assert (await store.account("alice")).balance_nanos == balance
    await assert_books_balance(store)


@pytest.mark.parametrize("amount", [-1000, NANOS_MAX - 1000])
async def test_a_repeat_is_answered_even_where_another_such_payment_would_be_refused(store: Store, alice: Account, amount: int) -> None:
    await store.credit_account("alice", Nanos(amount), "", NOW_MS, reference())

    again = await store.credit_account("alice", Nanos(amount), "", NOW_MS, reference())

    assert (again.is_new, again.account.balance_nanos) == (False, 1000 + amount)
    await assert_books_balance(store)


@pytest.mark.parametrize(("name", "amount"), [("alice", 501), ("alice", -500), ("bob", 500)])
async def test_another_payment_under_a_reference_is_refused_and_told_what_it_stands_for(
    store: Store, alice: Account, name: str, amount: int
) -> None:
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    booked = await store.credit_account("alice", Nanos(500), "", NOW_MS, reference("invoice-7"))

    with pytest.raises(ReferenceTakenError) as refused:
        await store.credit_account(name, Nanos(amount), "", NOW_MS, reference("invoice-7"))

    assert str(refused.value) == (
        "reference invoice-7 stands for another payment already, ¥0.0000005 for account alice on 2025-11-24T16:00:00.000Z: "
        "nothing was booked"
    )
    assert await store.accounts() == [booked.account, bob]
    await assert_books_balance(store)


async def test_the_references_of_two_sources_are_two(store: Store, alice: Account) -> None:
    for source in ("cli", "code"):
        assert (await store.credit_account("alice", Nanos(5), "", NOW_MS, Reference(source, "7"))).is_new

    assert (await store.account("alice")).balance_nanos == 1010
    await assert_books_balance(store)


async def test_one_payment_told_many_times_at_once_is_booked_once(store: Store, alice: Account) -> None:
    bookings = await asyncio.gather(*(store.credit_account("alice", Nanos(5), "", NOW_MS, reference()) for _ in range(20)))

    assert sum(booking.is_new for booking in bookings) == 1
    assert {booking.account.balance_nanos for booking in bookings} == {1005}
    await assert_books_balance(store)


async def test_a_refused_payment_leaves_its_reference_free(store: Store, alice: Account) -> None:
    with pytest.raises(StoreRefusedError):
        await store.credit_account("alice", Nanos(-1001), "", NOW_MS, reference())

    assert (await store.credit_account("alice", Nanos(7), "", NOW_MS, reference())).is_new
    await assert_books_balance(store)


async def test_a_reference_is_remembered_by_the_next_opening_of_the_books(reopen: Open) -> None:
    before = await reopen()
    await before.create_account("alice", Nanos(0), NOW_MS)
    await before.credit_account("alice", Nanos(5), "", NOW_MS, reference())
    await before.close()

    after = await reopen()
    again = await after.credit_account("alice", Nanos(5), "", NOW_MS + 1, reference())

    assert (again.is_new, again.account.balance_nanos) == (False, 5)
    await assert_books_balance(after)


async def test_a_repeat_says_what_the_account_has_now(store: Store, alice: Account) -> None:
    await store.credit_account("alice", Nanos(5), "", NOW_MS, reference())
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=300))

    again = await store.credit_account("alice", Nanos(5), "", NOW_MS, reference())

    assert (again.account.balance_nanos, again.account.held_nanos) == (1005, 300)
    await assert_books_balance(store)


@pytest.mark.parametrize("credit", [0, 500])
async def test_an_opening_repeated_under_its_reference_is_told_apart_from_another(store: Store, credit: int) -> None:
    opened = await store.create_account("bob", Nanos(credit), NOW_MS, reference("opening-1"))

    with pytest.raises(AccountExistsError) as again:
        await store.create_account("bob", Nanos(credit), NOW_MS + 5, reference("opening-1"))
    with pytest.raises(AccountExistsError) as another:
        await store.create_account("bob", Nanos(credit), NOW_MS + 5, reference("opening-2"))

    assert again.value.repeated == Booking(opened, is_new=False, booked_at_ms=NOW_MS)
    assert another.value.repeated is None
    assert await store.accounts() == [opened]
    await assert_books_balance(store)


async def test_a_later_credit_is_no_opening(store: Store, alice: Account) -> None:
    await store.credit_account("alice", Nanos(5), "", NOW_MS + 1, reference())

    with pytest.raises(AccountExistsError) as refused:
        await store.create_account("alice", Nanos(5), NOW_MS + 2, reference())

    assert refused.value.repeated is None
    await assert_books_balance(store)


async def test_an_account_cannot_be_opened_under_the_reference_of_another_payment(store: Store, alice: Account) -> None:
    await store.credit_account("alice", Nanos(5), "", NOW_MS, reference())

    with pytest.raises(ReferenceTakenError, match="nothing was booked"):
        await store.create_account("bob", Nanos(5), NOW_MS, reference())

    assert [account.name for account in await store.accounts()] == ["alice"]
    await assert_books_balance(store)


async def test_the_credit_that_opened_an_account_can_be_told_again_as_a_credit(store: Store) -> None:
    await store.create_account("bob", Nanos(5), NOW_MS, reference())

    assert not (await store.credit_account("bob", Nanos(5), "", NOW_MS, reference())).is_new

    assert (await store.account("bob")).balance_nanos == 5
    await assert_books_balance(store)


async def test_the_same_key_made_again_is_that_key_and_any_other_is_refused(store: Store, alice: Account) -> None:
    await store.create_account("bob", Nanos(0), NOW_MS)
    key = await store.create_key("alice", new_key(name="laptop"))

    assert await store.create_key("alice", new_key(name="laptop", created_at_ms=NOW_MS + 5)) == key
    for account, name in (("bob", "laptop"), ("alice", "phone")):
        with pytest.raises(StoreRefusedError, match="key_1"):
            await store.create_key(account, new_key(name=name))

    assert await store.keys() == [key]
