"""Accounts, keys and an operator's bookings, through the contract alone."""

import pytest

from proxy.core.money import NANOS_MAX, Nanos
from proxy.store.contract import Store
from proxy.store.errors import AccountExistsError, AccountNotFoundError, InsufficientFundsError, KeyNotFoundError, StoreRefusedError
from proxy.store.values import Account, Grant, Key
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_key, new_request, reference


async def test_an_account_opens_with_its_credit_and_nothing_held(store: Store) -> None:
    account = await store.create_account("alice", Nanos(1000), NOW_MS)

    assert account == Account(account.id, "alice", Nanos(1000), Nanos(0), NOW_MS)
    assert await store.account("alice") == await store.account_by_id(account.id) == account
    await assert_books_balance(store)


async def test_accounts_are_listed_by_name_and_are_customers_only(store: Store) -> None:
    for name in ("bob", "revenue", "alice"):  # a customer may have the name of a system account
        await store.create_account(name, Nanos(0), NOW_MS)

    listed = await store.accounts()

    assert [account.name for account in listed] == ["alice", "bob", "revenue"]
    assert all(account.balance_nanos == 0 for account in listed)


async def test_a_name_is_taken_once(store: Store, alice: Account) -> None:
    with pytest.raises(AccountExistsError, match="alice"):
        await store.create_account("alice", Nanos(5), NOW_MS)

    assert await store.accounts() == [alice]
    await assert_books_balance(store)


@pytest.mark.parametrize("name", ["", " alice", "alice\n", "a\x00b", "moc\u202egpj", "alice\u3164", "x" * 101])
async def test_a_name_that_cannot_be_typed_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreRefusedError, match="name"):
        await store.create_account(name, Nanos(0), NOW_MS)

    assert await store.accounts() == []


async def test_an_account_cannot_open_in_debt(store: Store) -> None:
    with pytest.raises(StoreRefusedError, match="debt"):
        await store.create_account("alice", Nanos(-1), NOW_MS)

    assert await store.accounts() == []
    await assert_books_balance(store)


@pytest.mark.parametrize(("amount", "balance"), [(1, 1001), (-1, 999), (-1000, 0)])
async def test_money_is_booked_in_and_back_out(store: Store, alice: Account, amount: int, balance: int) -> None:
    booking = await store.credit_account("alice", Nanos(amount), "invoice 7", NOW_MS, reference())

    assert (booking.is_new, booking.account.balance_nanos) == (True, balance)
    assert await store.account("alice") == booking.account
    await assert_books_balance(store)


async def test_no_more_than_what_is_available_is_taken_back(store: Store, alice: Account) -> None:
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=400))

    with pytest.raises(InsufficientFundsError, match="alice"):
        await store.credit_account("alice", Nanos(-601), "", NOW_MS, reference())
    rest = (await store.credit_account("alice", Nanos(-600), "", NOW_MS, reference())).account

    assert (rest.balance_nanos, rest.held_nanos, rest.available_nanos) == (400, 400, 0)
    await assert_books_balance(store)


@pytest.mark.parametrize("amount", [0, NANOS_MAX])
async def test_an_amount_of_nothing_or_beyond_all_bounds_is_refused(store: Store, alice: Account, amount: int) -> None:
    with pytest.raises(StoreRefusedError):
        await store.credit_account("alice", Nanos(amount), "", NOW_MS, reference())

    assert await store.account("alice") == alice
    await assert_books_balance(store)


async def test_a_balance_may_be_as_large_as_any_amount_and_no_larger(store: Store, alice: Account) -> None:
    full = await store.credit_account("alice", Nanos(NANOS_MAX - 1000), "", NOW_MS, reference())

    assert full.account.balance_nanos == NANOS_MAX
    with pytest.raises(StoreRefusedError, match="a balance cannot be above"):
        await store.credit_account("alice", Nanos(1), "", NOW_MS, reference("payment-2"))
    await assert_books_balance(store)


async def test_an_unknown_account_is_named_in_the_refusal(store: Store) -> None:
    for attempt in (store.credit_account("nobody", Nanos(1), "", NOW_MS, reference()), store.create_key("nobody", new_key())):
        with pytest.raises(AccountNotFoundError, match="nobody"):
            await attempt
    for reading in (store.account("nobody"), store.keys("nobody")):
        with pytest.raises(AccountNotFoundError, match="nobody"):
            await reading
    with pytest.raises(AccountNotFoundError):
        await store.account_by_id(1)  # id 1 can only be a system account's


async def test_a_live_key_stands_for_its_account(store: Store, alice: Account) -> None:
    key = await store.create_key("alice", new_key("key_1", name="laptop"))

    assert key == Key("key_1", "laptop", "sk_abcdefg", "alice", NOW_MS, None, identity="key_1")
    grant = Grant(new_key("key_1").sha256, "key_1", alice.id, "alice", identity="key_1", key_name="laptop")
    assert await store.grants() == [grant]


async def test_a_revoked_key_stands_for_nobody_and_keeps_its_first_time(store: Store, alice: Account) -> None:
    await store.create_key("alice", new_key())

    first = await store.revoke_key("key_1", NOW_MS + 1)
    second = await store.revoke_key("key_1", NOW_MS + 2)

    assert first.revoked_at_ms == second.revoked_at_ms == NOW_MS + 1
    assert await store.grants() == []
    assert await store.keys() == [first]


async def test_keys_are_listed_oldest_first_for_all_or_one_account(store: Store, alice: Account) -> None:
    await store.create_account("bob", Nanos(0), NOW_MS)
    for account, key_id, age_ms in (("alice", "key_b", 2), ("bob", "key_c", 1), ("alice", "key_a", 0)):
        await store.create_key(account, new_key(key_id, created_at_ms=NOW_MS - age_ms))

    everybodys, alices = await store.keys(), await store.keys("alice")

    assert [key.id for key in everybodys] == ["key_b", "key_c", "key_a"]
    assert [key.id for key in alices] == ["key_b", "key_a"]


async def test_an_unknown_key_cannot_be_revoked_and_a_known_one_not_be_stored_twice(store: Store, alice: Account) -> None:
    await store.create_key("alice", new_key())

    with pytest.raises(KeyNotFoundError, match="key_2"):
        await store.revoke_key("key_2", NOW_MS)
    with pytest.raises(StoreRefusedError, match="key_1"):
        await store.create_key("alice", new_key(name="another"))

    assert len(await store.keys()) == 1
