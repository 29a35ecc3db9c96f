"""Idempotency keys that two gateways are asked with at once: one store, and an `Idempotency` for each of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.billing import idempotency
from proxy.billing.claims import ClaimsElsewhere
from proxy.billing.holds import hold_refused
from proxy.billing.idempotency import Idempotency, kept
from proxy.core.errors import IdempotencyConflictError
from proxy.core.money import Nanos
from proxy.edge.body import Posted
from proxy.store.contract import Store
from proxy.store.errors import KeyClaimedError, StoreUnavailableError
from proxy.store.sqlite import open_store
from proxy.store.values import IdempotencyClaim
from proxy.tasks import TaskGroup
from tests.support.books import assert_books_balance
from tests.unit.billing.test_idempotency import CLOCK, RELEASE, Caller, request

Work = Callable[[IdempotencyClaim | None], Awaitable[str]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "books.db")
    await opened.create_account("acme", Nanos(1000), CLOCK.now_ms())
    yield opened
    await assert_books_balance(opened)
    await opened.close()


@asynccontextmanager
async def gateways(store: Store) -> AsyncIterator[tuple[Idempotency, Idempotency]]:
    minding, both = TaskGroup("peers"), []
    for _ in range(2):
        elsewhere = ClaimsElsewhere(store)
        minding.spawn(elsewhere.run(), "run")
        both.append(Idempotency(store, CLOCK, elsewhere))
    yield both[0], both[1]
    await minding.cancel()


def working(store: Store, name: str, begun: asyncio.Event, go_on: asyncio.Event, *, is_kept: bool = True) -> Work:
    """Return work that holds, waits, settles and returns its name, as a handler does."""

    async def work(claim: IdempotencyClaim | None) -> str:
        try:
            await store.place_hold(request(f"req_{name}", claim))
        except KeyClaimedError as fault:
            raise hold_refused(fault) from None
        begun.set()
        await go_on.wait()
        await store.settle(f"req_{name}", RELEASE, CLOCK.now_ms(), kept(claim, 200, name.encode()) if is_kept else None)
        return f"200 {name}"

    return work


async def until_it_waits(keys: Idempotency) -> None:
    assert keys._elsewhere is not None
    async with asyncio.timeout(10):
        while not keys._elsewhere._waiting:  # noqa: ASYNC110 - it says nothing by itself
            await asyncio.sleep(0)


async def test_who_comes_second_at_another_gateway_gets_the_first_ones_answer(store: Store) -> None:
    begun, go_on, tasks = asyncio.Event(), asyncio.Event(), TaskGroup("calls")
    async with gateways(store) as (here, there):
        first = tasks.spawn(here.once(Caller(), Posted({}), working(store, "first", begun, go_on)), "first")
        await begun.wait()
        second = tasks.spawn(there.once(caller := Caller(), Posted({}), working(store, "second", begun, go_on)), "second")
        await until_it_waits(there)
        go_on.set()

        assert [await first, await second] == ["200 first", "200 first"]
        assert caller.replayed == ["req_first"]


async def test_who_loses_by_the_moment_between_look_and_hold_gets_the_answer_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, tasks = asyncio.Event(), asyncio.Event(), TaskGroup("calls")
    async with gateways(store) as (here, there):
        first = tasks.spawn(here.once(Caller(), Posted({}), working(store, "first", begun, go_on)), "first")
        await begun.wait()
        look, looks = store.claimed_key, []

        async def late(account_id: int, key: str, now_ms: int) -> object:
            looks.append(key)
            return None if len(looks) == 1 else await look(account_id, key, now_ms)

        monkeypatch.setattr(store, "claimed_key", late)
        second = tasks.spawn(there.once(Caller(), Posted({}), working(store, "second", begun, go_on)), "second")
        await until_it_waits(there)
        go_on.set()

        assert [await first, await second] == ["200 first", "200 first"]


async def test_when_the_first_gives_its_key_back_the_one_elsewhere_does_the_work(store: Store) -> None:
    begun, go_on, tasks = asyncio.Event(), asyncio.Event(), TaskGroup("calls")
    async with gateways(store) as (here, there):
        first = tasks.spawn(here.once(Caller(), Posted({}), working(store, "first", begun, go_on, is_kept=False)), "first")
        await begun.wait()
        second = tasks.spawn(there.once(Caller(), Posted({}), working(store, "second", begun, go_on)), "second")
        await until_it_waits(there)
        go_on.set()

        assert [await first, await second] == ["200 first", "200 second"]


async def test_another_body_is_a_conflict_at_once(store: Store) -> None:
    begun, go_on, tasks = asyncio.Event(), asyncio.Event(), TaskGroup("calls")
    async with gateways(store) as (here, there):
        first = tasks.spawn(here.once(Caller(), Posted({}), working(store, "first", begun, go_on)), "first")
        await begun.wait()

        with pytest.raises(IdempotencyConflictError, match="was used for another request"):
            await there.once(Caller(), Posted({"n": 2}), working(store, "second", begun, go_on))

        go_on.set()
        await first


async def test_a_first_one_that_takes_too_long_is_a_conflict_to_be_retried(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "WAIT_SECONDS_MAX", 0.01)
    begun, go_on, tasks = asyncio.Event(), asyncio.Event(), TaskGroup("calls")
    async with gateways(store) as (here, there):
        first = tasks.spawn(here.once(Caller(), Posted({}), working(store, "first", begun, go_on)), "first")
        await begun.wait()

        with pytest.raises(IdempotencyConflictError, match="is not settled yet") as conflict:
            await there.once(Caller(), Posted({}), working(store, "second", begun, go_on))

        assert conflict.value.should_retry
        go_on.set()
        await first


async def test_a_store_that_cannot_be_read_for_a_while_lets_them_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, tasks = asyncio.Event(), asyncio.Event(), TaskGroup("calls")
    async with gateways(store) as (here, there):
        first = tasks.spawn(here.once(Caller(), Posted({}), working(store, "first", begun, go_on)), "first")
        await begun.wait()
        look, failed = store.claims_under_way, asyncio.Event()

        async def failing(places: list[tuple[int, str]]) -> set[tuple[int, str]]:
            if failed.is_set():
                return await look(places)
            failed.set()
            raise StoreUnavailableError("the database is away")

        monkeypatch.setattr(store, "claims_under_way", failing)
        second = tasks.spawn(there.once(Caller(), Posted({}), working(store, "second", begun, go_on)), "second")
        await failed.wait()
        go_on.set()

        assert [await first, await second] == ["200 first", "200 first"]
