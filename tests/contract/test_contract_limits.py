"""Limits of keys and accounts: what changes them, whom they belong to, and that no money limit lets more through than it says."""

import asyncio
from dataclasses import replace

import pytest
from msgspec import UNSET

from proxy.core.days import CHINA, DAY_MS
from proxy.core.limits import NO_LIMITS, Limits, LimitsChange, Period, SpendLimits
from proxy.core.money import Nanos
from proxy.store.contract import Store
from proxy.store.errors import InsufficientFundsError, KeyNotFoundError, SpendLimitError, StoreRefusedError
from proxy.store.values import Account, KeyUse, NewKey, Settled, Spent, StoredAnswer
from tests.contract.conftest import Open
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, made, new_claim, new_key, new_request, new_video, pay, settlement, submitted, task_of

TODAY_MS = CHINA.begins_ms(CHINA.day(NOW_MS))
TOMORROW_MS = TODAY_MS + DAY_MS
NEXT_MONTH_MS = CHINA.begins_ms(CHINA.day(NOW_MS) + 6)  # 2025-12-01


def spend(*, day: int | None = None, month: int | None = None, total: int | None = None) -> LimitsChange:
    """Return a change that sets the periods that are named, and leaves the others."""
    return LimitsChange(
        day_nanos=UNSET if day is None else Nanos(day),
        month_nanos=UNSET if month is None else Nanos(month),
        total_nanos=UNSET if total is None else Nanos(total),
    )


async def key_of(store: Store, account: str = "alice", key_id: str = "key_1", limits: Limits = NO_LIMITS) -> None:
    key = new_key(key_id)
    await store.create_key(account, NewKey(key.id, key.name, key.prefix, key.sha256, key.created_at_ms, limits))


async def use(store: Store, now_ms: int = NOW_MS) -> list[KeyUse]:
    return await store.key_use(now_ms)


def both(spent: int, held: int) -> Spent:
    return Spent(Nanos(spent), Nanos(held))


# what changes them


async def test_a_key_is_made_with_limits_and_each_is_changed_by_itself(store: Store, alice: Account) -> None:
    limits = Limits(expires_at_ms=TOMORROW_MS, models=("doubao-*",), spend=SpendLimits(day=Nanos(5), month=Nanos(50)))
    await key_of(store, limits=limits)
    assert (await store.grants())[0].limits == limits

    changed = await store.set_key_limits("key_1", LimitsChange(models=(), concurrent=3, day_nanos=Nanos(7)), NOW_MS)

    after = Limits(expires_at_ms=TOMORROW_MS, concurrent=3, spend=SpendLimits(day=Nanos(7), month=Nanos(50)))
    assert changed.limits == after
    assert [grant.limits for grant in await store.grants()] == [after]
    assert (await store.keys())[0].limits == after
    none = LimitsChange(expires_at_ms=None, concurrent=None, day_nanos=None, month_nanos=None)
    assert (await store.set_key_limits("key_1", none, NOW_MS)).limits is None
    await assert_books_balance(store)


async def test_an_account_has_limits_of_its_own_which_each_of_its_keys_carries(store: Store, alice: Account) -> None:
    await key_of(store)

    changed = await store.set_account_limits("alice", LimitsChange(networks=("10.0.0.0/8",), paused_at_ms=NOW_MS), NOW_MS)

    assert changed.limits == Limits(networks=("10.0.0.0/8",), paused_at_ms=NOW_MS)
    assert [(grant.limits, grant.account_limits) for grant in await store.grants()] == [(None, changed.limits)]
    assert [account.limits for account in await store.accounts()] == [changed.limits]
    assert await store.account("alice") == changed


async def test_what_is_paused_keeps_the_time_since_when_it_is(store: Store, alice: Account) -> None:
    await key_of(store)
    await store.set_key_limits("key_1", LimitsChange(paused_at_ms=NOW_MS), NOW_MS)

    again = await store.set_key_limits("key_1", LimitsChange(paused_at_ms=NOW_MS + 1), NOW_MS + 1)
    resumed = await store.set_key_limits("key_1", LimitsChange(paused_at_ms=None), NOW_MS + 2)

    assert again.limits == Limits(paused_at_ms=NOW_MS)
    assert resumed.limits is None


