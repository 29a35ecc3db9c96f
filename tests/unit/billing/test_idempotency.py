"""Idempotency keys in use in one process: which calls wait, which go on, and that no call leaves anything behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.billing.idempotency import KEPT_BYTES_MAX, Idempotency, digest, kept
from proxy.clock import SystemClock
from proxy.core.catalog import Kind
from proxy.core.errors import IdempotencyConflictError, InvalidParameterError
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome, Settlement, UsageSource
from proxy.edge.body import Posted
from proxy.store.contract import Store
from proxy.store.errors import StoreUnavailableError
from proxy.store.sqlite import open_store
from proxy.store.values import IdempotencyClaim, NewRequest, StoredAnswer
from tests.support.books import assert_books_balance

CLOCK = SystemClock()
RELEASE = Settlement(Outcome.COMPLETE, UsageSource.NONE, Nanos(0))
Work = Callable[[IdempotencyClaim | None], Awaitable[str]]


@dataclass
class Caller:
    """A request whose answers are texts."""

    account_id: int = 3
    keys: tuple[str, ...] = ("k",)
    route: str = "/images/generations"
    replayed: list[str] = field(default_factory=list)

    def header_values(self, name: str) -> list[str]:
        assert name == "Idempotency-Key"
        return list(self.keys)

    async def wait_for(self, event: asyncio.Event) -> None:
        await event.wait()

    def replay(self, request_id: str, status: int, body: bytes) -> str:
        self.replayed.append(request_id)
        return f"{status} {body.decode()}"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "books.db")
    await opened.create_account("acme", Nanos(1000), CLOCK.now_ms())
    yield opened
    await assert_books_balance(opened)
    await opened.close()


def working(store: Store, text: str = "made", *, status: int = 200) -> Work:
    """Return work that holds, settles with its answer, and returns ``text``."""
    made: list[str] = []

    async def work(claim: IdempotencyClaim | None) -> str:
        request_id = f"req_{text}_{len(made)}"
        made.append(request_id)
        await store.place_hold(request(request_id, claim))
        await store.settle(request_id, RELEASE, CLOCK.now_ms(), kept(claim, status, text.encode()))
        return f"{status} {text}"

    return work


def request(request_id: str, claim: IdempotencyClaim | None) -> NewRequest:
    return NewRequest(
        request_id,
        Kind.IMAGE,
        3,
        "",
        "m",
        "ark",
        "m",
        stream=False,
        hold_nanos=Nanos(0),
        price="{}",
        created_at_ms=CLOCK.now_ms(),
        claim=claim,
    )


async def test_without_a_key_the_work_is_simply_done(store: Store) -> None:
    keys = Idempotency(store, CLOCK)
    claims: list[IdempotencyClaim | None] = []

    async def work(claim: IdempotencyClaim | None) -> str:
        claims.append(claim)
        return "done"

    assert [await keys.once(Caller(keys=()), Posted({}), work) for _ in range(2)] == ["done", "done"]
    assert claims == [None, None]


async def test_the_second_call_is_answered_as_the_first_was_and_by_its_id(store: Store) -> None:
    keys, second = Idempotency(store, CLOCK), Caller()

    answers = [
        await keys.once(Caller(), Posted({"n": 1}), working(store)),
        await keys.once(second, Posted({"n": 1}), working(store, "again")),
    ]

    assert answers == ["200 made", "200 made"]
    assert second.replayed == ["req_made_0"]


async def test_the_claim_is_of_route_and_body_whatever_the_order_of_its_keys(store: Store) -> None:
    assert digest("/a", {"x": 1, "y": [{"b": 2, "a": 1}]}) == digest("/a", {"y": [{"a": 1, "b": 2}], "x": 1})
    bodies: list[object] = [{"x": 1}, {"x": "1"}, {"x": 1.0}, {"x": True}, {}, []]
    assert len({digest(route, body) for route in ("/a", "/b") for body in bodies}) == 12


@pytest.mark.parametrize("keys", [("",), (" ",), ("a b",), ("é",), ("x" * 256,), ("a", "a"), ("a", "b")])
async def test_what_is_no_key_is_refused_before_any_work(store: Store, keys: tuple[str, ...]) -> None:
    with pytest.raises(InvalidParameterError) as raised:
        await Idempotency(store, CLOCK).once(Caller(keys=keys), Posted({}), working(store))

    assert raised.value.param == "Idempotency-Key"


async def test_a_call_that_fails_or_is_cancelled_lets_the_next_in_line_go_on(store: Store) -> None:
    keys = Idempotency(store, CLOCK)
    begun, never = asyncio.Event(), asyncio.Event()

    async def stuck(_claim: IdempotencyClaim | None) -> str:
        begun.set()
        await never.wait()
        return "never"

    async def failing(_claim: IdempotencyClaim | None) -> str:
        raise RuntimeError("a bug")

    async with asyncio.TaskGroup() as group:
        first = group.create_task(keys.once(Caller(), Posted({}), stuck))
        await begun.wait()
        second = group.create_task(ended(keys.once(Caller(), Posted({}), failing)))
        third = group.create_task(keys.once(Caller(), Posted({}), working(store)))
        await asyncio.sleep(0)
        first.cancel()

    assert (await second, await third) == ("a bug", "200 made")


async def ended(call: Awaitable[str]) -> str:
    try:
        return await call
    except RuntimeError as fault:
        return str(fault)


async def test_one_who_stops_waiting_disturbs_neither_the_first_nor_the_others(store: Store) -> None:
    keys = Idempotency(store, CLOCK)
    begun, go_on = asyncio.Event(), asyncio.Event()
    work = working(store)

    async def slow(claim: IdempotencyClaim | None) -> str:
        begun.set()
        await go_on.wait()
        return await work(claim)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(keys.once(Caller(), Posted({}), slow))
        await begun.wait()
        impatient = group.create_task(keys.once(Caller(), Posted({}), work))
        patient = group.create_task(keys.once(Caller(), Posted({}), work))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        go_on.set()

    assert impatient.cancelled()
    assert (await first, await patient) == ("200 made", "200 made")


async def test_a_store_that_cannot_be_read_leaves_the_key_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Idempotency(store, CLOCK)

    async def broken(*_: object) -> None:
        raise StoreUnavailableError("the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "claimed_key", broken)
        with pytest.raises(StoreUnavailableError):
            await keys.once(Caller(), Posted({}), working(store))

    assert await keys.once(Caller(), Posted({}), working(store)) == "200 made"


async def test_a_request_that_is_still_open_in_the_store_is_a_conflict_to_be_retried(store: Store) -> None:
    claim = IdempotencyClaim("k", digest(Caller().route, {}))
    await store.place_hold(request("req_1", claim))

    with pytest.raises(IdempotencyConflictError) as raised:
        await Idempotency(store, CLOCK).once(Caller(), Posted({}), working(store))

    assert raised.value.should_retry is True
    assert raised.value.retry_after_seconds
    await store.settle("req_1", RELEASE, CLOCK.now_ms())
    assert await Idempotency(store, CLOCK).once(Caller(), Posted({}), working(store)) == "200 made"


async def test_keys_of_different_accounts_do_not_wait_for_one_another(store: Store) -> None:
    keys = Idempotency(store, CLOCK)
    both = asyncio.Barrier(2)

    async def together(_claim: IdempotencyClaim | None) -> str:
        await both.wait()
        return "done"

    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(keys.once(Caller(account_id=account), Posted({}), together) for account in (3, 4)))

    assert answers == ["done", "done"]


@pytest.mark.parametrize(
    ("status", "is_kept"),
    [
        (200, True),
        (201, True),
        (400, True),
        (404, True),
        (402, False),
        (408, False),
        (409, False),
        (429, False),
        (500, False),
        (503, False),
    ],
)
def test_what_is_final_is_kept_and_what_invites_a_retry_is_not(status: int, is_kept: bool) -> None:
    claim = IdempotencyClaim("k", b"")

    assert kept(claim, status, b"{}") == (StoredAnswer(status, b"{}") if is_kept else None)
    assert kept(None, status, b"{}") is None


def test_an_answer_is_kept_up_to_a_size() -> None:
    claim = IdempotencyClaim("k", b"")

    assert kept(claim, 200, b" " * KEPT_BYTES_MAX) is not None
    assert kept(claim, 200, b" " * (KEPT_BYTES_MAX + 1)) is None
