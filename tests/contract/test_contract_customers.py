"""What is agreed with one customer: a discount, a charge that is given back, the end of the account."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from proxy.core.days import CHINA
from proxy.core.limits import LimitsChange
from proxy.core.money import DISCOUNT_WHOLE, NANOS_MAX, Nanos
from proxy.store.contract import Store
from proxy.store.errors import AccountClosedError, AccountNotFoundError, ReferenceTakenError, RequestNotFoundError, StoreRefusedError
from proxy.store.values import Account, Booking, StoredAnswer
from tests.contract.conftest import Open
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, made, new_claim, new_key, new_request, new_video, pay, reference, settlement, submitted, task_of

LATER_MS = CHINA.begins_ms(CHINA.day(NOW_MS) + 40)


async def charged(store: Store, account: Account, request_id: str = "req_1", charge: int = 60) -> str:
    """Have a request of 100 nano-yuan charged, and return its id."""
    await pay(store, new_request(request_id, account_id=account.id), settlement(charge))
    return request_id


async def refund(store: Store, request_id: str, amount: int | None, text: str, account: str | None = None) -> Booking:
    nanos = None if amount is None else Nanos(amount)
    return await store.refund_request(request_id, nanos, "half an answer", NOW_MS + 5, reference(text), account)


async def balance(store: Store) -> int:
    return (await store.account("alice")).balance_nanos


def left_in(directory: Path) -> list[str]:
    """Return the files that hold a canary."""
    return [path.name for path in directory.iterdir() if b"canary-prompt" in path.read_bytes()]


# discounts


async def test_a_discount_is_its_accounts_and_that_of_all_its_keys(store: Store, alice: Account) -> None:
    await store.create_account("bob", Nanos(0), NOW_MS)
    for name, key_id in (("alice", "key_1"), ("alice", "key_2"), ("bob", "key_3")):
        await store.create_key(name, new_key(key_id))

    changed = await store.set_discount("alice", 8_500)

    assert (alice.discount, changed.discount) == (DISCOUNT_WHOLE, 8_500)
    assert {grant.key_id: grant.discount for grant in await store.grants()} == {"key_1": 8_500, "key_2": 8_500, "key_3": 10_000}
    assert [account.discount for account in await store.accounts()] == [8_500, 10_000]
    assert (await store.set_discount("alice", DISCOUNT_WHOLE)).discount == DISCOUNT_WHOLE


@pytest.mark.parametrize("discount", [-1, 0, DISCOUNT_WHOLE + 1])
async def test_no_discount_gives_all_away_or_makes_dearer(store: Store, alice: Account, discount: int) -> None:
    with pytest.raises(StoreRefusedError, match=f"1 to 10000 ten-thousandths, not {discount}"):
        await store.set_discount("alice", discount)
    assert await store.account("alice") == alice


async def test_only_an_account_that_there_is_has_a_discount(store: Store) -> None:
    with pytest.raises(AccountNotFoundError):
        await store.set_discount("nobody", 9_000)


async def test_a_task_keeps_its_discount(reopen: Open) -> None:
    store = await reopen()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    request = structs.replace(new_video(account_id=alice.id), price='{"discount":8571}')
    await store.place_task(request, replace(task_of(request), discount=8_571), NOW_MS)
    await store.close()

    task = await (again := await reopen()).task(request.id)

    assert task is not None
    assert task.discount == 8_571
    await assert_books_balance(again)


# refunds


async def test_a_charge_is_given_back_in_parts_and_never_above_itself(store: Store, alice: Account) -> None:
    request_id = await charged(store, alice)

    first = await refund(store, request_id, 25, "r-1")
    second = await refund(store, request_id, 35, "r-2")

    assert (first.is_new, first.account.balance_nanos, first.booked_at_ms) == (True, 965, NOW_MS + 5)
    assert (second.is_new, second.account.balance_nanos) == (True, 1000)
    for amount in (1, None):
        with pytest.raises(StoreRefusedError, match=r"cost ¥0\.00000006, of which ¥0\.00000006 were given back: ¥0\.00 are left"):
            await refund(store, request_id, amount, "r-3")
    assert await balance(store) == 1000
    found = await store.receipt(request_id)
    assert found is not None
    assert (found[0].refunded_nanos, found[0].settlement and found[0].settlement.charge_nanos) == (60, 60)
    await assert_books_balance(store)


async def test_without_an_amount_the_rest_is_given_back(store: Store, alice: Account) -> None:
    request_id = await charged(store, alice)
    await refund(store, request_id, 59, "r-1")

    assert (await refund(store, request_id, None, "r-2")).account.balance_nanos == 1000
    await assert_books_balance(store)


@pytest.mark.parametrize("amount", [61, NANOS_MAX])
async def test_no_refund_is_above_the_charge_even_within_the_hold(store: Store, alice: Account, amount: int) -> None:
    request_id = await charged(store, alice)

    with pytest.raises(StoreRefusedError, match=r"¥0\.00000006 are left, nothing was booked"):
        await refund(store, request_id, amount, "r-1")
    assert await balance(store) == 940
    assert (await refund(store, request_id, 60, "r-1")).is_new  # the refused one has not taken the reference
    await assert_books_balance(store)


@pytest.mark.parametrize("amount", [0, -1, -60])
async def test_nothing_and_less_cannot_be_given_back(store: Store, alice: Account, amount: int) -> None:
    request_id = await charged(store, alice)

    with pytest.raises(StoreRefusedError, match="name an amount above 0"):
        await refund(store, request_id, amount, "r-1")
    assert await balance(store) == 940
    await assert_books_balance(store)


@pytest.mark.parametrize("amount", [25, None])
async def test_one_refund_told_twice_is_booked_once(store: Store, alice: Account, amount: int | None) -> None:
    request_id = await charged(store, alice)

    first = await refund(store, request_id, amount, "r-1")
    again = await refund(store, request_id, amount, "r-1")

    assert (first.is_new, again.is_new, again.booked_at_ms) == (True, False, NOW_MS + 5)
    assert again.account == first.account == await store.account("alice")
    await assert_books_balance(store)


async def test_fifty_at_once_give_back_once_what_there_is(store: Store, alice: Account) -> None:
    request_id = await charged(store, alice)

    told = await asyncio.gather(*(refund(store, request_id, 7, f"r-{number}") for number in range(50)), return_exceptions=True)

    assert len([one for one in told if isinstance(one, Booking)]) == 8  # 8 × 7 = 56 of 60
    assert await balance(store) == 940 + 56
    await assert_books_balance(store)


async def test_a_reference_stands_for_one_refund_of_one_request(store: Store, alice: Account) -> None:
    one, other = await charged(store, alice), await charged(store, alice, "req_2")
    await refund(store, one, 25, "r-1")
    await store.credit_account("alice", Nanos(60), "", NOW_MS, reference("paid"))

    for request_id, amount, text in (
        (one, 24, "r-1"),
        (one, None, "r-1"),
        (other, 25, "r-1"),
        (other, 60, "paid"),
        (other, None, "paid"),
    ):
        with pytest.raises(ReferenceTakenError, match="stands for another payment already"):
            await refund(store, request_id, amount, text)
    with pytest.raises(ReferenceTakenError):  # nor is the refund a payment of the same amount
        await store.credit_account("alice", Nanos(25), "", NOW_MS, reference("r-1"))
    assert await balance(store) == 1000 - 120 + 25 + 60
    await assert_books_balance(store)


async def test_another_accounts_request_is_not_given_back_under_this_name(store: Store, alice: Account) -> None:
    await store.create_account("bob", Nanos(10), NOW_MS)
    request_id = await charged(store, alice)

    with pytest.raises(StoreRefusedError, match="request req_1 is of account alice, not of bob"):
        await refund(store, request_id, None, "r-1", "bob")
    assert (await refund(store, request_id, None, "r-1", "alice")).account.balance_nanos == 1000
    assert (await store.account("bob")).balance_nanos == 10
    await assert_books_balance(store)


async def test_only_what_was_charged_is_given_back(store: Store, alice: Account) -> None:
    await charged(store, alice, "free", 0)
    await store.place_hold(new_request("open", account_id=alice.id))

    for request_id, kind, says in (
        ("free", StoreRefusedError, "request free cost nothing"),
        ("open", StoreRefusedError, "request open is not settled yet"),
        ("req_9", RequestNotFoundError, "there is no request req_9"),
    ):
        with pytest.raises(kind, match=says):
            await refund(store, request_id, None, "r-1")
    await assert_books_balance(store)


async def test_a_folded_request_is_given_back_too_and_no_more_than_once(store: Store, alice: Account) -> None:
    request_id = await charged(store, alice)
    await refund(store, request_id, 20, "r-1")
    assert await store.fold_requests(alice.id, LATER_MS) == 1

    with pytest.raises(StoreRefusedError, match=r"¥0\.00000004 are left"):
        await refund(store, request_id, 41, "r-2")
    assert (await refund(store, request_id, None, "r-2")).account.balance_nanos == 1000
    assert not (await refund(store, request_id, 20, "r-1")).is_new

    folded = await store.folded(request_id)
    assert folded is not None
    assert (folded.charge_nanos, folded.refunded_nanos) == (60, 60)
    await assert_books_balance(store)


async def test_a_video_is_given_back(store: Store, alice: Account) -> None:
    request = new_video(account_id=alice.id)
    await pay(store, request, settlement(70, units=1000))

    assert (await refund(store, request.id, None, "r-1")).account.balance_nanos == 1000
    await assert_books_balance(store)


# closing


async def test_a_closed_account_has_no_keys_and_takes_nothing_more(store: Store, alice: Account) -> None:
    await store.create_key("alice", new_key("key_1"))
    await store.create_key("alice", new_key("key_2"))
    await store.revoke_key("key_1", NOW_MS)
    request_id = await charged(store, alice)

    closed = await store.close_account("alice", NOW_MS + 9)

    assert (closed.balance_nanos, closed.closed_at_ms) == (940, NOW_MS + 9)
    assert await store.grants() == []
    assert [key.revoked_at_ms for key in await store.keys("alice")] == [NOW_MS, NOW_MS + 9]
    request, video = new_request("req_2", account_id=alice.id), new_video(account_id=alice.id)
    for attempt in (
        lambda: store.place_hold(request),
        lambda: store.place_hold(new_request("req_3", account_id=alice.id, hold_nanos=0)),
        lambda: store.place_hold(new_request("req_4", account_id=alice.id, claim=new_claim())),
        lambda: store.place_task(video, task_of(video), NOW_MS),
        lambda: store.credit_account("alice", Nanos(5), "", NOW_MS, reference("c-1")),
        lambda: store.credit_account("alice", Nanos(-5), "", NOW_MS, reference("c-2")),
        lambda: store.refund_request(request_id, None, "", NOW_MS, reference("c-3")),
        lambda: store.create_key("alice", new_key("key_3")),
        lambda: store.set_discount("alice", 5_000),
        lambda: store.set_account_limits("alice", LimitsChange(paused_at_ms=None), NOW_MS),
    ):
        with pytest.raises(AccountClosedError, match="account alice was closed on 2025-11-24"):
            await attempt()
    with pytest.raises(StoreRefusedError):
        await store.roll_key("key_2", new_key("key_4"), 0, NOW_MS)
    assert await store.grants() == []
    assert await store.account("alice") == closed
    found = await store.receipt(request_id)
    assert found is not None  # the books stay
    await assert_books_balance(store)


async def test_what_was_told_before_is_answered_after_the_end_too(store: Store, alice: Account) -> None:
    request_id = await charged(store, alice)
    await refund(store, request_id, None, "r-1")
    await store.credit_account("alice", Nanos(5), "", NOW_MS, reference("c-1"))
    closed = await store.close_account("alice", NOW_MS)

    assert await refund(store, request_id, None, "r-1") == Booking(closed, False, NOW_MS + 5)
    assert await store.credit_account("alice", Nanos(5), "", NOW_MS, reference("c-1")) == Booking(closed, False, NOW_MS)
    assert await store.close_account("alice", NOW_MS + 9) == closed


async def test_an_account_whose_money_is_held_is_not_closed(store: Store, alice: Account) -> None:
    await store.create_key("alice", new_key())
    await store.place_hold(new_request(account_id=alice.id))

    with pytest.raises(StoreRefusedError, match=r"account alice has requests under way \(1\), which hold ¥0\.0000001"):
        await store.close_account("alice", NOW_MS)
    assert len(await store.grants()) == 1

    await store.settle("req_1", settlement(60), NOW_MS)
    assert (await store.close_account("alice", NOW_MS)).balance_nanos == 940
    await assert_books_balance(store)


async def test_a_free_request_under_way_keeps_an_account_open(store: Store, alice: Account) -> None:
    await store.place_hold(new_request(account_id=alice.id, hold_nanos=0))

    with pytest.raises(StoreRefusedError, match="requests under way"):
        await store.close_account("alice", NOW_MS)


async def test_what_is_written_at_once_is_held_or_refused_and_never_both(store: Store, alice: Account) -> None:
    requests = [new_request(f"req_{number}", account_id=alice.id, hold_nanos=1) for number in range(20)]

    *holds, closing = await asyncio.gather(
        *(store.place_hold(request) for request in requests[:10]),
        *(store.place_hold(request) for request in requests[10:]),
        store.close_account("alice", NOW_MS),
        return_exceptions=True,
    )

    assert isinstance(closing, StoreRefusedError)
    assert holds == [None] * 20
    await asyncio.gather(*(store.settle(request.id, settlement(1), NOW_MS) for request in requests))
    closing, *late = await asyncio.gather(
        store.close_account("alice", NOW_MS),
        *(store.place_hold(new_request(f"late_{number}", account_id=alice.id)) for number in range(3)),
        return_exceptions=True,
    )
    if isinstance(closing, Account):
        assert [type(one) for one in late] == [AccountClosedError] * 3
    else:  # the holds came first, as they may
        assert late == [None] * 3
    await assert_books_balance(store)


async def test_an_open_video_keeps_an_account_open_and_its_prompt(store: Store, alice: Account) -> None:
    video = new_video(account_id=alice.id)
    await store.place_task(video, task_of(video), NOW_MS)

    with pytest.raises(StoreRefusedError, match="under way"):
        await store.close_account("alice", NOW_MS)

    task = await store.task(video.id)
    assert task is not None
    assert task.prompt
    await assert_books_balance(store)


async def test_what_its_customer_wrote_and_got_is_erased_and_the_figures_stay(store: Store, alice: Account) -> None:
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    for account, request_id, upstream_id in ((alice, "vreq_1", "cgt-1"), (bob, "vreq_2", "cgt-2")):
        video = new_video(request_id, account_id=account.id, claim=new_claim())
        await store.place_task(video, task_of(video), NOW_MS)
        await store.advance_task(request_id, submitted(upstream_id), NOW_MS, StoredAnswer(200, b"canary"))
        await store.advance_task(request_id, made(), NOW_MS)
    before = await store.task("vreq_1")

    await store.close_account("alice", NOW_MS)

    mine, others = await store.task("vreq_1"), await store.task("vreq_2")
    assert before is not None
    assert others is not None
    assert before.prompt and before.video_url and before.thumbnail_url  # noqa: PT018
    assert mine == replace(before, prompt="", video_url="", thumbnail_url="")
    assert others.prompt and others.video_url  # noqa: PT018
    assert await store.claimed_key(alice.id, "retry-1", NOW_MS) is None
    assert await store.claimed_key(bob.id, "retry-1", NOW_MS) is not None
    assert await balance(store) == 900
    await assert_books_balance(store)


async def test_nothing_of_it_is_left_in_the_file(reopen: Open, tmp_path: Path) -> None:
    store = await reopen()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    for number in range(40):
        video = new_video(f"vreq_{number}", account_id=alice.id, hold_nanos=1)
        await store.place_task(video, replace(task_of(video), prompt=f"canary-prompt-{number} " * 20), NOW_MS)
        await store.advance_task(video.id, submitted(f"cgt-{number}"), NOW_MS)
        await store.advance_task(video.id, made(), NOW_MS)
    await store.close_account("alice", NOW_MS)
    await assert_books_balance(store)
    await store.close()

    assert left_in(tmp_path) == []


async def test_a_closed_account_is_opened_by_nobody_again(store: Store, alice: Account) -> None:
    await store.close_account("alice", NOW_MS)

    with pytest.raises(StoreRefusedError, match="there is an account alice already"):
        await store.create_account("alice", Nanos(5), NOW_MS)
    with pytest.raises(AccountNotFoundError):
        await store.close_account("nobody", NOW_MS)


async def test_its_old_requests_are_folded_as_others_are(store: Store, alice: Account) -> None:
    await charged(store, alice)
    await store.close_account("alice", NOW_MS)

    assert await store.fold_requests(alice.id, LATER_MS) == 1
    await assert_books_balance(store)