@pytest.mark.parametrize(
    "change",
    [
        LimitsChange(expires_at_ms=NOW_MS),
        LimitsChange(requests_per_minute=0),
        LimitsChange(tokens_per_minute=-1),
        LimitsChange(concurrent=0),
        LimitsChange(day_nanos=Nanos(0)),
        LimitsChange(total_nanos=Nanos(2**63)),
    ],
)
async def test_a_limit_that_nothing_could_pass_is_refused_and_changes_nothing(
    store: Store, alice: Account, change: LimitsChange
) -> None:
    await key_of(store, limits=Limits(concurrent=5))

    with pytest.raises(StoreRefusedError):
        await store.set_key_limits("key_1", change, NOW_MS)
    with pytest.raises(StoreRefusedError):
        await store.set_account_limits("alice", change, NOW_MS)

    assert [(grant.limits, grant.account_limits) for grant in await store.grants()] == [(Limits(concurrent=5), None)]


async def test_limits_of_a_key_that_is_none_or_was_revoked_are_refused(store: Store, alice: Account) -> None:
    await key_of(store)
    await store.revoke_key("key_1", NOW_MS)

    with pytest.raises(KeyNotFoundError, match="key_2"):
        await store.set_key_limits("key_2", LimitsChange(concurrent=1), NOW_MS)
    with pytest.raises(StoreRefusedError, match="revoked"):
        await store.set_key_limits("key_1", LimitsChange(concurrent=1), NOW_MS)


# rolled keys


async def test_a_rolled_key_is_one_identity_with_two_secrets(store: Store, alice: Account) -> None:
    await key_of(store, limits=Limits(spend=SpendLimits(total=Nanos(10))))

    new = await store.roll_key("key_1", new_key("key_2", name="not this one"), 1_000, NOW_MS)

    assert (new.id, new.name, new.identity, new.ends_at_ms) == ("key_2", "", "key_1", None)
    assert {grant.key_id: (grant.identity, grant.ends_at_ms) for grant in await store.grants()} == {
        "key_1": ("key_1", NOW_MS + 1_000),
        "key_2": ("key_1", None),
    }
    await pay(store, new_request("old", account_id=alice.id, hold_nanos=6, key_id="key_1"), settlement(6))
    with pytest.raises(SpendLimitError):
        await store.place_hold(new_request("new", account_id=alice.id, hold_nanos=6, key_id="key_2"))
    await store.place_hold(new_request("new", account_id=alice.id, hold_nanos=4, key_id="key_2"))
    assert await use(store) == [KeyUse("alice", "key_1", None, None, both(6, 4))]
    await store.set_key_limits("key_2", LimitsChange(paused_at_ms=NOW_MS), NOW_MS)
    assert {key.limits.paused_at_ms for key in await store.keys() if key.limits} == {NOW_MS}
    await store.revoke_key("key_1", NOW_MS + 5)
    assert [key.revoked_at_ms for key in await store.keys()] == [NOW_MS + 5] * 2
    await assert_books_balance(store)


async def test_a_roll_without_overlap_ends_the_old_secret_at_once_and_a_third_ends_the_first(store: Store, alice: Account) -> None:
    await key_of(store)
    await store.roll_key("key_1", new_key("key_2"), 0, NOW_MS)
    with pytest.raises(StoreRefusedError, match="key_1 ended"):
        await store.roll_key("key_1", new_key("key_3"), 0, NOW_MS)

    await store.roll_key("key_2", new_key("key_3"), 5_000, NOW_MS + 1)
    with pytest.raises(StoreRefusedError, match="roll key_3, which followed it"):
        await store.roll_key("key_2", new_key("key_4"), 0, NOW_MS + 2)
    await store.roll_key("key_3", new_key("key_4"), 5_000, NOW_MS + 2)

    ends = {key.id: key.ends_at_ms for key in await store.keys()}
    assert ends == {"key_1": NOW_MS, "key_2": NOW_MS + 2, "key_3": NOW_MS + 5_002, "key_4": None}


