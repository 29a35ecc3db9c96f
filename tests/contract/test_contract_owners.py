"""Owners of open requests: what a dead one left is found and settled once, what a living one holds is left alone."""

import asyncio

from proxy.core.money import Nanos
from proxy.core.settlement import Outcome
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.report import SubmitUnknown
from proxy.store.contract import Store
from proxy.store.values import Account
from tests.contract.conftest import Open
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, hears, new_request, new_video, settlement, submitted, task_of

INTERRUPTED = settlement(0, outcome=Outcome.INTERRUPTED)


async def left_by_another(reopen: Open, *request_ids: str) -> Account:
    """Place a hold of 100 for each, as an owner that ends without settling them."""
    store = await reopen()
    account = await store.create_account("alice", Nanos(1000), NOW_MS)
    for number, request_id in enumerate(request_ids):
        await store.place_hold(new_request(request_id, account_id=account.id, hold_nanos=100, created_at_ms=NOW_MS + number))
    await store.close()
    return account


async def orphans(store: Store) -> list[str]:
    return [request.id for request in await store.orphaned_requests()]


def ids_of(tasks: list[VideoTask]) -> list[str]:
    return [task.id for task in tasks]


async def test_a_request_of_a_living_owner_is_no_orphan(store: Store, alice: Account) -> None:
    await store.place_hold(new_request(account_id=alice.id))
    video = new_video(account_id=alice.id)
    await store.place_task(video, task_of(video), NOW_MS)

    assert await orphans(store) == []
    assert await store.orphaned_tasks() == []
    assert len(await store.open_requests()) == 2
    await assert_books_balance(store)


async def test_what_a_dead_owner_left_is_told_oldest_first_beside_what_the_living_one_holds(reopen: Open) -> None:
    account = await left_by_another(reopen, "req_b", "req_a")

    store = await reopen()
    await store.place_hold(new_request("req_mine", account_id=account.id, created_at_ms=NOW_MS - 1))

    assert await orphans(store) == ["req_b", "req_a"]
    assert [request.id for request in await store.open_requests()] == ["req_mine", "req_b", "req_a"]
    await assert_books_balance(store)


async def test_each_opening_is_an_owner_of_its_own(reopen: Open) -> None:
    account = await left_by_another(reopen, "req_1")
    second = await reopen()
    await second.place_hold(new_request("req_2", account_id=account.id, created_at_ms=NOW_MS + 1))
    await second.close()

    third = await reopen()
    await third.place_hold(new_request("req_3", account_id=account.id, created_at_ms=NOW_MS + 2))

    owners = [request.owner for request in await third.open_requests()]
    assert None not in owners
    assert len(set(owners)) == 3
    assert await orphans(third) == ["req_1", "req_2"]
    await assert_books_balance(third)


async def test_holds_of_one_batch_are_all_their_owners(reopen: Open) -> None:
    account = await left_by_another(reopen)
    before = await reopen()
    await asyncio.gather(
        *(before.place_hold(new_request(f"req_{n:03}", account_id=account.id, hold_nanos=1, created_at_ms=n)) for n in range(200))
    )
    await before.close()

    store = await reopen()

    left = await store.orphaned_requests()
    assert [request.id for request in left] == [f"req_{n:03}" for n in range(200)]
    assert len({request.owner for request in left}) == 1
    await assert_books_balance(store)


async def test_what_dead_owners_left_is_told_by_slices_and_the_next_one_once_one_is_settled(reopen: Open) -> None:
    account = await left_by_another(reopen, "req_1", "req_3", "req_5")
    before = await reopen()
    video = new_video("vreq_4", account_id=account.id, created_at_ms=NOW_MS - 1)
    await before.place_task(video, task_of(video), NOW_MS)
    await before.place_hold(new_request("req_0", account_id=account.id, created_at_ms=NOW_MS - 2))
    await before.close()
    store = await reopen()

    told = []
    while some := await store.orphaned_requests(2, with_videos=False):
        told.append([request.id for request in some])
        for request in some:
            await store.settle(request.id, INTERRUPTED, NOW_MS)

    assert told == [["req_0", "req_1"], ["req_3", "req_5"]]
    assert await orphans(store) == ["vreq_4"]
    await assert_books_balance(store)


async def test_an_orphan_is_settled_once_whoever_tries_again(reopen: Open) -> None:
    await left_by_another(reopen, "req_1", "req_2")
    store = await reopen()
    first, again = await store.orphaned_requests(), await store.orphaned_requests()  # as two who recover at a time

    for request in (*first, *again):
        await store.settle(request.id, INTERRUPTED, NOW_MS + 5)

    assert await orphans(store) == []
    account = await store.account("alice")
    assert (account.balance_nanos, account.held_nanos) == (1000, 0)
    found = await store.receipt("req_1")
    assert found is not None
    assert (found[0].settlement, found[0].settled_at_ms) == (INTERRUPTED, NOW_MS + 5)
    await assert_books_balance(store)


async def test_tasks_of_a_dead_owner_are_told_until_they_end(reopen: Open) -> None:
    account = await left_by_another(reopen)
    before = await reopen()
    for name, age_ms in (("vreq_answered", 9), ("vreq_submitting", 5), ("vreq_ended", 7)):
        video = new_video(name, account_id=account.id, created_at_ms=NOW_MS - age_ms)
        await before.place_task(video, task_of(video), NOW_MS)
    await before.advance_task("vreq_answered", submitted("cgt-1"), NOW_MS)
    await before.close()
    store = await reopen()
    mine = new_video("vreq_mine", account_id=account.id)
    await store.place_task(mine, task_of(mine), NOW_MS)

    left = await store.orphaned_tasks()
    await store.advance_task("vreq_submitting", hears(SubmitUnknown("the process ended")), NOW_MS)
    lost = await store.task("vreq_submitting")

    assert ids_of(left) == ["vreq_answered", "vreq_ended", "vreq_submitting"]
    assert [task.state for task in left] == [TaskState.PENDING, TaskState.SUBMITTING, TaskState.SUBMITTING]
    assert ids_of(await store.open_tasks()) == ["vreq_answered", "vreq_ended", "vreq_submitting", "vreq_mine"]
    assert lost is not None
    assert lost.lost_at_ms == NOW_MS
    await assert_books_balance(store)
