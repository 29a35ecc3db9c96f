"""Keys and accounts as a hold finds them, whatever the node that places it knows."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from proxy.core.limits import Limits, LimitsChange, SpendLimits
from proxy.core.money import Nanos
from proxy.store.errors import KeyClaimedError, KeyRefusal, KeyRefusedError, SpendLimitError, StoreRefusedError
from proxy.store.postgres import PostgresStore
from proxy.store.postgres.connection import Connection
from proxy.store.values import Account, NewKey, StoredAnswer
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_claim, new_key, new_request, reference, settlement
from tests.unit.store.postgres.conftest import Opens

LATER_MS = NOW_MS + 1000


async def revoke(store: PostgresStore) -> None:
    await store.revoke_key("key_1", NOW_MS)


async def roll(store: PostgresStore) -> None:
    await store.roll_key("key_1", new_key("key_2"), 500, NOW_MS)


async def expire(store: PostgresStore) -> None:
    await store.set_key_limits("key_1", LimitsChange(expires_at_ms=NOW_MS + 500), NOW_MS)


async def pause(store: PostgresStore) -> None:
    await store.set_key_limits("key_1", LimitsChange(paused_at_ms=NOW_MS), NOW_MS)


async def suspend(store: PostgresStore) -> None:
    await store.set_account_limits("alice", LimitsChange(paused_at_ms=NOW_MS), NOW_MS)


async def expire_account(store: PostgresStore) -> None:
    await store.set_account_limits("alice", LimitsChange(expires_at_ms=NOW_MS + 500), NOW_MS)


@pytest.mark.parametrize(
    ("change", "reason", "at_ms"),
    [
        (revoke, "revoked", NOW_MS),
        (roll, "rolled", NOW_MS + 500),
        (expire, "expired", NOW_MS + 500),
        (pause, "paused", NOW_MS),
        (suspend, "suspended", NOW_MS),
        (expire_account, "account_expired", NOW_MS + 500),
    ],
)
async def test_a_key_that_another_node_changed_places_no_hold_from_then_on(
    opens: Opens, change: Callable[[PostgresStore], Awaitable[None]], reason: KeyRefusal, at_ms: int
) -> None:
    store, other = await opens(), await opens()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    await store.create_key("alice", new_key("key_1"))
    await store.place_hold(new_request("req_1", account_id=alice.id, key_id="key_1"))
    await change(other)

    told = await asyncio.gather(
        store.place_hold(new_request("req_2", account_id=alice.id, key_id="key_1", created_at_ms=LATER_MS)),
        store.place_hold(new_request("req_3", account_id=alice.id, key_id="key_1", created_at_ms=LATER_MS, hold_nanos=0)),
        store.place_hold(new_request("req_4", account_id=bob.id, created_at_ms=LATER_MS)),
        return_exceptions=True,
    )

    for refused in told[:2]:
        assert isinstance(refused, KeyRefusedError)
        assert (refused.reason, refused.at_ms) == (reason, at_ms)
    assert told[2] is None
    await store.settle("req_1", settlement(60), LATER_MS)  # what was held before is settled as ever
    assert (await store.account("alice")).balance_nanos == 940
    await assert_books_balance(store)


async def test_a_key_of_another_account_places_no_hold(opens: Opens) -> None:
    store = await opens()
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.create_account("bob", Nanos(1000), NOW_MS)
    await store.create_key("bob", new_key("key_bob"))

    with pytest.raises(ValueError, match="there is no key key_bob of its account"):
        await store.place_hold(new_request(account_id=alice.id, key_id="key_bob"))
    await assert_books_balance(store)


async def test_no_hold_begins_after_a_revocation_is_committed(opens: Opens, sql: Connection) -> None:
    store, other = await opens(), await opens()
    alice = await store.create_account("alice", Nanos(10**9), NOW_MS)
    await store.create_key("alice", new_key("key_1"))
    enough, is_revoked = asyncio.Event(), asyncio.Event()
    begun_after: list[asyncio.Future[None]] = []
    placed = 0

    async def hold_on() -> None:
        nonlocal placed
        for number in range(100_000):
            future = store.place_hold(new_request(f"req_{number}", account_id=alice.id, key_id="key_1", hold_nanos=1))
            if is_revoked.is_set():
                begun_after.append(future)
            await asyncio.wait([future])
            placed += future.exception() is None
            if placed == 20:
                enough.set()
            if len(begun_after) > 20:
                return

    async with asyncio.TaskGroup() as group:
        holding = group.create_task(hold_on())
        await enough.wait()
        await other.revoke_key("key_1", NOW_MS)
        is_revoked.set()
        await holding

    assert [type(future.exception()) for future in begun_after] == [KeyRefusedError] * 21
    assert await sql.fetchval("SELECT count(*) FROM requests") == placed
    await assert_books_balance(store)


async def test_two_nodes_cannot_pass_a_money_limit_together(opens: Opens) -> None:
    one, other = await opens(), await opens()
    alice = await one.create_account("alice", Nanos(10_000), NOW_MS)
    key = new_key("key_1")
    limits = Limits(spend=SpendLimits(month=Nanos(37 * 3 + 2)))
    await one.create_key("alice", NewKey(key.id, key.name, key.prefix, key.sha256, key.created_at_ms, limits))

    told = await asyncio.gather(
        *(
            (one, other)[n % 2].place_hold(new_request(f"req_{n}", account_id=alice.id, hold_nanos=3, key_id="key_1"))
            for n in range(200)
        ),
        return_exceptions=True,
    )

    assert told.count(None) == 37
    assert {type(one) for one in told if one is not None} == {SpendLimitError}
    await assert_books_balance(one)


async def test_one_idempotency_key_on_two_nodes_at_once_is_one_requests(opens: Opens, sql: Connection) -> None:
    one, other = await opens(), await opens()
    alice = await one.create_account("alice", Nanos(100_000), NOW_MS)

    for turn in range(10):
        requests = [new_request(f"req_{turn}_{n}", account_id=alice.id, claim=new_claim(f"retry-{turn}")) for n in range(6)]
        told = await asyncio.gather(
            *((one, other)[n % 2].place_hold(request) for n, request in enumerate(requests)), return_exceptions=True
        )
        assert told.count(None) == 1
        owner = requests[told.index(None)]
        for refused in told:
            if refused is not None:
                assert isinstance(refused, KeyClaimedError)
                assert (refused.claimed.request_id, refused.claimed.claim, refused.claimed.answer) == (owner.id, owner.claim, None)
        await one.settle(owner.id, settlement(7), NOW_MS, StoredAnswer(200, b"{}\0"))
        with pytest.raises(KeyClaimedError) as again:
            await other.place_hold(requests[0])
        assert again.value.claimed.answer == StoredAnswer(200, b"{}\0")
    assert await sql.fetchval("SELECT count(*) FROM requests") == 10
    await assert_books_balance(one)


async def test_one_reference_told_to_two_nodes_at_once_is_booked_once(opens: Opens) -> None:
    stores = [await opens(), await opens()]
    for name in ("alice", "bob"):
        await stores[0].create_account(name, Nanos(1000), NOW_MS)

    for turn in range(10):
        told = await asyncio.gather(
            *(
                store.credit_account(name, Nanos(5), "", NOW_MS, reference(f"payment-{turn}"))
                for store, names in zip(stores, (("alice", "bob"), ("bob", "alice")), strict=True)  # so they meet at the reference
                for name in names
            ),
            return_exceptions=True,
        )
        refused = [one for one in told if isinstance(one, StoreRefusedError)]
        assert len(refused) == 2  # the other account's
        assert sum(not isinstance(one, BaseException) and one.is_new for one in told) == 1
    assert sum(account.balance_nanos for account in await stores[0].accounts()) == 2050
    await assert_books_balance(stores[0])


async def test_two_nodes_give_back_no_more_than_a_charge(opens: Opens) -> None:
    stores = [await opens(), await opens()]
    alice = await stores[0].create_account("alice", Nanos(1000), NOW_MS)

    for turn in range(8):
        request_id = f"req_{turn}"
        await stores[0].place_hold(new_request(request_id, account_id=alice.id))
        await stores[0].settle(request_id, settlement(60), NOW_MS)
        told = await asyncio.gather(
            *(stores[n % 2].refund_request(request_id, Nanos(25), "", NOW_MS, reference(f"{request_id} {n}")) for n in range(6)),
            return_exceptions=True,
        )
        assert [isinstance(one, StoreRefusedError) for one in told].count(True) == 4  # 2 × 25 of 60

    assert (await stores[0].account("alice")).balance_nanos == 1000 - 8 * (60 - 50)
    await assert_books_balance(stores[1])


async def test_an_account_is_closed_or_holds_whichever_node_was_first(opens: Opens) -> None:
    one, other = await opens(), await opens()
    for turn in range(10):
        account: Account = await one.create_account(f"account {turn}", Nanos(1000), NOW_MS)

        closing, *holds = await asyncio.gather(
            other.close_account(account.name, NOW_MS),
            *(one.place_hold(new_request(f"req_{turn}_{n}", account_id=account.id, hold_nanos=0)) for n in range(3)),
            return_exceptions=True,
        )

        assert isinstance(closing, Account) == all(isinstance(one, StoreRefusedError) for one in holds)
        assert isinstance(closing, StoreRefusedError) == (holds == [None] * 3)
    await assert_books_balance(one)