async def test_a_roll_that_is_told_twice_rolls_once(store: Store, alice: Account) -> None:
    await key_of(store)
    first = await store.roll_key("key_1", new_key("key_2"), 0, NOW_MS)

    assert await store.roll_key("key_1", new_key("key_2"), 0, NOW_MS + 1) == first
    assert len(await store.keys()) == 2


async def test_a_key_that_is_revoked_expired_or_taken_is_not_rolled(store: Store, alice: Account) -> None:
    await key_of(store, key_id="key_gone")
    await store.revoke_key("key_gone", NOW_MS)
    await key_of(store, key_id="key_old", limits=Limits(expires_at_ms=NOW_MS + 1))
    for key_id, said in (("key_gone", "revoked"), ("key_old", "ended"), ("key_none", "there is no key")):
        with pytest.raises(StoreRefusedError, match=said):
            await store.roll_key(key_id, new_key("key_2"), 0, NOW_MS + 1)
    with pytest.raises(StoreRefusedError, match="cannot be stored"):
        await store.roll_key("key_old", new_key("key_gone"), 0, NOW_MS)

    assert {key.id: key.ends_at_ms for key in await store.keys()} == {"key_gone": None, "key_old": None}


async def test_a_key_is_found_by_how_it_begins(store: Store, alice: Account) -> None:
    for key_id, prefix in (("key_1", "sk_aaaaaaa"), ("key_2", "sk_aaaaabb")):
        key = new_key(key_id)
        await store.create_key("alice", NewKey(key.id, key.name, prefix, key.sha256, key.created_at_ms))

    async def found(prefix: str) -> list[str]:
        return [key.id for key in await store.find_keys(prefix)]

    assert await found("sk_aaaaa") == ["key_1", "key_2"]
    assert await found("sk_aaaaabb") == await found("sk_aaaaabbOfASecret") == ["key_2"]
    assert await found("sk_b") == await found("sk_aaaaaaB") == []
    assert await found("key_1") == ["key_1"]  # its whole secret


async def test_when_a_key_was_used_last_never_goes_back(store: Store, alice: Account) -> None:
    await key_of(store)

    for used in ({"key_1": 5}, {"key_1": 3, "key_none": 9, "": 9}):
        await store.note_use(used)

    assert [key.last_used_at_ms for key in await store.keys()] == [5]


# money


async def test_what_is_spent_held_and_to_be_held_is_never_above_a_limit(store: Store, alice: Account) -> None:
    await key_of(store, limits=Limits(spend=SpendLimits(day=Nanos(10))))
    await pay(store, new_request("paid", account_id=alice.id, hold_nanos=9, key_id="key_1"), settlement(4))
    await store.place_hold(new_request("open", account_id=alice.id, hold_nanos=5, key_id="key_1"))

    with pytest.raises(SpendLimitError) as refused:
        await store.place_hold(new_request("more", account_id=alice.id, hold_nanos=2, key_id="key_1"))

    fault = refused.value
    assert (fault.whose, fault.period, fault.limit_nanos, fault.left_nanos, fault.needed_nanos) == ("key", Period.DAY, 10, 1, 2)
    assert fault.resets_at_ms == TOMORROW_MS
    await store.place_hold(new_request("last", account_id=alice.id, hold_nanos=1, key_id="key_1"))
    await store.place_hold(new_request("free", account_id=alice.id, hold_nanos=0, key_id="key_1"))
    assert await use(store) == [KeyUse("alice", "key_1", both(4, 6), None, None)]
    await store.settle("open", settlement(0), NOW_MS)
    await store.place_hold(new_request("again", account_id=alice.id, hold_nanos=5, key_id="key_1"))
    assert await store.receipt("more") is None
    await assert_books_balance(store)


