"""Holds and their settlement with the real store, and with a store that fails in between."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.billing import holds
from proxy.billing.holds import Billing, hold_refused
from proxy.clock import SystemClock
from proxy.core.errors import IdempotencyConflictError, InsufficientBalanceError, InternalError, ModelUnavailableError
from proxy.core.limits import Period
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome, Settlement
from proxy.jobs.note_use import NoteUse
from proxy.store.errors import (
    InsufficientFundsError,
    KeyClaimedError,
    KeyRefusal,
    KeyRefusedError,
    SpendLimitError,
    StoreUnavailableError,
)
from proxy.store.sqlite import open_store
from proxy.store.sqlite.store import SqliteStore
from proxy.store.values import Account, ClaimedKey, IdempotencyClaim, OpenRequest, Settled
from proxy.tasks import TaskGroup
from proxy.telemetry.metrics import Metrics
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_key, new_request, new_video, settlement, task_of


class FailingStore(SqliteStore):
    """The real store, whose first `failures` settlements fail for lack of room."""

    failures = 0
    attempts = 0
    largest_slice = 0
    """Most requests of dead owners that were read at once."""
    when_placed: Callable[[], object] = staticmethod(lambda: None)
    """Called when a hold is written, before its waiter wakes up."""

    def settle(self, *args: Any, **more: Any) -> asyncio.Future[Settled]:
        self.attempts += 1
        return self._refused() if self.attempts <= self.failures else super().settle(*args, **more)

    def place_hold(self, *args: Any, **more: Any) -> asyncio.Future[None]:
        placed: asyncio.Future[None] = self._refused() if self.failures else super().place_hold(*args, **more)
        placed.add_done_callback(lambda _placed: self.when_placed())
        return placed

    async def orphaned_requests(self, *args: Any, **more: Any) -> list[OpenRequest]:
        found = await super().orphaned_requests(*args, **more)
        self.largest_slice = max(self.largest_slice, len(found))
        return found

    def _refused(self) -> asyncio.Future[Any]:
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(StoreUnavailableError("disk full"))
        return refused


@dataclass
class Rig:
    billing: Billing
    store: FailingStore
    tasks: TaskGroup
    account_id: int
    metrics: Metrics

    def counted(self) -> dict[str, int]:
        """Return the number of settlements by outcome, from the metrics."""
        found = re.findall(r'llm_proxy_outcomes_total{.*outcome="(\w+)".*} (\d+)', self.metrics.render().decode())
        return {outcome: int(float(count)) for outcome, count in found}

    async def restart(self) -> None:
        """Open the books again, as the next process does: the owner of what is open is dead then."""
        await self.store.close()
        self.store = await opened(self.store.path)
        self.billing = Billing(self.store, self.tasks, SystemClock(), self.metrics)

    async def account(self) -> Account:
        return await self.store.account_by_id(self.account_id)

    async def settlement(self, request_id: str) -> Settlement | None:
        found = await self.store.receipt(request_id)
        assert found is not None
        return found[0].settlement


async def opened(path: Path) -> FailingStore:
    store = await open_store(path)
    store.__class__ = FailingStore
    assert isinstance(store, FailingStore)
    return store


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(holds, "RETRY_SECONDS_FIRST", 0.001)
    store = await opened(tmp_path / "books.db")
    account = await store.create_account("acme", Nanos(1000), 0)
    tasks, metrics = TaskGroup("settlement"), Metrics()
    rig = Rig(Billing(store, tasks, SystemClock(), metrics), store, tasks, account.id, metrics)
    yield rig
    assert await tasks.drain(5) == 0
    await assert_books_balance(rig.store)
    await rig.store.close()


async def test_a_hold_is_held_and_its_settlement_charges_and_releases(rig: Rig) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    held = await rig.account()
    hold.settle(settlement(150))
    await hold.settled()

    after = await rig.account()
    assert (held.balance_nanos, held.held_nanos) == (1000, 400)
    assert (after.balance_nanos, after.held_nanos) == (850, 0)


async def test_only_the_first_settlement_counts(rig: Rig) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))

    hold.settle(settlement(150))
    hold.settle(settlement(400))
    await hold.settled()

    assert (await rig.account()).balance_nanos == 850


async def test_a_balance_that_does_not_cover_it_is_an_error_of_the_customers(rig: Rig) -> None:
    await rig.billing.hold(new_request("req_1", account_id=rig.account_id, hold_nanos=601))

    with pytest.raises(InsufficientBalanceError):
        await rig.billing.hold(new_request("req_2", account_id=rig.account_id, hold_nanos=400))

    assert (await rig.account()).held_nanos == 601


async def test_a_store_without_room_takes_no_hold_and_says_when_to_come_back(rig: Rig) -> None:
    rig.store.failures = 1

    with pytest.raises(ModelUnavailableError) as raised:
        await rig.billing.hold(new_request(account_id=rig.account_id))

    assert raised.value.retry_after_seconds == 5
    assert (await rig.account()).held_nanos == 0


async def test_a_settlement_is_tried_until_the_store_takes_it(rig: Rig) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    rig.store.failures = 4

    hold.settle(settlement(150))
    await hold.settled()

    assert rig.store.attempts == 5
    assert (await rig.account()).balance_nanos == 850


async def test_who_waits_too_long_is_told_and_the_settlement_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "SETTLE_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(holds, "RETRY_SECONDS_FIRST", 0.2)
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    rig.store.failures = 1

    hold.settle(settlement(150))
    with pytest.raises(InternalError) as raised:
        await hold.settled()

    assert raised.value.should_retry is False
    assert await rig.tasks.drain(5) == 0
    assert (await rig.account()).balance_nanos == 850


async def test_who_waits_for_a_settlement_that_the_store_then_refuses_is_told(rig: Rig) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    rig.store.failures = 1

    hold.settle(settlement(500))  # more than was held: a bug of ours
    with pytest.raises(InternalError) as raised:
        async with asyncio.timeout(5):
            await hold.settled()

    assert raised.value.should_retry is False
    assert (await rig.account()).held_nanos == 400


async def test_cancelling_who_waits_does_not_cancel_the_settlement(rig: Rig) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    hold.settle(settlement(150))

    async def wait() -> None:
        await hold.settled()

    waiting = rig.tasks.spawn(wait(), "wait")
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])

    assert waiting.cancelled()
    assert await rig.tasks.drain(5) == 0
    assert (await rig.account()).balance_nanos == 850


@pytest.mark.parametrize("moment", ["before it asks", "while it is written", "as it is written"])
async def test_a_hold_whose_placing_is_cancelled_ends_without_its_caller(rig: Rig, moment: str) -> None:
    placing = rig.tasks.spawn(rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400)), "hold")
    if moment == "as it is written":
        rig.store.when_placed = placing.cancel
    if moment != "before it asks":
        await asyncio.sleep(0)
    if moment != "as it is written":
        placing.cancel()

    await asyncio.wait([placing])
    assert await rig.tasks.drain(5) == 0

    assert placing.cancelled()
    assert (await rig.account()).held_nanos == 0
    if moment != "before it asks":
        ended = await rig.settlement("req_1")
        assert ended is not None
        assert (ended.outcome, ended.charge_nanos) == (Outcome.INTERRUPTED, 0)


@pytest.mark.parametrize("failures", [0, 2])
async def test_each_settlement_is_counted_once(rig: Rig, failures: int) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    rig.store.failures = failures

    hold.settle(settlement(150))
    await hold.settled()
    rig.billing.commit(hold.request, settlement(150))  # like a settlement whose first commit was not confirmed
    await rig.tasks.drain(5)

    assert rig.counted() == {"complete": 1}


async def test_one_that_was_written_though_its_writer_said_no_is_counted_by_nobody_twice(rig: Rig) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    hold.settle(settlement(150))
    await hold.settled()
    rig.store.attempts, rig.store.failures = 0, 1

    await rig.billing.commit(hold.request, settlement(150))

    assert rig.counted() == {"complete": 1}


@pytest.mark.parametrize("failures", [0, 2])
async def test_an_answer_whose_request_was_settled_otherwise_before_is_not_told_as_complete(rig: Rig, failures: int) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    await rig.store.settle("req_1", holds.INTERRUPTED, NOW_MS)  # as recovery by another process, which took this one for dead
    rig.store.attempts, rig.store.failures = 0, failures

    hold.settle(settlement(150))
    with pytest.raises(InternalError) as raised:
        await hold.settled()

    assert raised.value.should_retry is False
    assert rig.counted() == {}
    account = await rig.account()
    assert (account.balance_nanos, account.held_nanos) == (1000, 0)


async def test_a_drain_waits_for_a_settlement_that_nobody_waits_for(rig: Rig) -> None:
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400))
    hold.settle(settlement(150))

    assert len(rig.tasks) == 1
    assert await rig.tasks.drain(5) == 0

    assert (await rig.account()).balance_nanos == 850


async def test_a_settlement_of_nothing_that_was_held_is_told_to_who_waits(rig: Rig) -> None:
    durable = rig.billing.commit(new_request("req_unheard_of", account_id=rig.account_id), settlement(150))

    with pytest.raises(InternalError):
        await durable
    assert rig.counted() == {}


@pytest.mark.parametrize("failures", [0, 2])
async def test_an_abandoned_hold_is_ended_and_counted_also_where_the_disk_is_full_for_a_while(rig: Rig, failures: int) -> None:
    placing = rig.tasks.spawn(rig.billing.hold(new_request(account_id=rig.account_id, hold_nanos=400)), "hold")
    await asyncio.sleep(0)
    rig.store.failures = failures
    placing.cancel()

    await asyncio.wait([placing])
    assert await rig.tasks.drain(5) == 0

    assert (await rig.account()).held_nanos == 0
    assert rig.counted() == {"interrupted": 1}


async def test_what_the_last_process_left_open_is_released_as_interrupted(rig: Rig) -> None:
    for number in range(3):
        await rig.store.place_hold(new_request(f"req_{number}", account_id=rig.account_id, hold_nanos=100))
    await rig.restart()

    recovered = await rig.billing.recover()

    ended = [await rig.settlement(f"req_{number}") for number in range(3)]
    assert recovered == 3
    assert {(one.outcome, one.charge_nanos) for one in ended if one is not None} == {(Outcome.INTERRUPTED, 0)}
    assert await rig.billing.recover() == 0
    account = await rig.account()
    assert (account.balance_nanos, account.held_nanos) == (1000, 0)


@pytest.mark.parametrize("left", [0, 1, 4, 5])
async def test_what_was_left_is_read_and_released_by_slices(rig: Rig, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    monkeypatch.setattr(holds, "RECOVER_SLICE", 2)
    for number in range(left):
        await rig.store.place_hold(new_request(f"req_{number}", account_id=rig.account_id, hold_nanos=100))
    await rig.restart()

    assert await rig.billing.recover() == left
    assert rig.store.largest_slice <= 2
    assert await rig.store.open_requests() == []
    await assert_books_balance(rig.store)


async def test_recovery_leaves_alone_what_a_living_process_holds(rig: Rig) -> None:
    await rig.store.place_hold(new_request("req_dead", account_id=rig.account_id, hold_nanos=100))
    await rig.restart()
    hold = await rig.billing.hold(new_request("req_alive", account_id=rig.account_id, hold_nanos=400))

    recovered = await rig.billing.recover()

    assert recovered == 1
    assert [request.id for request in await rig.store.open_requests()] == ["req_alive"]
    hold.settle(settlement(150))
    await hold.settled()
    account = await rig.account()
    assert (account.balance_nanos, account.held_nanos) == (850, 0)


async def test_a_start_releases_calls_and_leaves_videos_to_their_tasks(rig: Rig) -> None:
    video = new_video(account_id=rig.account_id, hold_nanos=300)
    await rig.store.place_task(video, task_of(video), NOW_MS)
    await rig.store.place_hold(new_request(account_id=rig.account_id, hold_nanos=100))
    await rig.restart()

    recovered = await rig.billing.recover()

    assert recovered == 1
    assert [request.id for request in await rig.store.open_requests()] == [video.id]
    assert [task.id for task in await rig.store.open_tasks()] == [video.id]
    account = await rig.account()
    assert (account.balance_nanos, account.held_nanos) == (1000, 300)
    await assert_books_balance(rig.store)


def test_a_refused_hold_is_told_by_what_refused_it() -> None:
    claimed = ClaimedKey(IdempotencyClaim("order-1", b"\0" * 32), "req_1", None)
    short = InsufficientFundsError("account acme has …", available_nanos=Nanos(500_000_000), needed_nanos=Nanos(7_540_000_000))

    told = [hold_refused(fault) for fault in (short, KeyClaimedError(claimed), StoreUnavailableError("disk full"))]

    assert [type(error) for error in told] == [InsufficientBalanceError, IdempotencyConflictError, ModelUnavailableError]
    assert "disk" not in str(told[-1])
    assert str(told[0]) == "The account has ¥0.50 available, and this request needs ¥7.54, the most that it can cost; or top up"
    assert told[1].should_retry is True  # the first call is about to be settled


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("revoked", (401, "INVALID_API_KEY", "Invalid or revoked API key")),
        ("rolled", (401, "INVALID_API_KEY", "This API key was replaced by another one, and expired on 2025-11-24T16:00:00.000Z")),
        ("expired", (401, "INVALID_API_KEY", "This API key expired on 2025-11-24T16:00:00.000Z")),
        ("paused", (401, "INVALID_API_KEY", "This API key is paused")),
        ("suspended", (403, "ACCOUNT_SUSPENDED", "The account is suspended; please ask who runs this service")),
        ("account_expired", (401, "INVALID_API_KEY", "The account of this API key expired on 2025-11-24T16:00:00.000Z")),
    ],
)
def test_a_key_that_another_gateway_changed_is_refused_in_the_words_of_the_entrance(
    reason: KeyRefusal, told: tuple[int, str, str]
) -> None:
    refused = hold_refused(KeyRefusedError("key key_1 …", reason=reason, at_ms=NOW_MS))

    assert (refused.status, refused.code, str(refused)) == told


def test_a_money_limit_that_is_reached_says_what_is_left_and_when_it_begins_anew() -> None:
    money = {"limit_nanos": Nanos(5_000_000_000), "left_nanos": Nanos(10_000_000), "needed_nanos": Nanos(7_540_000_000)}
    daily = SpendLimitError("…", whose="key", period=Period.DAY, resets_at_ms=NOW_MS, **money)
    for_ever = SpendLimitError("…", whose="account", period=Period.TOTAL, resets_at_ms=None, **money)

    told = [hold_refused(fault, "To need less: ask for less") for fault in (daily, for_ever)]

    assert [(error.status, error.code, error.should_retry) for error in told] == [(402, "KEY_LIMIT_REACHED", False)] * 2
    assert str(told[0]) == (
        "This key may spend ¥5.00 a day, which begins anew at 2025-11-24T16:00:00.000Z: ¥0.01 of it is left, and this request needs "
        "¥7.54, the most that it can cost. To need less: ask for less"
    )
    assert str(told[1]).startswith("The account may spend ¥5.00 in all: ¥0.01 of it is left")


async def test_a_settlement_notes_when_its_key_was_used(rig: Rig) -> None:
    await rig.store.create_key("acme", new_key())
    hold = await rig.billing.hold(new_request(account_id=rig.account_id, key_id="key_1"))
    assert rig.billing.used_at_ms == {}

    hold.settle(settlement(7))
    await hold.settled()

    before_ms = SystemClock().now_ms()
    (used_at_ms,) = rig.billing.used_at_ms.values()
    assert before_ms - 60_000 < used_at_ms <= before_ms
    await NoteUse(rig.store, rig.billing.used_at_ms)()
    assert rig.billing.used_at_ms == {}
    assert [key.last_used_at_ms for key in await rig.store.keys()] == [used_at_ms]
    await assert_books_balance(rig.store)


async def test_what_was_used_is_written_later_if_the_store_cannot_write(rig: Rig) -> None:
    await rig.store.create_key("acme", new_key())
    used_at_ms = {"key_1": 5}
    await rig.store.close()

    noting = NoteUse(rig.store, used_at_ms)
    with pytest.raises(StoreUnavailableError):
        await noting()
    await noting.at_the_end()

    assert used_at_ms == {"key_1": 5}