async def test_two_hundred_holds_at_once_on_a_key_with_room_for_37_admit_37(store: Store, alice: Account) -> None:
    await key_of(store, limits=Limits(spend=SpendLimits(month=Nanos(37 * 3 + 2))))

    asked = [store.place_hold(new_request(f"req_{n}", account_id=alice.id, hold_nanos=3, key_id="key_1")) for n in range(200)]
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert answers.count(None) == 37
    assert sum(isinstance(answer, SpendLimitError) for answer in answers) == 163
    assert (await store.account("alice")).held_nanos == 111
    await assert_books_balance(store)


async def test_the_stricter_of_key_and_account_counts_and_the_latest_to_begin_anew_is_told(store: Store, alice: Account) -> None:
    await key_of(store, limits=Limits(spend=SpendLimits(day=Nanos(5))))
    await key_of(store, key_id="key_2")
    await store.set_account_limits("alice", spend(month=8, total=9), NOW_MS)
    await store.place_hold(new_request("one", account_id=alice.id, hold_nanos=5, key_id="key_1"))

    async def told(key_id: str, hold: int) -> tuple[str, Period, int | None]:
        with pytest.raises(SpendLimitError) as refused:
            await store.place_hold(new_request("two", account_id=alice.id, hold_nanos=hold, key_id=key_id))
        return refused.value.whose, refused.value.period, refused.value.resets_at_ms

    assert await told("key_1", 1) == ("key", Period.DAY, TOMORROW_MS)
    assert await told("key_1", 4) == ("account", Period.MONTH, NEXT_MONTH_MS)
    assert await told("key_2", 5) == ("account", Period.TOTAL, None)
    await store.place_hold(new_request("two", account_id=alice.id, hold_nanos=3, key_id="key_2"))
    await assert_books_balance(store)


async def test_a_day_and_a_month_begin_anew_in_the_stores_time_zone_to_the_millisecond(store: Store, alice: Account) -> None:
    await key_of(store, limits=Limits(spend=SpendLimits(day=Nanos(10), month=Nanos(20))))

    async def takes(name: str, at_ms: int, hold: int) -> bool:
        try:
            await store.place_hold(new_request(name, account_id=alice.id, hold_nanos=hold, key_id="key_1", created_at_ms=at_ms))
        except SpendLimitError:
            return False
        return True

    assert await takes("a", TOMORROW_MS - 1, 10)
    assert not await takes("b", TODAY_MS, 1)
    assert await takes("c", TOMORROW_MS, 10)
    assert not await takes("d", NEXT_MONTH_MS - 1, 1)
    assert await takes("e", NEXT_MONTH_MS, 10)
    await assert_books_balance(store)


async def test_a_charge_belongs_to_the_day_on_which_its_request_was_created(store: Store, alice: Account) -> None:
    await key_of(store, limits=Limits(spend=SpendLimits(day=Nanos(100))))
    await store.place_hold(new_request("late", account_id=alice.id, hold_nanos=60, key_id="key_1", created_at_ms=TOMORROW_MS - 1))

    await store.settle("late", settlement(50), TOMORROW_MS + 1)

    assert await use(store, TOMORROW_MS - 1) == [KeyUse("alice", "key_1", both(50, 0), None, None)]
    assert await use(store, TOMORROW_MS) == [KeyUse("alice", "key_1", both(0, 0), None, None)]
    await assert_books_balance(store)


async def test_a_first_limit_counts_what_the_books_show_folded_days_and_open_holds_too(reopen: Open) -> None:
    store = await reopen()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await key_of(store)
    long_ago_ms = TODAY_MS - 40 * DAY_MS
    await pay(store, new_request("folded", account_id=alice.id, key_id="key_1", created_at_ms=long_ago_ms), settlement(1))
    await pay(store, new_request("unfolded", account_id=alice.id, key_id="key_1", created_at_ms=TODAY_MS - DAY_MS), settlement(2))
    await pay(store, new_request("today", account_id=alice.id, key_id="key_1"), settlement(4))
    await store.place_hold(new_request("open", account_id=alice.id, hold_nanos=8, key_id="key_1"))
    await pay(store, new_request("without", account_id=alice.id), settlement(16))
    assert await store.fold_requests(alice.id, TODAY_MS - 30 * DAY_MS) == 1

    await store.set_key_limits("key_1", spend(day=100, month=100, total=100), NOW_MS)
    await store.set_account_limits("alice", spend(total=200), NOW_MS)  # more than the key's, which refuses below

    shown = [
        KeyUse("alice", "", None, None, both(23, 8)),
        KeyUse("alice", "key_1", both(4, 8), both(6, 8), both(7, 8)),
    ]
    assert await use(store) == shown
    await assert_books_balance(store)
    await store.settle("open", settlement(8), NOW_MS)
    await store.fold_requests(alice.id, TODAY_MS)
    await assert_books_balance(store)
    await store.close()
    again = await reopen()
    assert (await use(again))[1] == KeyUse("alice", "key_1", both(12, 0), both(14, 0), both(15, 0))
    with pytest.raises(SpendLimitError):
        await again.place_hold(new_request("much", account_id=alice.id, hold_nanos=86, key_id="key_1"))
    await again.place_hold(new_request("much", account_id=alice.id, hold_nanos=69, key_id="key_1"))
    await assert_books_balance(again)


@pytest.mark.parametrize("of_account", [True, False])
async def test_a_first_limit_set_amid_calls_counts_each_once_and_admits_none_above_it(
    store: Store, alice: Account, of_account: bool
) -> None:
    """Eight callers hold and settle all the while. At the end the limit has no more than what the books show, and all of it."""
    await key_of(store)
    for number in range(300):
        await pay(store, new_request(f"old_{number}", account_id=alice.id, key_id="key_1", hold_nanos=1), settlement(1))
    refused = asyncio.Event()

    async def calls(caller: int) -> None:
        number = 0
        while not refused.is_set():
            number += 1
            request = new_request(f"{caller}_{number}", account_id=alice.id, key_id="key_1", hold_nanos=2)
            try:
                await store.place_hold(request)
            except SpendLimitError:
                refused.set()
                return
            if number % 3:
                await store.settle(request.id, settlement(number % 2), NOW_MS)

    async def limit() -> None:
        change = spend(total=600)
        await (store.set_account_limits("alice", change, NOW_MS) if of_account else store.set_key_limits("key_1", change, NOW_MS))

    await asyncio.gather(limit(), *(calls(caller) for caller in range(8)))

    (used,), account = await use(store), await store.account("alice")
    assert used.total == both(1000 - account.balance_nanos, account.held_nanos)
    # The refused call found at least 599; each of the seven others has given back 2 since, at most.
    assert 599 - 14 <= used.total.spent_nanos + used.total.held_nanos <= 600
    await assert_books_balance(store)


async def test_a_change_of_limits_does_not_overtake_the_one_before(store: Store, alice: Account) -> None:
    await pay(store, new_request("paid", account_id=alice.id), settlement(7))
    changes = [
        spend(total=100),
        LimitsChange(total_nanos=None),
        spend(day=50),
        LimitsChange(concurrent=3),
        LimitsChange(day_nanos=None),
    ]

    done = await asyncio.gather(*(store.set_account_limits("alice", change, NOW_MS) for change in changes))

    assert [(one.limits or NO_LIMITS).spend for one in done] == [
        SpendLimits(total=Nanos(100)),
        SpendLimits(),
        SpendLimits(day=Nanos(50)),
        SpendLimits(day=Nanos(50)),
        SpendLimits(),
    ]
    assert (await store.account("alice")).limits == Limits(concurrent=3)
    await assert_books_balance(store)


async def test_whoever_gives_up_on_a_first_limit_has_set_it_all_the_same_and_so_has_a_close(reopen: Open) -> None:
    store = await reopen()
    account = await store.create_account("alice", Nanos(1000), NOW_MS)
    await pay(store, new_request("paid", account_id=account.id), settlement(7))

    store.set_account_limits("alice", spend(total=100), NOW_MS).cancel()
    await store.close()

    again = await reopen()
    assert await use(again) == [KeyUse("alice", "", None, None, both(7, 0))]
    await assert_books_balance(again)


async def test_limits_count_videos_retries_and_requests_without_a_key(store: Store, alice: Account) -> None:
    await store.set_account_limits("alice", spend(day=300), NOW_MS)
    video = new_video(account_id=alice.id)
    await store.place_task(video, task_of(video), NOW_MS)
    await store.place_hold(new_request("claimed", account_id=alice.id, claim=new_claim()))
    assert await use(store) == [KeyUse("alice", "", both(0, 200), None, None)]
    second = new_video("vreq_2", account_id=alice.id, hold_nanos=101)

    with pytest.raises(SpendLimitError):
        await store.place_task(second, task_of(second), NOW_MS)
    with pytest.raises(SpendLimitError):
        await store.place_hold(new_request("more", account_id=alice.id, hold_nanos=101, claim=new_claim("retry-2")))

    await store.advance_task(video.id, submitted(), NOW_MS)
    await store.advance_task(video.id, made(), NOW_MS)
    await store.settle("claimed", settlement(7), NOW_MS, StoredAnswer(200, b"{}"))
    assert await use(store) == [KeyUse("alice", "", both(107, 0), None, None)]
    assert await store.settle("claimed", settlement(7), NOW_MS) is Settled.BEFORE
    assert await use(store) == [KeyUse("alice", "", both(107, 0), None, None)]
    await assert_books_balance(store)


async def test_a_balance_that_does_not_cover_a_hold_leaves_the_limits_as_they_were(store: Store, alice: Account) -> None:
    await store.set_account_limits("alice", spend(day=10_000), NOW_MS)
    await pay(store, new_request("paid", account_id=alice.id, hold_nanos=400), settlement(400))

    with pytest.raises(InsufficientFundsError):
        await store.place_hold(new_request("much", account_id=alice.id, hold_nanos=601))
    with pytest.raises(ValueError, match="cannot be recorded"):
        await store.place_hold(new_request("paid", account_id=alice.id, hold_nanos=1))

    assert await use(store) == [KeyUse("alice", "", both(400, 0), None, None)]
    await store.place_hold(new_request("fits", account_id=alice.id, hold_nanos=600))
    await assert_books_balance(store)


async def test_a_task_that_cannot_be_recorded_leaves_the_limits_as_they_were(store: Store, alice: Account) -> None:
    await store.set_account_limits("alice", spend(day=150), NOW_MS)
    video = new_video(account_id=alice.id)

    with pytest.raises(ValueError, match="cannot be recorded"):
        await store.place_task(video, replace(task_of(video), duration_seconds=0), NOW_MS)  # after its hold was counted

    await store.place_task(video, task_of(video), NOW_MS)
    await assert_books_balance(store)


async def test_a_limit_that_is_lowered_below_what_is_spent_refuses_until_it_begins_anew(store: Store, alice: Account) -> None:
    await store.set_account_limits("alice", spend(day=100), NOW_MS)
    await pay(store, new_request("paid", account_id=alice.id), settlement(80))
    await store.set_account_limits("alice", spend(day=50), NOW_MS)

    with pytest.raises(SpendLimitError) as refused:
        await store.place_hold(new_request("more", account_id=alice.id, hold_nanos=1))

    assert refused.value.left_nanos == 0
    await store.place_hold(new_request("tomorrow", account_id=alice.id, hold_nanos=50, created_at_ms=TOMORROW_MS))
    await store.set_account_limits("alice", LimitsChange(day_nanos=None), NOW_MS)
    await store.place_hold(new_request("more", account_id=alice.id))
    assert await use(store) == []
    await store.settle("tomorrow", settlement(1), TOMORROW_MS)
    await assert_books_balance(store)
